"""What the pictures show: read back from Matplotlib's own objects."""

import importlib
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from support import asarray, normal

import attnfn as af
from attnfn.plot import (
    attention_flow,
    attention_head_grid,
    attention_heat_map,
    mask_picture,
)

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

    def test_of_many_tokens_shows_those_that_can_be_read(self, ax):
        tokens = [f"token {i}" for i in range(500)]

        attention_heat_map(np.eye(500), q_tokens=tokens, kv_tokens=tokens, ax=ax)

        shown = texts(ax.get_yticklabels())
        assert shown[0] == "token 0"
        assert 20 < len(shown) < 100
        assert shown == tokens[:: int(ax.get_yticks()[1])]
        assert min(label.get_fontsize() for label in ax.get_yticklabels()) >= 6

    def test_a_line_break_in_a_token_is_written_out(self, ax):
        attention_heat_map(np.eye(2), q_tokens=["a\n", "\t"], ax=ax)

        assert texts(ax.get_yticklabels()) == ["a\\n", "\\t"]

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


class TestAttentionHeadGrid:
    @pytest.fixture
    def figure(self):
        return Figure(layout="constrained")

    def test_shows_every_head_on_one_scale(self, xp, figure):
        weights = af.attention_weights(normal(xp, 5, 4, 8), normal(xp, 5, 4, 8, seed=1))

        attention_head_grid(weights, num_columns=3, figure=figure)

        panels = [ax for ax in figure.axes if ax.images]
        assert len(panels) == 5
        for head, ax in enumerate(panels):
            expected = [[float(weights[head, i, j]) for j in range(4)] for i in range(4)]
            np.testing.assert_array_equal(ax.images[0].get_array(), expected)
            assert ax.get_xlabel() == f"head {head}"
        assert len({ax.images[0].get_clim() for ax in panels}) == 1

    def test_names_tokens_at_the_edges_alone(self, figure):
        attention_head_grid(
            np.ones((4, 2, 2)), q_tokens="ab", kv_tokens="xy", num_columns=2, figure=figure
        )

        named = [
            [
                any(x.label2.get_visible() for x in ax.xaxis.majorTicks),
                ax.yaxis.majorTicks[0].label1.get_visible(),
            ]
            for ax in figure.axes[:4]
        ]
        assert named == [[True, True], [True, False], [False, True], [False, False]]

    def test_has_the_titles_it_is_given(self, figure):
        attention_head_grid(
            np.ones((2, 2, 2)), head_titles=["a", "b"], title="all", figure=figure
        )

        assert [ax.get_xlabel() for ax in figure.axes[:2]] == ["a", "b"]
        assert figure.get_suptitle() == "all"

    @pytest.mark.parametrize("num_heads, columns", [(1, 1), (3, 3), (12, 4), (32, 8)])
    def test_of_many_heads_is_wider(self, figure, num_heads, columns):
        attention_head_grid(np.ones((num_heads, 2, 2)), figure=figure)

        assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns

    def test_makes_a_figure_that_pyplot_knows(self):
        from matplotlib import pyplot

        figure = attention_head_grid(np.ones((3, 200, 200)))

        assert figure.number in pyplot.get_fignums()
        assert max(figure.get_size_inches()) < 20
        pyplot.close(figure)


class TestMaskPicture:
    def test_shows_the_mask_of_any_library(self, xp, ax):
        mask = af.sliding_window_mask(3, 4, q_offset=1, window_size=(1, 0), xp=xp)

        mask_picture(mask, q_tokens="abc", kv_tokens="wxyz", title="window", ax=ax)

        expected = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
        assert texts(ax.get_yticklabels()) == ["a", "b", "c"]
        assert texts(ax.get_xticklabels()) == ["w", "x", "y", "z"]
        assert ax.get_title() == "window"

    @pytest.mark.parametrize("value", [True, False])
    def test_one_answer_everywhere_has_its_own_colour(self, ax, value):
        mask_picture(np.full((2, 2), value), ax=ax)

        (image,) = ax.images
        shown = image.to_rgba(image.get_array())[0, 0]
        handles = dict(
            zip(["may attend", "hidden"], ax.get_legend().legend_handles, strict=True)
        )
        assert tuple(shown) == pytest.approx(
            handles["may attend" if value else "hidden"].get_facecolor()
        )


