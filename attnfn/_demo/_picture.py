"""The sentence's weights as a picture."""

from typing import Any

from .._typing import Array
from ._sentence import MODEL, Sentence

__all__ = ["save_picture"]


def save_picture(path: str, sentence: Sentence, head: int, weights: Array) -> None:
    """Draw the weights of one head into a file; its name says in which format."""
    # Matplotlib is an extra. This import says how to get it, so it comes first.
    from ..plot import attention_heat_map

    figure = _new_figure()
    attention_heat_map(
        weights,
        q_tokens=sentence.tokens,
        kv_tokens=sentence.tokens,
        title=f"{MODEL}, layer {sentence.layer}, head {head}",
        ax=figure.subplots(),
    )
    figure.savefig(path, dpi=150)


def _new_figure() -> Any:
    """Return a figure that needs no backend, and so no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 5.6), layout="constrained")
