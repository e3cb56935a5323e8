"""
Make the data of `python -m attnfn`: query, key and value of one layer for one sentence.

It needs what `minilm.py`, beside it, needs, and writes `attnfn/_demo/minilm.npz`::

    python docs/examples/make_demo_data.py
"""

import functools
from pathlib import Path

import numpy as np
from loading import to_library
from minilm import hidden_states, load_params, load_tokenizer, model_directory

import attnfn as af

SENTENCE = "The bank of the river was flooded."

#: The first layer: its heads can be told apart by eye. Head 2 looks one token back, heads 4 and
#: 10 tie "bank" to "river", head 1 ties "river" to "flooded". Further up, most look at [CLS].
LAYER = 0

TARGET = Path(__file__).parents[2] / "attnfn" / "_demo" / "minilm.npz"


def demo_data():
    """Return the arrays by name, computed in float64 so that the BLAS does not show in them."""
    directory = model_directory()
    encoding = load_tokenizer(directory).encode(SENTENCE)
    params = to_library(load_params(directory), functools.partial(np.asarray, dtype="float64"))

    x = hidden_states(params, np.asarray([encoding.ids]))[LAYER][0]
    heads = params.layers[LAYER].attention
    return {
        "query": np.float32(af.project_heads(x, heads.w_q, heads.b_q)),
        "key": np.float32(af.project_heads(x, heads.w_k, heads.b_k)),
        "value": np.float32(af.project_heads(x, heads.w_v, heads.b_v)),
        "tokens": np.asarray(encoding.tokens),
        "sentence": np.asarray(SENTENCE),
        "layer": np.asarray(LAYER),
        "num_layers": np.asarray(len(params.layers)),
    }


if __name__ == "__main__":
    np.savez_compressed(TARGET, **demo_data())
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")
