"""
Draw the pictures of docs/pictures.md: `python docs/make_pictures.py`.

The weights are those of a real sentence, which comes with the package; the flow is that of
three layers that can be followed by hand.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import attnfn as af
from attnfn._demo import load_sentence
from attnfn.plot import attention_flow, attention_head_grid, attention_heat_map, mask_picture

PICTURES = Path(__file__).parent / "pictures"


def heat_map():
    """Draw the head of the demo that finds out what kind of bank is meant."""
    sentence = load_sentence()
    weights = af.attention_weights(sentence.query, sentence.key)[4]
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    attention_heat_map(
        weights,
        q_tokens=sentence.tokens,
        kv_tokens=sentence.tokens,
        title=f"layer {sentence.layer}, head 4",
        ax=figure.subplots(),
    )
    return figure


def heads():
    """Draw all heads of the same layer."""
    sentence = load_sentence()
    weights = af.attention_weights(sentence.query, sentence.key)
    entropy = np.mean(af.attention_entropy(weights), axis=-1)
    return attention_head_grid(
        weights,
        q_tokens=sentence.tokens,
        kv_tokens=sentence.tokens,
        head_titles=[f"head {i}: {np.exp(x):.1f} keys" for i, x in enumerate(entropy)],
        figure=Figure(figsize=(10.4, 8.2), layout="constrained"),
    )


def masks():
    """Draw one mask of each kind."""
    lengths = np.repeat([0, 1, 2], [4, 3, 5])
    kinds = {
        "causal": af.causal_mask(12),
        "a window of 4": af.sliding_window_mask(12, window_size=(3, 0)),
        "chunks of 4, causal": af.chunk_mask(12, chunk_len=4) & af.causal_mask(12),
        "a prefix of 5": af.prefix_mask(12, prefix_len=5),
        "packed, causal": af.segment_mask(lengths) & af.causal_mask(12),
        "8 of 12 are real": af.padding_mask(np.asarray(8), 12)[0, 0] & (np.ones((12, 1)) > 0),
    }
    figure = Figure(figsize=(9.0, 7.2), layout="constrained")
    for ax, (title, mask) in zip(figure.subplots(2, 3).flat, kinds.items(), strict=True):
        mask_picture(mask, title=title, ax=ax)
    return figure


def flow():
    """Draw three layers, each of which takes a half from the position before."""
    before = np.eye(6, k=-1)
    before[0, 0] = 1.0
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    tokens = ["once", "upon", "a", "time", "there", "was"]
    attention_flow([before] * 3, tokens=tokens, ax=figure.subplots())
    return figure


def make(folder):
    """Draw all pictures into a folder; return the names of the files."""
    pictures = {"heat_map": heat_map, "heads": heads, "masks": masks, "flow": flow}
    folder.mkdir(exist_ok=True)
    for name, draw in pictures.items():
        draw().savefig(folder / f"{name}.png", dpi=90, metadata={"Software": None})
    return sorted(f"{name}.png" for name in pictures)


if __name__ == "__main__":
    mpl.use("agg")
    print("\n".join(make(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)))
