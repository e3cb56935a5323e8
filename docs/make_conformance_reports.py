"""Writes docs/conformance.md: what implementations do, as `check_attention` finds it.

``python docs/make_conformance_reports.py`` asks each in a process of its own and takes some
minutes; with names it asks those alone, and prints what it finds.
"""

import functools
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from attnfn import testing

PAGE = Path(__file__).parent / "conformance.md"
REPORTS = Path(__file__).parent / "conformance_reports.md"


class Implementation(NamedTuple):
    """One implementation: the dialect that says what it does, and how it is called."""

    title: str
    dialect: str
    library: str
    package: str
    subject: Callable[[], testing.Subject]
    dtypes: tuple[str, ...] = ("float32", "float16")
    environment: tuple[tuple[str, str], ...] = ()


def sdpa(backend=None):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    function = torch.nn.functional.scaled_dot_product_attention
    if backend is None:
        return testing.torch_like(function)

    def with_backend(*arrays, **options):
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return function(*arrays, **options)

    subject = testing.torch_like(with_backend)
    return subject._replace(options=testing.torch_like(function).options)


def flex():
    from torch.nn.attention.flex_attention import flex_attention

    return testing.flex_like(flex_attention)


def multi_head(**options):
    import torch

    return testing.torch_multi_head_like(torch.nn.MultiheadAttention, **options)


def jax_nn():
    import jax

    return testing.jax_like(jax.nn.dot_product_attention)


def flax():
    import flax.nnx

    return testing.flax_like(flax.nnx.dot_product_attention)


def equinox():
    import equinox

    return testing.equinox_like(equinox.nn.MultiheadAttention)


def keras():
    import keras

    return testing.keras_like(keras.ops.dot_product_attention)


def mlx():
    from mlx.core import fast

    return testing.mlx_like(fast.scaled_dot_product_attention)


def onnx(opset):
    return testing.onnx_like(testing.onnx_operator(opset=opset))


def onnxruntime(opset):
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)

    def run(model, inputs):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run(["Y"], inputs)

    return testing.onnx_like(testing.onnx_operator(opset=opset, run=run))


def eager(model, **options):
    module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
    return testing.hf_eager_like(module.eager_attention_forward, **options)


def x_transformers():
    from x_transformers.attend import Attend

    return testing.x_transformers_like(Attend)


def in_keras(backend, library):
    return Implementation(
        f"keras.ops.dot_product_attention on {backend}",
        "keras_ops",
        library,
        "keras",
        keras,
        environment=(("KERAS_BACKEND", backend),),
    )


#: By a short name.
IMPLEMENTATIONS = {
    "sdpa": Implementation(
        "torch scaled_dot_product_attention", "torch_sdpa", "torch", "torch", sdpa
    ),
    "sdpa-math": Implementation(
        "torch scaled_dot_product_attention, backend MATH",
        "torch_sdpa",
        "torch",
        "torch",
        functools.partial(sdpa, "MATH"),
    ),
    "sdpa-flash": Implementation(
        "torch scaled_dot_product_attention, backend FLASH_ATTENTION",
        "torch_sdpa",
        "torch",
        "torch",
        functools.partial(sdpa, "FLASH_ATTENTION"),
    ),
    "flex": Implementation("torch flex_attention", "flex_attention", "torch", "torch", flex),
    "multi-head": Implementation(
        "torch nn.MultiheadAttention",
        "torch_multi_head_attention",
        "torch",
        "torch",
        multi_head,
    ),
    "multi-head-weights": Implementation(
        "torch nn.MultiheadAttention, need_weights=True",
        "torch_multi_head_attention_weights",
        "torch",
        "torch",
        functools.partial(multi_head, need_weights=True),
    ),
    "jax": Implementation("jax.nn.dot_product_attention", "jax_nn", "jax", "jax", jax_nn),
    "flax": Implementation("flax.nnx.dot_product_attention", "flax_nnx", "jax", "flax", flax),
    "equinox": Implementation(
        "equinox.nn.MultiheadAttention", "equinox", "jax", "equinox", equinox
    ),
    "keras-numpy": in_keras("numpy", "numpy"),
    "keras-jax": in_keras("jax", "jax"),
    "keras-torch": in_keras("torch", "torch"),
    "mlx": Implementation("mlx fast.scaled_dot_product_attention", "mlx", "mlx", "mlx", mlx),
    "onnx": Implementation(
        "ONNX Attention, opset 24, reference evaluator",
        "onnx_24",
        "numpy",
        "onnx",
        functools.partial(onnx, 24),
    ),
    "onnxruntime": Implementation(
        "ONNX Attention, opset 24, onnxruntime",
        "onnx_24",
        "numpy",
        "onnxruntime",
        functools.partial(onnxruntime, 24),
    ),
    "bert": Implementation(
        "transformers, eager attention of BERT",
        "hf_eager_bert",
        "torch",
        "transformers",
        functools.partial(eager, "bert"),
    ),
    "gemma2": Implementation(
        "transformers, eager attention of Gemma 2",
        "hf_eager_gemma2",
        "torch",
        "transformers",
        functools.partial(eager, "gemma2"),
    ),
    "gpt-oss": Implementation(
        "transformers, eager attention of gpt-oss",
        "hf_eager_gpt_oss",
        "torch",
        "transformers",
        functools.partial(eager, "gpt_oss", has_sinks=True),
    ),
    "x-transformers": Implementation(
        "x-transformers Attend", "x_transformers", "torch", "x-transformers", x_transformers
    ),
}

