"""What a heat map shows: read back from Matplotlib's own objects."""

import importlib
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from support import asarray, normal

import attnfn as af
from attnfn.plot import attention_heat_map

mpl.use("agg")

WEIGHTS = np.asarray([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])


@pytest.fixture
def ax():
    """Axes that belong to no window and to no other test."""
    return Figure(layout="constrained").subplots()


def texts(labels):
    return [label.get_text() for label in labels]


class TestAttentionHeatMap:
    def test_shows_the_weights_of_any_library(self, xp, ax):
        weights = af.attention_weights(normal(xp, 1, 4, 8), normal(xp, 1, 6, 8, seed=1))[0, ...]

        attention_heat_map(weights, ax=ax)

        (image,) = ax.images
        expected = np.asarray([[float(weights[i, j]) for j in range(6)] for i in range(4)])
        np.testing.assert_array_equal(image.get_array(), expected)

    @pytest.mark.libraries("torch", "jax", reason="the others have no bfloat16")
    def test_shows_halves(self, xp, ax):
        attention_heat_map(asarray(xp, WEIGHTS, "bfloat16"), ax=ax)

        np.testing.assert_array_equal(ax.images[0].get_array(), WEIGHTS)

    @pytest.mark.libraries("torch", reason="the others have no graph that hangs on an array")
    def test_shows_what_is_part_of_a_graph(self, xp, ax):
        weights = asarray(xp, WEIGHTS).requires_grad_()

        attention_heat_map(weights, ax=ax)

        np.testing.assert_array_equal(ax.images[0].get_array(), WEIGHTS)

    def test_rows_are_queries_from_the_top_and_columns_keys(self, ax):
        attention_heat_map(WEIGHTS, q_tokens=["a", "b"], kv_tokens=["x", "y", "z"], ax=ax)

        assert texts(ax.get_yticklabels()) == ["a", "b"]
        assert texts(ax.get_xticklabels()) == ["x", "y", "z"]
        top, bottom = ax.yaxis.get_majorticklocs()
        assert ax.transData.transform((0, top))[1] > ax.transData.transform((0, bottom))[1]
        assert "query" in ax.get_ylabel()
        assert "key" in ax.get_xlabel()

    def test_without_tokens_some_positions_are_numbered(self, ax):
        attention_heat_map(np.eye(30), ax=ax)

        assert texts(ax.get_xticklabels())[:3] == ["0", "3", "6"]
        assert texts(ax.get_yticklabels())[-1] == "27"

    def test_one_cell_has_one_number(self, ax):
        attention_heat_map(np.ones((1, 1)), ax=ax)

        assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == ["0"]

    def test_colours_run_from_zero_to_the_greatest_weight(self, ax):
        attention_heat_map(0.5 * WEIGHTS, ax=ax)

        assert ax.images[0].get_clim() == (0.0, 0.5)

    def test_weights_of_zero_have_the_colour_of_zero(self, ax):
        attention_heat_map(np.zeros((2, 2)), ax=ax)

        assert ax.images[0].get_clim() == (0.0, 1.0)

    def test_a_nan_is_grey(self, ax):
        attention_heat_map(np.asarray([[np.nan, 1.0]]), ax=ax)

        (image,) = ax.images
        red, green, blue, _ = image.to_rgba(image.get_array())[0, 0]
        assert red == green == blue < 1
        assert image.get_clim() == (0.0, 1.0)

    def test_cells_are_square_and_the_colour_bar_says_what_it_is(self, ax):
        attention_heat_map(WEIGHTS, ax=ax)

        _, bar = ax.figure.axes
        assert ax.get_aspect() == 1.0
        assert bar.get_ylabel() == "weight"

    def test_dollars_in_tokens_are_letters(self, ax, tmp_path):
        tokens = ["$a_b$", "$\\frac$", "$"]

        attention_heat_map(np.eye(3), q_tokens=tokens, kv_tokens=tokens, ax=ax)
        ax.figure.savefig(tmp_path / "dollars.png")  # where mathematics would be parsed

        assert texts(ax.get_xticklabels()) == tokens

    def test_has_the_title_it_is_given(self, ax):
        attention_heat_map(WEIGHTS, title="head 4", ax=ax)

        assert ax.get_title() == "head 4"

    def test_returns_the_axes_it_is_given(self, ax):
        assert attention_heat_map(WEIGHTS, ax=ax) is ax

    def test_makes_a_figure_that_pyplot_knows_and_that_grows_with_the_tokens(self):
        from matplotlib import pyplot

        few = attention_heat_map(np.eye(4))
        many = attention_heat_map(np.eye(20))

        assert few.figure.number in pyplot.get_fignums()
        assert (many.figure.get_size_inches() > few.figure.get_size_inches()).all()
        pyplot.close(few.figure)
        pyplot.close(many.figure)

    def test_drawing_on_given_axes_chooses_no_backend(self):
        code = (
            "import sys; from matplotlib.figure import Figure;"
            "from attnfn.plot import attention_heat_map as draw;"
            "draw([[1.0]], ax=Figure().subplots()); print('matplotlib.pyplot' in sys.modules)"
        )

        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

        assert out.stdout.split() == [b"False"]


@pytest.mark.errors
class TestRefusals:
    @pytest.mark.parametrize("shape", [(2, 3, 3), (3,), (1, 2, 3, 3)])
    def test_other_than_two_axes(self, xp, shape):
        message = r"`weights` must have 2 axes, \(q_len, kv_len\); got shape .*weights\[0\]"

        with pytest.raises(ValueError, match=message) as raised:
            attention_heat_map(asarray(xp, np.zeros(shape)))

        assert str(shape) in str(raised.value)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
    def test_nothing_to_draw(self, shape):
        with pytest.raises(
            ValueError, match="`weights` must have a row and a column; got shape"
        ):
            attention_heat_map(np.zeros(shape))

    @pytest.mark.parametrize(
        ("name", "line", "right"), [("q_tokens", "row", 2), ("kv_tokens", "column", 3)]
    )
    @pytest.mark.parametrize("surplus", [-1, 1])
    def test_more_or_fewer_tokens_than_lines(self, name, line, right, surplus):
        tokens = ["token"] * (right + surplus)
        message = (
            f"`{name}` must have one token per {line} of `weights`, {right}; "
            f"got {right + surplus}."
        )

        with pytest.raises(ValueError, match=message):
            attention_heat_map(WEIGHTS, **{name: tokens})

    def test_without_matplotlib_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "attnfn.plot")

        with pytest.raises(
            ImportError, match=r'needs Matplotlib: pip install "attnfn\[plot\]"'
        ):
            importlib.import_module("attnfn.plot")