class TestAttentionFlow:
    LAYERS = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 2, 5))

    def dots(self, ax):
        """Return the sizes of the dots at each layer and token."""
        sizes = np.zeros((4, 5))
        for dots in ax.collections[1:]:
            layer, token = dots.get_offsets().astype(int).T
            sizes[layer, token] = dots.get_sizes() * np.ones(len(layer))
        return sizes

    @pytest.mark.parametrize("position", [1, -1])
    def test_the_dots_at_the_input_are_the_rollout(self, xp, ax, position):
        attention_flow(asarray(xp, self.LAYERS), position=position, ax=ax)

        sizes = self.dots(ax)
        expected = af.attention_rollout(self.LAYERS)[position]
        np.testing.assert_allclose(sizes[0] / sizes[0].sum(), expected)
        assert sizes[-1].argmax() == position % 5

    def test_the_dots_of_each_layer_are_what_it_takes_from_the_one_before(self, ax):
        attention_flow(list(self.LAYERS), position=2, ax=ax)

        sizes = self.dots(ax)
        expected = af.attention_rollout(self.LAYERS[1:])[2]
        np.testing.assert_allclose(sizes[1] / sizes[1].sum(), expected)

    def test_names_inputs_the_state_and_the_greater_shares(self, ax):
        weights = np.asarray([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])

        attention_flow([weights, weights], tokens=["a", "$b$", "c"], position=1, ax=ax)

        assert texts(ax.get_yticklabels()) == ["a", "$b$", "c"]
        assert texts(ax.texts) == ["75%", "25%", "$b$"]
        assert texts(ax.get_xticklabels()) == ["input", "1", "2"]

    def test_without_tokens_numbers_them(self, ax):
        attention_flow([np.ones((1, 3, 3))], ax=ax)

        assert texts(ax.texts)[-1] == "2"

    def test_makes_a_figure_that_pyplot_knows(self):
        from matplotlib import pyplot

        ax = attention_flow([np.ones((1, 2, 2))] * 2, title="flow")

        assert ax.figure.number in pyplot.get_fignums()
        assert ax.get_title() == "flow"
        pyplot.close(ax.figure)


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

    @pytest.mark.parametrize(
        "draw, words",
        [
            (
                lambda: attention_head_grid(np.ones((2, 2))),
                r"`weights` must have 3 axes, .*got shape \(2, 2\)",
            ),
            (
                lambda: attention_head_grid(np.ones((0, 2, 2))),
                r"`weights` must have a head, a row and a column",
            ),
            (
                lambda: attention_head_grid(np.ones((2, 2, 2)), num_columns=0),
                "`num_columns` must be 1 or more; got 0",
            ),
            (
                lambda: attention_head_grid(np.ones((2, 2, 2)), head_titles=["a"]),
                "`head_titles` must have one token per head",
            ),
            (
                lambda: mask_picture(np.ones((1, 2, 2), dtype=bool)),
                r"`mask` must have 2 axes.*mask\[0, 0\]",
            ),
            (
                lambda: mask_picture(np.ones((0, 2), dtype=bool)),
                "`mask` must have a row and a column",
            ),
            (
                lambda: mask_picture(np.ones((2, 2), dtype=bool), q_tokens="a"),
                "one token per row of `mask`, 2; got 1",
            ),
            (
                lambda: attention_flow(np.ones((1, 2, 3, 3)), position=3),
                "`position` must be one of the 3 positions; got 3",
            ),
            (
                lambda: attention_flow([np.ones((2, 2, 3, 3))]),
                r"must have 3 axes at most, \(num_heads, length, length\)",
            ),
            (
                lambda: attention_flow([np.ones((1, 3, 3))], tokens="ab"),
                "one token per position of `weights`, 3; got 2",
            ),
            (lambda: attention_flow([]), "`weights` must hold one layer or more"),
        ],
        ids=range(11),
    )
    def test_other_shapes_and_counts(self, draw, words):
        with pytest.raises(ValueError, match=words):
            draw()

    def test_weights_for_a_mask(self):
        with pytest.raises(TypeError, match="`mask` must have a bool dtype"):
            mask_picture(WEIGHTS)

    def test_without_matplotlib_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "attnfn.plot")

        with pytest.raises(
            ImportError, match=r'needs Matplotlib: pip install "attnfn\[plot\]"'
        ):
            importlib.import_module("attnfn.plot")
