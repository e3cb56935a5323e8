"""Networks trained from nothing: `docs/examples/characters.py` and `series.py`, on two libraries."""

import numpy as np
import pytest
from examples import example

pytestmark = pytest.mark.models

by_library = pytest.mark.parametrize("name", ["jax", "torch"])


@pytest.fixture(scope="module")
def characters():
    return example("characters")


@pytest.fixture(scope="module")
def series():
    return example("series")


def losses(steps):
    return [float(value) for value, _ in steps]


class TestCharacters:
    @by_library
    def test_learns_more_than_pairs_of_characters(self, characters, name, report):
        _, held_out, letters = characters.load_text()

        *_, (value, params) = characters.train(name)

        reached, pairs = (
            characters.held_out_loss(params, held_out),
            characters.bigram_entropy(held_out),
        )
        assert reached < pairs < np.log(len(letters))
        report(
            f"Characters, {name}: {reached:.3f} nats a character held out, {pairs:.3f} for pairs "
            f"at best; the last batch {float(value):.3f}"
        )

    def test_the_libraries_and_checkpoints_go_the_same_way(self, characters):
        first, *others = (
            losses(characters.train(name, num_steps=4, is_checkpointed=is_checkpointed))
            for name in ("jax", "torch")
            for is_checkpointed in (False, True)
        )

        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-4)
        assert len(set(first)) == 4

    def test_the_entropy_of_pairs_is_that_of_the_definition(self, characters):
        # After a 0 comes a 1 or a 2, one time each; after a 1 or a 2 always a 0.
        text = np.asarray([0, 1, 0, 2, 0])

        assert np.isclose(characters.bigram_entropy(text), 0.5 * np.log(2))

    def test_writes(self, characters):
        rng = np.random.default_rng(0)
        _, _, letters = characters.load_text()

        text = characters.write(rng, characters.init(rng, len(letters)), letters, 5)

        assert len(text) == 5
        assert set(text) <= set(letters)


class TestSeries:
    @by_library
    def test_learns_more_than_a_linear_model_on_the_mean(self, series, name, report):
        rng = np.random.default_rng(1)
        learned, held_out = series.draw_series(rng, 2000), series.draw_series(rng, 1000)

        *_, (value, params) = series.train(name)

        scores = series.logits(series.to_library(params, np.asarray), held_out)
        reached = series.accuracy(scores, held_out)
        linear = series.linear_accuracy(learned, held_out)
        assert reached > 0.8 > linear
        report(
            f"Series, {name}: {reached:.1%} right held out, {linear:.1%} by a linear model on the "
            f"mean; the last batch {float(value):.3f} nats"
        )

    def test_padding_changes_nothing(self, series):
        rng = np.random.default_rng(2)
        params, batch = series.init(rng), series.draw_series(rng, 8)
        is_padding = np.arange(series.LENGTH) >= batch.lengths[:, None]
        other = batch._replace(values=np.where(is_padding, np.float32(-7.0), batch.values))

        assert is_padding.any()
        np.testing.assert_array_equal(
            series.logits(params, batch), series.logits(params, other)
        )
