"""The questions that implementations of attention answer differently, and their answers."""

from typing import Literal, NamedTuple

__all__ = ["CHOICES", "Conventions"]


class Conventions(NamedTuple):
    """
    One answer for each question on which implementations of attention differ.

    The defaults are attnfn's own.

    Parameters
    ----------
    mask : {"attend", "hidden"}
        What True in a bool mask marks: a key that the query may attend to, or a hidden one.
    mask_value : {"-inf", "lowest", "-10000"}
        What a hidden key has: never a weight, or this number added to its score. Once it is
        finite, a row of hidden keys has weights, and a gradient.
    alignment : {"explicit", "top_left", "bottom_right", "by_lengths"}
        Where queries stand if the caller does not say it: that is refused, the first at the
        first key, the last at the last key, or the latter only where lengths are given.
    window : {"inclusive", "exclusive"}
        Whether a window of n reaches n keys back, or counts the query's own among them.
    groups : {"interleaved", "tiled"}
        Which key head a query head h uses: ``h // group`` or ``h % num_kv_heads``.
    default_scale : {"root", "one"}
        What scores are multiplied by if nothing is said: ``1 / sqrt(head_dim)``, or 1.
    bias : {"after_scale", "before_scale"}
        Whether the bias is added to the scaled scores, or scaled with them.
    softcap : {"before_bias", "after_bias", "after_mask"}
        What the cap bends: scores, scores with the bias, or with what hides a key as well.
    lengths : {"count", "last_index", "cumulative"}
        What a length is: how many keys, the index of the last, or where sequences start.
    empty_row : {"zero", "uniform", "nan"}
        What a query gets that may attend to nothing: 0, the mean of all values, or NaN.
    biased_row : {"empty", "nan"}
        Whether a query whose bias is -inf for every key counts as such, or gets NaN.
    empty_lse : {"-inf", "+inf", "zero", "finite"}
        The log-sum-exp of a query that may attend to nothing; "finite" is very low.
    lse_base : {"e", "2"}
        The base of the logarithm.
    lse_dtype : {"compute", "query"}
        Whether it has the dtype that is computed in, or the query's.
    lse_sinks : {"included", "excluded"}
        Whether it counts sinks.
    softmax_dtype : {"own", "float32"}
        Whether float64 is computed in float64, or its softmax in float32.
    hidden_key, hidden_value : {"kept_out", "leaks"}
        Whether a NaN in a key or value that no query may attend to reaches the output.

    See Also
    --------
    DIALECTS : Those of known implementations.

    Examples
    --------
    >>> from attnfn.testing import DIALECTS, Conventions
    >>> DIALECTS["mlx"].conventions.alignment, Conventions().alignment
    ('bottom_right', 'explicit')
    """

    mask: Literal["attend", "hidden"] = "attend"
    mask_value: Literal["-inf", "lowest", "-10000"] = "-inf"
    alignment: Literal["explicit", "top_left", "bottom_right", "by_lengths"] = "explicit"
    window: Literal["inclusive", "exclusive"] = "inclusive"
    groups: Literal["interleaved", "tiled"] = "interleaved"
    default_scale: Literal["root", "one"] = "root"
    bias: Literal["after_scale", "before_scale"] = "after_scale"
    softcap: Literal["before_bias", "after_bias", "after_mask"] = "before_bias"
    lengths: Literal["count", "last_index", "cumulative"] = "count"
    empty_row: Literal["zero", "uniform", "nan"] = "zero"
    biased_row: Literal["empty", "nan"] = "empty"
    empty_lse: Literal["-inf", "+inf", "zero", "finite"] = "-inf"
    lse_base: Literal["e", "2"] = "e"
    lse_dtype: Literal["compute", "query"] = "compute"
    lse_sinks: Literal["included", "excluded"] = "included"
    softmax_dtype: Literal["own", "float32"] = "own"
    hidden_key: Literal["kept_out", "leaks"] = "kept_out"
    hidden_value: Literal["kept_out", "leaks"] = "kept_out"


#: What each answer says, in a sentence that a report can print.
CHOICES: dict[str, dict[str, str]] = {
    "mask": {
        "attend": "True in a mask marks a key that the query may attend to",
        "hidden": "True in a mask marks a key that is hidden",
    },
    "mask_value": {
        "-inf": "a hidden key never has a weight",
        "lowest": "a hidden key has its dtype's lowest number added to its score",
        "-10000": "a hidden key has -10000 added to its score, so that lower scores lose to it",
    },
    "alignment": {
        "explicit": "the caller says where the queries stand among the keys",
        "top_left": "the first query stands at the first key",
        "bottom_right": "the last query stands at the last key",
        "by_lengths": "the first query stands at the first key, or, where lengths are given, "
        "the last query at the last key",
    },
    "window": {
        "inclusive": "a window of (left, right) reaches left keys back and right keys ahead",
        "exclusive": "a window of left counts the query's own key: it reaches left - 1 back",
    },
    "groups": {
        "interleaved": "query head h uses key head h // group",
        "tiled": "query head h uses key head h % num_kv_heads",
    },
    "default_scale": {
        "root": "without a scale, scores are divided by the root of head_dim",
        "one": "without a scale, scores are not scaled",
    },
    "bias": {
        "after_scale": "the bias is added to the scaled scores",
        "before_scale": "the bias is added before scaling, and so scaled too",
    },
    "softcap": {
        "before_bias": "the cap bends the scores before the bias is added",
        "after_bias": "the cap bends the sum of scores and bias",
        "after_mask": "the cap bends the scores of hidden keys, too, which unhides them",
    },
    "lengths": {
        "count": "a length is the number of keys",
        "last_index": "a length is the index of the last key",
        "cumulative": "lengths are given as where each sequence starts, and the last one ends",
    },
    "empty_row": {
        "zero": "a query that may attend to nothing gets 0",
        "uniform": "a query that may attend to nothing gets the mean of all values",
        "nan": "a query that may attend to nothing gets NaN",
    },
    "biased_row": {
        "empty": "a query whose bias is -inf for every key may attend to nothing",
        "nan": "a query whose bias is -inf for every key gets NaN",
    },
    "empty_lse": {
        "-inf": "the log-sum-exp of a query that may attend to nothing is -inf",
        "+inf": "the log-sum-exp of a query that may attend to nothing is +inf",
        "zero": "the log-sum-exp of a query that may attend to nothing is 0",
        "finite": "the log-sum-exp of a query that may attend to nothing is very low",
    },
    "lse_base": {
        "e": "the log-sum-exp is a natural logarithm",
        "2": "the log-sum-exp is to base 2",
    },
    "lse_dtype": {
        "compute": "the log-sum-exp has the dtype that is computed in",
        "query": "the log-sum-exp has the query's dtype",
    },
    "lse_sinks": {
        "included": "the log-sum-exp counts the sink",
        "excluded": "the log-sum-exp leaves the sink out",
    },
    "softmax_dtype": {
        "own": "float64 is computed in float64",
        "float32": "the softmax is computed in float32 even for float64",
    },
    "hidden_key": {
        "kept_out": "a NaN in a key that no query may attend to changes nothing",
        "leaks": "a NaN in a hidden key reaches the output",
    },
    "hidden_value": {
        "kept_out": "a NaN in a value that no query may attend to changes nothing",
        "leaks": "a NaN in a hidden value reaches the output",
    },
}
