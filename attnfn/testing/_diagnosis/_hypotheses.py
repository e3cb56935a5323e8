"""What may be the matter with a function: each mistake, and each other convention."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .._dialects._conventions import CHOICES, Conventions
from .._questions._case import Case
from .._simulation._model import Fault, Model
from ._faults import FAULTS

__all__ = ["Hypothesis", "applied", "hypotheses"]


class Hypothesis(NamedTuple):
    """One thing that may be the matter, which predicts answers."""

    #: Of FAULTS, or "question: answer" of CHOICES.
    name: str
    which: Any = None
    #: It changes nothing unless one of these options is given; none is no such condition.
    needs: frozenset[str] = frozenset()
    #: It is true only where all of these are given.
    given: frozenset[str] = frozenset()
    #: It changes nothing unless this is asked for: "lse", "gradients", "".
    asks: str = ""
    #: It says only roughly what the answers are.
    is_rough: bool = False

    @property
    def sentence(self) -> str:
        """Say what is the matter."""
        question, colon, chosen = self.name.partition(": ")
        return CHOICES[question][chosen] if colon else FAULTS[self.name]

    @property
    def question(self) -> str:
        """What it is an answer to: two of them do not go together."""
        return self.name.partition(": ")[0]

    def concerns(self, case: Case) -> bool:
        """Return whether it may change the answer to a case."""
        if self.asks == "lse" and "lse" not in case.asks and case.d_lse is None:
            return False
        if self.asks == "gradients" and "gradients" not in case.asks:
            return False
        if self.name == "strides_ignored":
            return bool(case.memory)
        if not self.given <= case.options.keys():
            return False
        return not self.needs or bool(self.needs & case.options.keys())

    def on(self, model: Model) -> Model:
        """Return the model of which this is true as well."""
        question, colon, chosen = self.name.partition(": ")
        if colon:
            changed: dict[str, Any] = {question: chosen}
            return model._replace(conventions=model.conventions._replace(**changed))
        return model._replace(faults=(*model.faults, Fault(self.name, self.which)))


def applied(model: Model, supposed: tuple[Hypothesis, ...]) -> Model:
    """Return the model of which everything supposed is true."""
    for hypothesis in supposed:
        model = hypothesis.on(model)
    return model


def hypotheses(conventions: Conventions) -> list[Hypothesis]:
    """Return what may be the matter with a function that is to have some conventions."""
    return [*_other_conventions(conventions), *_mistakes(), *_mistakes_of_gradients()]


_HIDING = frozenset({"mask", "is_causal", "window_size", "segment_ids", "lengths"})
_PLACED = frozenset({"is_causal", "window_size", "score_mod"})

#: The options without which a convention does not show, and what has to be asked for.
_SHOWN_BY: dict[str, tuple[frozenset[str], str]] = {
    "mask": (frozenset({"mask"}), ""),
    "mask_value": (_HIDING, ""),
    "alignment": (_PLACED, ""),
    "window": (frozenset({"window_size"}), ""),
    "groups": (frozenset(), ""),
    "default_scale": (frozenset(), ""),
    "bias": (frozenset({"bias"}), ""),
    "softcap": (frozenset({"softcap"}), ""),
    "lengths": (frozenset({"lengths"}), ""),
    "empty_row": (_HIDING, ""),
    "biased_row": (frozenset({"bias"}), ""),
    "empty_lse": (frozenset(), "lse"),
    "lse_base": (frozenset(), "lse"),
    "lse_sinks": (frozenset({"sinks"}), "lse"),
    "hidden_key": (_HIDING, ""),
    "hidden_value": (_HIDING, ""),
}
#: Answers that are no mistake of one who means another.
_NO_MISTAKES = ("alignment: explicit", "alignment: by_lengths", "lengths: cumulative")


def _other_conventions(conventions: Conventions) -> Iterator[Hypothesis]:
    for question, (needs, asks) in _SHOWN_BY.items():
        for chosen in CHOICES[question]:
            name = f"{question}: {chosen}"
            # Who has to be told where queries stand, and is not, has them at the start.
            is_same = name == "alignment: top_left" and conventions.alignment == "explicit"
            is_same = is_same or chosen == getattr(conventions, question)
            if not is_same and name not in _NO_MISTAKES:
                yield Hypothesis(name, needs=needs, asks=asks)
    for chosen in ("uniform", "nan"):
        if chosen != conventions.empty_row:
            # Also where it is the bias that hides all, or where there are no keys.
            yield Hypothesis(f"empty_row: {chosen}", "whatever empties it")


#: Mistakes by the option without which they do not show.
_BY_OPTION = {
    "scale": ("scale_ignored",),
    "mask": (
        "mask_ignored",
        "mask_first_batch",
        "mask_first_head",
        "mask_transposed",
    ),
    "is_causal": ("causal_ignored", "causal_strict", "causal_one_more", "causal_reversed"),
    "q_offset": ("q_offset_ignored",),
    "window_size": ("window_ignored", "window_swapped", "window_right_ignored"),
    "segment_ids": ("segments_ignored",),
    "lengths": ("lengths_ignored", "lengths_one_more", "lengths_one_less"),
    "bias": ("bias_ignored", "bias_twice", "bias_first_head", "bias_first_batch"),
    "softcap": ("softcap_ignored", "softcap_clips", "softcap_not_multiplied"),
    "score_mod": ("score_mod_ignored",),
    "sinks": ("sinks_ignored", "sinks_first_head"),
    "dropout_mask": (
        "dropout_ignored",
        "dropout_inverted",
        "dropout_not_rescaled",
        "dropout_rescaled_by_rate",
        "dropout_renormalised",
    ),
}
#: Those that show without any.
_ALWAYS = (
    "output_zero",
    "scale_twice",
    "scale_of_model_dim",
    "scale_of_value_dim",
    "heads_transposed",
    "softmax_over_queries",
    "softmax_over_heads",
)
_LSE = ("lse_of_maximum", "lse_without_maximum")
#: Mistakes of which there are several kinds.
_KINDS: dict[str, tuple[tuple[Any, ...], frozenset[str]]] = {
    "causal_reversed": (("strict",), frozenset({"is_causal"})),
    "window_one_more": (("left", "right", "both"), frozenset({"window_size"})),
    "dropout_before_softmax": (("zero", "rescaled"), frozenset({"dropout_mask"})),
    "groups_first_head": ((None, "always"), frozenset()),
    "heads_over_batch": (("keys",), frozenset()),
    "softmax_base_2": (("ln", "log2"), frozenset()),
    "softmax_missing": (("shifted", "plain"), frozenset()),
    "softmax_without_maximum": (("", "guarded", "half"), frozenset()),
    "strides_ignored": (("all", "query", "key", "value"), frozenset()),
}

_TILES = (*range(2, 65), 80, 96, 100, 112, 128, 192, 256)
_SMALL_NUMBERS = (0.0, -1.0, -10.0, -20.0, -30.0, -50.0, -100.0)
_NUMBERS = (*_SMALL_NUMBERS, -1e3, -3e3, -1e4, -3e4, -65504.0, -1e5, -1e6, -1e9, -1e30)
_EPS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)


def _mistakes() -> Iterator[Hypothesis]:
    for name in _ALWAYS:
        yield Hypothesis(name)
    for option, names in _BY_OPTION.items():
        for name in names:
            yield Hypothesis(name, needs=frozenset({option}))
    for name, (kinds, needs) in _KINDS.items():
        for kind in kinds:
            yield Hypothesis(name, kind, needs)
    yield Hypothesis("heads_over_batch", "mask", frozenset({"mask", "bias"}))
    for name, ignored, beside in _IGNORED_BESIDE:
        both = frozenset({ignored, beside})
        yield Hypothesis(name, f"beside {beside}", frozenset({ignored}), both)
    yield from _mistakes_of_hiding()
    yield from _mistakes_of_tiles()
    # Others come from the answers, in the search.
    for eps in _EPS:
        for is_unshifted in (False, True):
            yield Hypothesis("softmax_eps", (eps, is_unshifted))
    for name in _LSE:
        yield Hypothesis(name, asks="lse")
    for kind in ("shifted", "plain"):
        yield Hypothesis("lse_not_logarithm", kind, asks="lse")
    for dtype in ("float32", "float16", "bfloat16", "sums"):
        yield Hypothesis("low_precision", dtype, is_rough=True)
    yield Hypothesis("half_overflow", is_rough=True)


#: What is ignored where something else is given.
_IGNORED_BESIDE = (
    ("mask_ignored", "mask", "bias"),
    ("mask_ignored", "mask", "is_causal"),
    ("bias_ignored", "bias", "mask"),
    ("causal_ignored", "is_causal", "mask"),
    ("causal_ignored", "is_causal", "window_size"),
    ("softcap_ignored", "softcap", "bias"),
)


def _mistakes_of_hiding() -> Iterator[Hypothesis]:
    for where, needs in (("all", _HIDING), ("mask", frozenset({"mask"}))):
        yield Hypothesis("mask_after_softmax", where, needs)
        for number in _NUMBERS:
            yield Hypothesis("mask_finite", (number, "replaced", where), needs)
        for number in _NUMBERS[1:]:
            yield Hypothesis("mask_finite", (number, "added", where), needs)
        for eps in _EPS[2:]:
            yield Hypothesis("mask_finite", (eps, "logarithm", where), needs)


def _mistakes_of_tiles() -> Iterator[Hypothesis]:
    for tile in _TILES:
        for keeps_only in (True, False):
            yield Hypothesis("tile_dropped", (tile, keeps_only))
            if tile < 131:
                yield Hypothesis("tile_queries_dropped", (tile, keeps_only))
        for what in ("both", "out", "sum", "apart"):
            yield Hypothesis("tile_not_rescaled", (tile, what))
        for what in ("always", "unless hidden"):
            yield Hypothesis("tile_padding_counted", (tile, what))


#: Mistakes of gradients, of which kinds there are, and the options that show them.
_OF_GRADIENTS: dict[str, tuple[tuple[Any, ...], frozenset[str]]] = {
    "gradient_missing": (("query", "key", "value", "bias", "sinks", "all"), frozenset()),
    "gradient_without_scale": (("both", "query", "key"), frozenset()),
    "gradient_without_delta": ((None,), frozenset()),
    "gradient_through_mask": (("both", "scores"), _HIDING - {"is_causal", "window_size"}),
    "gradient_without_groups": (("first", "last", "mean"), frozenset()),
    "gradient_without_softcap": ((None,), frozenset({"softcap"})),
    "gradient_without_lse": ((None,), frozenset()),
    "gradient_without_sinks": (("weights", "values", "all"), frozenset({"sinks"})),
    "gradient_without_dropout": (
        (("both", False), ("both", True), ("scores", True), ("value", False)),
        frozenset({"dropout_mask"}),
    ),
    "gradient_without_causal": (("both", "scores"), frozenset({"is_causal"})),
    "gradient_of_sinks_sign": ((None,), frozenset({"sinks"})),
}


def _mistakes_of_gradients() -> Iterator[Hypothesis]:
    for name, (kinds, needs) in _OF_GRADIENTS.items():
        for kind in kinds:
            yield Hypothesis(name, kind, needs, asks="gradients")
    yield Hypothesis("gradient_nan", asks="gradients", is_rough=True)
