"""How Sphinx makes pages of this folder: offline, without a script or a font from elsewhere."""

import re
from importlib.metadata import version as version_of

import docutils.nodes
from latex2mathml.converter import convert

project = "attnfn"
author = "The attnfn authors"
project_copyright = "The attnfn authors"
release = version = version_of("attnfn")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build", "_templates", "examples"]
templates_path = ["_templates"]

autodoc_typehints = "none"  # the docstring says the shapes, in a form that can be read
autosummary_generate = True
numpydoc_show_class_members = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"attnfn {release}"
html_math_renderer = "mathml"
html_copy_source = False
# Lines of code have up to 96 characters; most of them are to be seen without scrolling.
html_theme_options = {"light_css_variables": {"code-font-size": "var(--font-size--small--3)"}}


def math_as(display):
    """Return a visitor that writes a formula as MathML, which browsers draw by themselves."""

    def visit(translator, node):
        translator.body.append(convert(node.astext(), display=display))
        raise docutils.nodes.SkipNode

    return visit


def escape_starred_axes(_app, _what, _name, _obj, _options, lines):
    """Keep the star of a shape, (*batch, length), from opening an emphasis."""
    literal = re.compile(r"(`[^`]+`)|\(\*(?=\w)")
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = literal.sub(lambda m: m[1] or r"(\*", line)


def setup(app):
    """Register what is ours."""
    app.add_html_math_renderer("mathml", (math_as("inline"), None), (math_as("block"), None))
    # Before numpydoc, which hears of the docstring at priority 500.
    app.connect("autodoc-process-docstring", escape_starred_axes, priority=400)
