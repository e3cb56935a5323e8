"""
A classifier of time series of any length, trained from nothing by JAX and by PyTorch.

A series is a sine, a square or a saw, with a phase, a frequency and noise of its own. Its mean
says little about which. ::

    pip install attnfn torch jax optax
    python docs/examples/series.py torch
"""

import argparse
import itertools
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from loading import to_library
from training import FIT, cross_entropy

import attnfn as af

KINDS = ("sine", "square", "saw")
LENGTH, BATCH, MODEL_DIM, NUM_HEADS, NUM_LAYERS = 48, 64, 32, 4, 2
PADDING = 1e3
DROPOUT_RATE, LEARNING_RATE, NUM_STEPS = 0.05, 2e-3, 150


class Series(NamedTuple):
    """The parameters of the model, arrays of any library."""

    w_in: Any  # (1, model_dim): from a number to features
    positions: Any  # (length, model_dim)
    layers: tuple[af.EncoderBlockParams, ...]
    head: af.ClassifierParams


class Batch(NamedTuple):
    """Series of different lengths, padded, their kinds, and what to keep of each block."""

    values: Any  # (batch, length)
    lengths: Any  # (batch,)
    kinds: Any  # (batch,)
    dropout_masks: tuple[af.EncoderDropoutMasks, ...] = ()


def init(rng):
    """Draw the parameters."""
    return Series(
        w_in=np.float32(rng.normal(size=(1, MODEL_DIM))),
        positions=af.init_embedding(MODEL_DIM, rng=rng, max_length=LENGTH).positions,
        layers=tuple(
            af.init_encoder_block(MODEL_DIM, NUM_HEADS, rng=rng, has_bias=True)
            for _ in range(NUM_LAYERS)
        ),
        head=af.init_classifier(MODEL_DIM, len(KINDS), rng=rng),
    )


def logits(params, batch):
    """Return how much speaks for each kind, (batch, 3)."""
    mask = af.padding_mask(batch.lengths, LENGTH)
    x = batch.values[..., None] @ params.w_in + params.positions
    for layer, masks in itertools.zip_longest(params.layers, batch.dropout_masks):
        options = {"dropout_masks": masks, "dropout_rate": DROPOUT_RATE} if masks else {}
        x = af.encoder_block(layer, x, mask=mask, activation="gelu", **options)
    return af.classifier(params.head, af.mean_pool(x, mask))


def loss(params, batch):
    """Return how surprising the kinds are, in nats, as a mean."""
    each = cross_entropy(logits(params, batch), batch.kinds)
    return array_namespace(each).mean(each)


def draw_series(rng, count):
    """Draw waves, and what is to be seen of none of them: padding of a great number."""
    kinds = rng.integers(len(KINDS), size=count)
    lengths = rng.integers(LENGTH // 2, LENGTH + 1, size=count)
    steps = np.arange(LENGTH)
    turns = rng.uniform(0.05, 0.15, (count, 1)) * steps + rng.random((count, 1))
    waves = [np.sin(2 * np.pi * turns), np.sign(turns % 1 - 0.5), 2 * (turns % 1) - 1]
    values = np.choose(kinds[:, None], waves) + rng.normal(0, 0.3, turns.shape)
    values = np.where(steps < lengths[:, None], values, PADDING)
    return Batch(np.float32(values), lengths, kinds)


def draw_batches(rng):
    """Yield series without end, and what is kept of each block."""
    shape = BATCH, LENGTH, MODEL_DIM
    while True:
        masks = tuple(
            af.EncoderDropoutMasks(
                attention=rng.random(shape) >= DROPOUT_RATE,
                feed_forward=rng.random(shape) >= DROPOUT_RATE,
            )
            for _ in range(NUM_LAYERS)
        )
        yield draw_series(rng, BATCH)._replace(dropout_masks=masks)


def accuracy(scores, batch):
    """Return the share of the series whose kind has the highest score."""
    return float(np.mean(np.argmax(np.asarray(scores), axis=-1) == np.asarray(batch.kinds)))


def linear_accuracy(learned, held_out):
    """Return the accuracy of a linear model on the mean of each series, by least squares."""

    def features(batch):
        is_value = np.arange(LENGTH) < batch.lengths[:, None]
        mean = np.sum(batch.values * is_value, axis=-1) / batch.lengths
        return np.stack([np.ones_like(mean), mean], axis=-1)

    weights, *_ = np.linalg.lstsq(features(learned), np.eye(len(KINDS))[learned.kinds])
    return accuracy(features(held_out) @ weights, held_out)


def train(name, *, num_steps=NUM_STEPS):
    """Yield the loss of each step and the parameters after it."""
    rng = np.random.default_rng(0)
    params = init(rng)
    batches = itertools.islice(draw_batches(rng), num_steps)
    return FIT[name](loss, params, batches, learning_rate=LEARNING_RATE)


def main(arguments=None):
    """Learn to tell waves apart; say how often it is right, and how often a linear model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("library", nargs="?", choices=list(FIT), default="torch")
    options = parser.parse_args(arguments)

    for i, step in enumerate(train(options.library), start=1):
        value, params = step
        if i % 50 == 0:
            print(f"step {i}: {float(value):.3f} nats a series")
    rng = np.random.default_rng(1)
    learned, held_out = draw_series(rng, 2000), draw_series(rng, 500)
    scores = logits(to_library(params, np.asarray), held_out)
    print(f"held out: {accuracy(scores, held_out):.1%} right")
    print(f"a linear model on the mean: {linear_accuracy(learned, held_out):.1%}")


if __name__ == "__main__":
    main()
