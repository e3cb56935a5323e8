"""
Draw what one head of MiniLM looks at in two sentences about a bank: `bank.png`.

It needs what `minilm.py`, beside it, needs, and Matplotlib::

    python docs/examples/bank.py
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from minilm import SENTENCES, hidden_states, load_params, load_tokenizer, model_directory

import attnfn as af
from attnfn.plot import attention_heat_map

#: The first layer: a later one looks at words that have heard of each other before.
LAYER, HEAD = 0, 10


def look(sentence):
    """Return the tokens of a sentence, and the weights (length, length) of the head."""
    directory = model_directory()
    params, encoding = load_params(directory), load_tokenizer(directory).encode(sentence)
    x = hidden_states(params, np.asarray([encoding.ids]))[LAYER]
    weights = af.multi_head_attention_weights(params.layers[LAYER].attention, x)
    return encoding.tokens, weights[0, HEAD]


def draw():
    """Draw the weights of a river's bank beside those of a city's."""
    figure = Figure(figsize=(10.4, 4.8), layout="constrained")
    for ax, sentence in zip(figure.subplots(1, 2), (SENTENCES[0], SENTENCES[2]), strict=True):
        tokens, weights = look(sentence)
        attention_heat_map(weights, q_tokens=tokens, kv_tokens=tokens, title=sentence, ax=ax)
    return figure


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
    draw().savefig(target, dpi=90, metadata={"Software": None})
