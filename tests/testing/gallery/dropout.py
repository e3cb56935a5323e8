"""Dropout of weights, got wrong."""

import math

import numpy as np

from ._mutant import mutant
from ._pieces import grouped, hidden, key_of, positions, softmax


def _weights_and_values(query, key, value, is_causal=False, q_offset=None):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), (j <= p) if is_causal else True)
    return softmax(scores)[0], v


@mutant("dropout_ignored", why="a module in evaluation mode, or a path of inference alone")
def dropout_never_applied(
    query,
    key,
    value,
    /,
    *,
    is_causal=False,
    q_offset=None,
    dropout_mask=None,
    dropout_rate=None,
    bug=True,
):
    weights, v = _weights_and_values(query, key, value, is_causal, q_offset)
    if dropout_mask is not None and not bug:
        weights = np.where(dropout_mask, weights, 0) / (1 - dropout_rate)
    return weights @ v


@mutant(
    "dropout_inverted",
    why="random() < rate says what is dropped, and is taken for what is kept",
)
def dropout_keeps_the_dropped(
    query, key, value, /, *, dropout_mask=None, dropout_rate=None, bug=True
):
    weights, v = _weights_and_values(query, key, value)
    if dropout_mask is not None:
        keep = ~dropout_mask if bug else dropout_mask
        weights = np.where(keep, weights, 0) / (1 - dropout_rate)
    return weights @ v


@mutant(
    "dropout_not_rescaled", why="weights are zeroed, and the expectation shrinks with the rate"
)
def dropout_without_rescaling(
    query,
    key,
    value,
    /,
    *,
    is_causal=False,
    q_offset=None,
    dropout_mask=None,
    dropout_rate=None,
    bug=True,
):
    weights, v = _weights_and_values(query, key, value, is_causal, q_offset)
    if dropout_mask is None:
        return weights @ v
    kept = np.where(dropout_mask, weights, 0)
    return (kept if bug else kept / (1 - dropout_rate)) @ v


@mutant(
    "dropout_rescaled_by_rate",
    why="1 / rate for 1 / (1 - rate), the same at a rate of one half",
    seen_in="rasbt/LLMs-from-scratch#431",
)
def dropout_rescaled_by_rate(
    query, key, value, /, *, dropout_mask=None, dropout_rate=None, bug=True
):
    weights, v = _weights_and_values(query, key, value)
    if dropout_mask is not None:
        share = dropout_rate if bug else 1 - dropout_rate
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = np.where(dropout_mask, weights / share, 0)
    return weights @ v


@mutant(
    "dropout_renormalised",
    why="the sum is taken after dropout, so that each row sums to 1 again",
)
def dropout_before_the_sum(
    query, key, value, /, *, dropout_mask=None, dropout_rate=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    kept = shares if dropout_mask is None else np.where(dropout_mask, shares, 0)
    total = (kept if bug else shares).sum(axis=-1, keepdims=True)
    if dropout_mask is not None and not bug:
        total = total * (1 - dropout_rate)
    return kept / np.where(total == 0, 1, total) @ grouped(value, query.shape[-3])


@mutant(
    "dropout_before_softmax",
    why="dropout on scores: a dropped score is 0, which is no small one",
)
def dropout_of_scores(query, key, value, /, *, dropout_mask=None, dropout_rate=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    v = grouped(value, query.shape[-3])
    if dropout_mask is None:
        return softmax(scores)[0] @ v
    if bug:
        return softmax(np.where(dropout_mask, scores, 0) / (1 - dropout_rate))[0] @ v
    return np.where(dropout_mask, softmax(scores)[0], 0) / (1 - dropout_rate) @ v
