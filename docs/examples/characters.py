"""
A model of the characters of a text, trained from nothing by JAX and by PyTorch.

The text comes with Python: the help of its language, 700 000 characters. ::

    pip install attnfn torch jax optax
    python docs/examples/characters.py jax
"""

import argparse
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from loading import to_library
from training import FIT, cross_entropy

import attnfn as af

LENGTH, BATCH, MODEL_DIM, NUM_HEADS, NUM_LAYERS = 64, 32, 64, 4, 2
DROPOUT_RATE, LEARNING_RATE, NUM_STEPS = 0.05, 3e-3, 400


class Characters(NamedTuple):
    """The parameters of the model, arrays of any library."""

    letters: af.EmbeddingParams  # one row per character: going in, and coming out
    layers: tuple[af.DecoderBlockParams, ...]
    norm: af.NormParams


class Batch(NamedTuple):
    """Pieces of text, and what to keep of each block."""

    tokens: Any  # (batch, length + 1)
    dropout_masks: tuple[af.DecoderDropoutMasks, ...] = ()


def init(rng, num_letters):
    """Draw the parameters."""
    return Characters(
        letters=af.init_embedding(
            MODEL_DIM, rng=rng, num_tokens=num_letters, max_length=LENGTH
        ),
        layers=tuple(
            af.init_decoder_block(MODEL_DIM, NUM_HEADS, rng=rng) for _ in range(NUM_LAYERS)
        ),
        norm=af.init_norm(MODEL_DIM),
    )


def logits(params, tokens, dropout_masks=(), *, checkpoint=lambda block: block):
    """Return what may follow each of the tokens (batch, length)."""
    x = af.embedding(params.letters, tokens)
    for layer, masks in itertools.zip_longest(params.layers, dropout_masks):
        options = {"dropout_masks": masks, "dropout_rate": DROPOUT_RATE} if masks else {}
        block = functools.partial(
            af.decoder_block, is_pre_norm=True, activation="gelu", **options
        )
        x = checkpoint(block)(layer, x)
    return af.layer_norm(params.norm, x) @ params.letters.tokens.T


def loss(params, batch, *, checkpoint=lambda block: block):
    """Return how surprising each next character is, in nats, as a mean."""
    seen, following = batch.tokens[:, :-1], batch.tokens[:, 1:]
    scores = logits(params, seen, batch.dropout_masks, checkpoint=checkpoint)
    each = cross_entropy(scores, following)
    return array_namespace(each).mean(each)


def load_text():
    """Return the tokens of a text to learn from and of one held out, and the characters."""
    from pydoc_data.topics import topics

    pages = [topics[name] for name in sorted(topics)]
    letters, tokens = np.unique(list("".join(pages)), return_inverse=True)
    ends = np.cumsum([len(page) for page in pages])[:-1]
    parts = np.split(tokens, ends)
    held_out = parts[::10]
    learned = [part for i, part in enumerate(parts) if i % 10]
    return np.concatenate(learned), np.concatenate(held_out), "".join(letters)


def draw_batches(rng, text):
    """Yield pieces of the text without end, and what is kept of each block."""
    shape = BATCH, LENGTH, MODEL_DIM
    while True:
        starts = rng.integers(len(text) - LENGTH, size=(BATCH, 1))
        keep = lambda: rng.random(shape) >= DROPOUT_RATE  # noqa: E731
        masks = tuple(
            af.DecoderDropoutMasks(self_attention=keep(), feed_forward=keep())
            for _ in range(NUM_LAYERS)
        )
        yield Batch(text[starts + np.arange(LENGTH + 1)], masks)


def bigram_entropy(text):
    """Return how surprising `text` is to the best model of pairs of characters, in nats."""
    num_letters = int(text.max()) + 1
    pairs = np.zeros((num_letters, num_letters))
    np.add.at(pairs, (text[:-1], text[1:]), 1)
    shares = pairs / np.maximum(1, pairs.sum(axis=1, keepdims=True))
    return -(pairs * np.log(np.where(pairs > 0, shares, 1))).sum() / pairs.sum()


def held_out_loss(params, text):
    """Return the loss on all of a text, cut into pieces."""
    xp = array_namespace(params.norm.weight)
    count = (len(text) - 1) // LENGTH
    pieces = text[np.arange(count)[:, None] * LENGTH + np.arange(LENGTH + 1)]
    return float(loss(params, Batch(xp.asarray(pieces))))


def write(rng, params, letters, num_letters=200):
    """Draw a text, a character at a time."""
    params = to_library(params, np.asarray)
    tokens = [letters.index("\n")]
    for _ in range(num_letters):
        scores = logits(params, np.asarray(tokens[-LENGTH:]))[-1]
        chances = np.exp(np.float64(scores - scores.max()))
        tokens.append(rng.choice(len(letters), p=chances / chances.sum()))
    return "".join(letters[token] for token in tokens[1:])


def train(name, *, num_steps=NUM_STEPS, is_checkpointed=False):
    """Yield the loss of each step and the parameters after it."""
    rng = np.random.default_rng(0)
    learned, _, letters = load_text()
    params = init(rng, len(letters))
    batches = itertools.islice(draw_batches(rng, learned), num_steps)
    options = {"learning_rate": LEARNING_RATE, "is_checkpointed": is_checkpointed}
    return FIT[name](loss, params, batches, **options)


def main(arguments=None):
    """Learn from a text; say how well it does on another, and write a third."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("library", nargs="?", choices=list(FIT), default="jax")
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="remember what goes into each block, and compute it again for the gradients",
    )
    options = parser.parse_args(arguments)

    _, held_out, letters = load_text()
    steps = train(options.library, is_checkpointed=options.checkpoint)
    for i, step in enumerate(steps, start=1):
        value, params = step
        if i % 50 == 0:
            print(f"step {i}: {float(value):.3f} nats a character")
    print(f"held out: {held_out_loss(params, held_out):.3f}")
    print(f"a model of pairs, at best: {bigram_entropy(held_out):.3f}")
    print(write(np.random.default_rng(0), params, letters))


if __name__ == "__main__":
    main()