#: The columns of a table.
GROUPS = (
    ("sdpa", "sdpa-math", "sdpa-flash", "flex", "multi-head", "multi-head-weights"),
    ("jax", "flax", "equinox", "keras-numpy", "keras-jax", "keras-torch"),
    (
        "mlx",
        "onnx",
        "onnxruntime",
        "bert",
        "gemma2",
        "gpt-oss",
        "x-transformers",
    ),
)


def reports_of(name):
    """Return two reports of one: held to its own dialect, and in float32 to attnfn."""
    one = IMPLEMENTATIONS[name]
    subject = one.subject()._replace(name=one.title)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is not what is asked
        own = testing.check_attention(
            subject, dialect=one.dialect, library=one.library, dtypes=one.dtypes
        )
        ours = testing.check_attention(subject, library=one.library)
    return own, ours


def in_a_process_of_its_own(name):
    """Return the reports and the version of one, whose backend is chosen at its import."""
    one = IMPLEMENTATIONS[name]
    run = subprocess.run(
        [sys.executable, __file__, "--json", name],
        env={**os.environ, **dict(one.environment)},
        stdout=subprocess.PIPE,
        check=True,
    )
    own, ours = map(
        testing.ConformanceReport.from_dict, json.loads(run.stdout.splitlines()[-1])
    )
    return own, ours, importlib.metadata.version(one.package)


# ------------------------------------------------------- the table

#: right, right only by its own dialect, wrong, refused, absent
MARKS = {"right": "✓", "documented": "d", "wrong": "✗", "refused": "r", "absent": ""}


def mark(feature, own, ours):
    """Return what is to be said of a feature in a cell."""
    verdicts = {row.verdict for row in own.rows if row.feature == feature}
    by_us = {row.verdict for row in ours.rows if row.feature == feature}
    for verdict in ("wrong", "right", "refused", "absent"):
        if verdict in verdicts:
            is_ours = verdict != "right" or "wrong" not in by_us
            return MARKS[verdict] if is_ours else MARKS["documented"]
    return ""


def table_of(names, found):
    """Return the table of some implementations, with the features that any of them has."""
    features = list(dict.fromkeys(row.feature for name in names for row in found[name][0].rows))
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' :-: |' * len(names)}"]
    for feature in features:
        marks = [mark(feature, *found[name][:2]) for name in names]
        if any(marks):
            lines.append(f"| `{feature}` | {' | '.join(marks)} |")
    return "\n".join(lines)


def tables(found):
    """Return the three tables, and what their columns are."""
    parts = []
    for names in GROUPS:
        legend = [
            f"- **{name}**: {IMPLEMENTATIONS[name].title}, {IMPLEMENTATIONS[name].package} "
            f"{found[name][2]}, held to `{IMPLEMENTATIONS[name].dialect}`"
            for name in names
        ]
        parts += [table_of(names, found), "\n".join(legend)]
    return "\n\n".join(parts)


def all_reports(found):
    """Return the page of all reports, as they are printed."""
    parts = [INTRODUCTION]
    for own, *_ in found.values():
        lines = str(own).splitlines()
        shown = [line for line in lines if " absent " not in line]
        parts.append("\n".join([f"## {own.name}", "", "```text", *shown, "```"]))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# Conformance reports

What `check_attention` prints of each implementation, held to its own dialect; rows of what it
has no place for are left out. What it means, and a table of all, is on the page on
[conformance](conformance.md). Made by `docs/make_conformance_reports.py`."""


def between(name, text, new=None):
    """Return what stands between two marks of a page, or the page with it replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n\n)(.*?)(\n\n<!-- /{name} -->)", re.DOTALL)
    if new is None:
        return pattern.search(text)[2]
    return pattern.sub(lambda m: m[1] + new + m[3], text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--json"]:
        print(json.dumps([report.to_dict() for report in reports_of(sys.argv[2])]))
    else:
        start = time.perf_counter()
        found = {
            name: in_a_process_of_its_own(name) for name in sys.argv[1:] or IMPLEMENTATIONS
        }
        if sys.argv[1:]:
            print("\n\n".join(str(own) for own, *_ in found.values()))
        else:
            text = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(between("tables", text, tables(found)), encoding="utf-8")
            REPORTS.write_text(all_reports(found), encoding="utf-8")
        print(f"{time.perf_counter() - start:.0f} s")
