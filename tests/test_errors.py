"""Every wrong call is refused in one readable sentence, the same on every library.

The tables below are written as Python would show them: a call, and the error that it gets.
`…` stands for words that do not matter, and what is in braces is filled in.
"""

import functools
import inspect
import math
import re
from typing import NamedTuple

import numpy as np
import pytest
from conftest import load
from support import asarray, library_of

import attnfn as af

pytestmark = pytest.mark.errors

#: Many wrong calls are silent where two axes happen to be equal, so each is tried with both.
SIZES = {
    "all_sizes_differ": {
        "batch": 2,
        "num_heads": 6,
        "num_kv_heads": 3,
        "q_len": 4,
        "kv_len": 5,
        "head_dim": 8,
        "value_dim": 7,
    },
    "all_sizes_equal": dict.fromkeys(
        ("batch", "num_heads", "num_kv_heads", "q_len", "kv_len", "head_dim", "value_dim"), 4
    ),
}

KINDS_OF_OBJECTS = """
attention([[1.0, 2.0]], key, value)
TypeError: `query` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, None, value)
TypeError: `key` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, None)
TypeError: `value` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, "key", value)
TypeError: `key` must be an array; got str. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(np.float64(1.0), key, value)
TypeError: `query` must be an array; got numpy float64. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(EagerTensor(), EagerTensor(), EagerTensor())
TypeError: `query` is a tensorflow EagerTensor, which has no Array API namespace. Convert it to a NumPy, JAX or PyTorch array first.

attention(query, key, value, mask=EagerTensor())
TypeError: `mask` is a tensorflow EagerTensor, which has no Array API namespace. Convert it to a NumPy, JAX or PyTorch array first.

attention(query, key, value, mask=[True] * kv_len)
TypeError: `mask` must be an array or a function of (q_pos, kv_pos); got list. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, mask="causal")
TypeError: `mask` must be an array or a function of (q_pos, kv_pos); got str. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, mask=True)
TypeError: `mask` must be an array or a function of (q_pos, kv_pos); got bool. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, bias=0.5)
TypeError: `bias` must be an array; got float. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, dropout_mask=[True], dropout_rate=0.5)
TypeError: `dropout_mask` must be an array or a function of (q_pos, kv_pos); got list. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, segment_ids=[0] * 4)
ValueError: `segment_ids` must be one array of ids, or a pair of them for queries and keys; got a list of 4.

attention(query, key, value, segment_ids=(ints(q_len),) * 3)
ValueError: `segment_ids` must be one array of ids, or a pair of them for queries and keys; got a tuple of 3.

attention(query, key, value, segment_ids=[0, 1])
TypeError: `segment_ids[0]` must be an array; got int. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, segment_ids=(ints(q_len), None))
TypeError: `segment_ids[1]` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, segment_ids="ids")
TypeError: `segment_ids` must be an array; got str. Make one with `asarray` of NumPy, JAX or PyTorch.
"""

PLAIN_CHOICES = """
attention(query, key, value, score_mod=floats(kv_len))
TypeError: `score_mod` must be a function of (scores, q_pos, kv_pos); got a {kind} of shape ({kv_len},). To add an array to the scores, use `bias`.

attention(query, key, value, q_offset=1.0)
TypeError: `q_offset` must be an int or an integer array; got 1.0.

attention(query, key, value, q_offset=True)
TypeError: `q_offset` must be an int or an integer array; got True.

attention(query, key, value, q_offset=[0, 1])
TypeError: `q_offset` must be an int or an integer array; got [0, 1].

attention(query, key, value, is_causal=True, q_offset=2**70)
ValueError: `q_offset` must lie between -4611686018427387903 and 4611686018427387903, to fit into int64 positions; got 1180591620717411303424.

attention(query, key, value, sinks=[0.0, 1.0])
TypeError: `sinks` must be a number or an array; got [0.0, 1.0].

attention(query, key, value, sinks=True)
TypeError: `sinks` must be a number or an array; got True.

attention(query, key, value, scale="sqrt")
TypeError: `scale` must be a number or a 0-d array; got 'sqrt'.

attention(query, key, value, scale=True)
TypeError: `scale` must be a number or a 0-d array; got True.

attention(query, key, value, scale=1j)
TypeError: `scale` must be a number or a 0-d array; got 1j.

attention(query, key, value, scale=math.nan)
ValueError: `scale` must be finite; got nan.

attention(query, key, value, scale=math.inf)
ValueError: `scale` must be finite; got inf.

attention(query, key, value, scale=floats(num_heads, 1, 1))
ValueError: `scale` must be one number; got shape ({num_heads}, 1, 1). For a scale per head, multiply `query` by it.

attention(query, key, value, scale=bools())
TypeError: `scale` must have an integer or a real floating dtype; got bool.

attention(query, key, value, scale=complexes())
TypeError: `scale` must have an integer or a real floating dtype; got complex128.

attention(query, key, value, softcap="30")
TypeError: `softcap` must be a number; got '30'. For a cap that is an array, use `score_mod`.

attention(query, key, value, softcap=floats())
TypeError: `softcap` must be a number; got a {kind} of shape (). For a cap that is an array, use `score_mod`.

attention(query, key, value, softcap=0.0)
ValueError: `softcap` must be positive and finite; got 0.0. None means no cap.

attention(query, key, value, softcap=-30)
ValueError: `softcap` must be positive and finite; got -30. None means no cap.

attention(query, key, value, softcap=math.inf)
ValueError: `softcap` must be positive and finite; got inf. None means no cap.

attention(query, key, value, softcap=math.nan)
ValueError: `softcap` must be positive and finite; got nan. None means no cap.

attention(query, key, value, dropout_rate=0.1)
ValueError: `dropout_rate` needs a `dropout_mask`; got dropout_rate=0.1 alone. Draw one that is True with probability 1 - dropout_rate.

attention(query, key, value, dropout_rate=0.0)
ValueError: `dropout_rate` needs a `dropout_mask`; got dropout_rate=0.0 alone. Draw one that is True with probability 1 - dropout_rate.

attention(query, key, value, dropout_mask=bools(kv_len))
ValueError: `dropout_mask` needs a `dropout_rate`; got None. Pass the rate that the mask was drawn with; 0.0 means no rescaling.

attention(query, key, value, dropout_mask=bools(kv_len), dropout_rate=1.0)
ValueError: `dropout_rate` must be in [0, 1); got 1.0.

attention(query, key, value, dropout_mask=bools(kv_len), dropout_rate=-0.1)
ValueError: `dropout_rate` must be in [0, 1); got -0.1.

attention(query, key, value, dropout_mask=bools(kv_len), dropout_rate=math.nan)
ValueError: `dropout_rate` must be in [0, 1); got nan.

attention(query, key, value, dropout_mask=bools(kv_len), dropout_rate=floats())
TypeError: `dropout_rate` must be a number; got a {kind} of shape ().

attention(query, key, value, is_causal=1)
TypeError: `is_causal` must be True or False; got 1.

attention(query, key, value, is_causal=None)
TypeError: `is_causal` must be True or False; got None.

attention(query, key, value, is_causal=bools(q_len, kv_len))
TypeError: `is_causal` must be True or False; got a {kind} of shape ({q_len}, {kv_len}).

attention(query, key, value, window_size=3)
TypeError: `window_size` must be a pair (left, right); got 3. Libraries read one number in several ways: (3, 3) looks both ways, (3, 0) back over 3 keys and itself, (2, 0) back over 3 keys in all; None is no bound.

attention(query, key, value, window_size=np.int64(-1))
TypeError: `window_size` must be a pair (left, right); got -1. Libraries read one number in several ways: … None is no bound.

attention(query, key, value, window_size=True)
TypeError: `window_size` must be a pair (left, right); got True.

attention(query, key, value, window_size="12")
TypeError: `window_size` must be a pair (left, right); got '12'.

attention(query, key, value, window_size=(1, 2, 3))
TypeError: `window_size` must be a pair (left, right); got (1, 2, 3).

attention(query, key, value, window_size=ints(2))
TypeError: `window_size` must be a pair (left, right); got a {kind} of shape (2,).

attention(query, key, value, window_size=(1.0, 0))
TypeError: `window_size` must hold two ints, or None for no bound; got (1.0, 0).

attention(query, key, value, window_size=(3, -1))
ValueError: `window_size` must hold bounds of 0 or more; got (3, -1). (left, right) means q_pos - left <= kv_pos <= q_pos + right; None, not -1, is no bound.

attention(query, key, value, window_size=(-1, None))
ValueError: `window_size` must hold bounds of 0 or more; got (-1, None). (left, right) means q_pos - left <= kv_pos <= q_pos + right; None, not -1, is no bound.

attention(query, key, value, compute_dtype="float32")
TypeError: `compute_dtype` must be a real floating dtype of {library}; got 'float32'.

attention(query, key, value, compute_dtype=xp.int32)
TypeError: `compute_dtype` must be a real floating dtype of {library}; got {library} int32.

attention(query, key, value, compute_dtype=float)
TypeError: `compute_dtype` must be a real floating dtype of {library}; got float.

attention(query, key, value, compute_dtype=foreign_dtype)
TypeError: `compute_dtype` must be a real floating dtype of {library}; got … float64.

attention(query, key, value, engine="flash")
ValueError: `engine` must be one of 'auto', 'dense', 'blockwise', 'native'; got 'flash'.

attention(query, key, value, engine=None)
ValueError: `engine` must be one of 'auto', 'dense', 'blockwise', 'native'; got None.

attention(query, key, value, score_mod=lambda s, p, j: s, q_offset=0, engine="native")
NotImplementedError: `engine` must be one that can do what is asked; 'native' cannot do …. Use 'auto' or 'dense'.
"""

UNKNOWN_OPTIONS = """
attention_with_lse(query, key, value, attn_mask=None)
TypeError: attention_with_lse() has no option `attn_mask`; it takes bias, compute_dtype, dropout_mask, dropout_rate, engine, is_causal, mask, q_offset, scale, score_mod, segment_ids, sinks, softcap and window_size.

attention_with_lse(query, key, value, return_lse=True)
TypeError: attention_with_lse() has no option `return_lse`; it takes …

select_engine(query, key, value, is_casual=True)
TypeError: select_engine() has no option `is_casual`; it takes …, is_causal, …

attention_weights(query, key, engine="dense")
TypeError: attention_weights() has no option `engine`; it takes bias, compute_dtype, is_causal, mask, q_offset, scale, score_mod, segment_ids, sinks, softcap and window_size.

attention_weights(query, key, dropout_mask=None)
TypeError: attention_weights() has no option `dropout_mask`; it takes …

attention_weights(query, key, dropout_rate=0.1)
TypeError: attention_weights() has no option `dropout_rate`; it takes …

attention_scores(query, key, sinks=None)
TypeError: attention_scores() has no option `sinks`; it takes bias, compute_dtype, is_causal, mask, q_offset, scale, score_mod, segment_ids, softcap and window_size.

attention_scores(query, key, engine="auto")
TypeError: attention_scores() has no option `engine`; it takes …

attention_scores(query, key, dropout_mask=None)
TypeError: attention_scores() has no option `dropout_mask`; it takes …

attention_scores(query, key, dropout_rate=0.1)
TypeError: attention_scores() has no option `dropout_rate`; it takes …

multi_head_attention_weights(params, features, dropout_rate=0.1)
TypeError: …attention_weights() has no option `dropout_rate`; it takes …
"""

LIBRARIES_AND_DTYPES = """
attention(query, foreign(key), value)
TypeError: All arrays must come from one Array API library; `query` is a {kind}, `key` is a {foreign_kind}, `value` is a {kind}.

attention(query, key, foreign(value))
TypeError: All arrays must come from one Array API library; `query` is a {kind}, `key` is a {kind}, `value` is a {foreign_kind}.

attention(query, key, value, mask=foreign(bools(kv_len)))
TypeError: All arrays must come from one Array API library; `query` is a {kind}, `key` is a {kind}, `value` is a {kind}, `mask` is a {foreign_kind}.

attention(query, key, value, bias=foreign(floats(kv_len)))
TypeError: All arrays must come from one Array API library; … `bias` is a {foreign_kind}.

attention(query, key, value, q_offset=foreign(ints()))
TypeError: All arrays must come from one Array API library; … `q_offset` is a {foreign_kind}.

attention(query, key, value, scale=foreign(floats()))
TypeError: All arrays must come from one Array API library; … `scale` is a {foreign_kind}.

attention(query, key, value, sinks=foreign(floats(num_heads)))
TypeError: All arrays must come from one Array API library; … `sinks` is a {foreign_kind}.

attention(query, key, value, segment_ids=foreign(ints(q_len)))
TypeError: All arrays must come from one Array API library; … `segment_ids` is a {foreign_kind}.

attention(query, key, value, segment_ids=(ints(q_len), foreign(ints(kv_len))))
TypeError: All arrays must come from one Array API library; … `segment_ids[0]` is a {kind}, `segment_ids[1]` is a {foreign_kind}.

attention(query, key, value, dropout_mask=foreign(bools(kv_len)), dropout_rate=0.5)
TypeError: All arrays must come from one Array API library; … `dropout_mask` is a {foreign_kind}.

attention(query, single(key), value)
TypeError: `query`, `key` and `value` must share one dtype; got float64, float32 and float64. Cast `key` to float64, or all to another.

attention(single(query), key, value)
TypeError: `query`, `key` and `value` must share one dtype; got float32, float64 and float64. Cast `key` and `value` to float32, or all to another.

attention(ints(q_len, head_dim), key, value)
TypeError: `query` must have a real floating dtype; got int64. Cast it to float32 first.

attention(query, bools(kv_len, head_dim), value)
TypeError: `key` must have a real floating dtype; got bool. Cast it to float32 first.

attention(query, key, complexes(kv_len, value_dim))
TypeError: `value` must have a real floating dtype; got complex128. Cast it to float32 first.

attention(query, key, value, mask=floats(q_len, kv_len))
TypeError: `mask` must have a bool dtype; got float64. True marks a key that the query may attend to. To add numbers to the scores, use `bias`; to make a mask from token ids, use token_padding_mask.

attention(query, key, value, mask=ints(batch, kv_len))
TypeError: `mask` must have a bool dtype; got int64. True marks a key that the query may attend to. To add numbers to the scores, use `bias`; to make a mask from token ids, use token_padding_mask.

attention(query, key, value, bias=bools(q_len, kv_len))
TypeError: `bias` must have a real floating dtype; got bool. To hide keys with True and False, use `mask`.

attention(query, key, value, bias=ints(q_len, kv_len))
TypeError: `bias` must have a real floating dtype; got int64. Cast it to float32 first.

attention(query, key, value, bias=complexes(q_len, kv_len))
TypeError: `bias` must have a real floating dtype; got complex128. Cast it to float32 first.

attention(query, key, value, sinks=ints(num_heads))
TypeError: `sinks` must have a real floating dtype; got int64. Cast it to float32 first.

attention(query, key, value, sinks=bools(num_heads))
TypeError: `sinks` must have a real floating dtype; got bool. Cast it to float32 first.

attention(query, key, value, segment_ids=(floats(q_len), ints(kv_len)))
TypeError: `segment_ids[0]` must have an integer dtype; got float64.

attention(query, key, value, segment_ids=(ints(q_len), bools(kv_len)))
TypeError: `segment_ids[1]` must have an integer dtype; got bool.

attention(query, key, value, q_offset=floats())
TypeError: `q_offset` must have an integer dtype; got float64.

attention(query, key, value, q_offset=bools(batch))
TypeError: `q_offset` must have an integer dtype; got bool.

attention(query, key, value, dropout_mask=floats(kv_len), dropout_rate=0.5)
TypeError: `dropout_mask` must have a bool dtype; got float64. True marks a weight that is kept.
"""

AXES_OF_QUERY_KEY_AND_VALUE = """
attention(floats(head_dim), key, value)
ValueError: `query` must have shape (..., num_heads, q_len, head_dim), with 2 or more axes; got shape ({head_dim},).

attention(query, floats(head_dim), value)
ValueError: `key` must have shape (..., num_kv_heads, kv_len, head_dim), with 2 or more axes; got shape ({head_dim},).

attention(query, key, floats())
ValueError: `value` must have shape (..., num_kv_heads, kv_len, value_dim), with 2 or more axes; got shape ().

attention(query, floats(kv_len, head_dim + 1), value)
ValueError: `query` and `key` must have the same head_dim (axis -1): {head_dim} and {head_dim + 1}; got shapes ({batch}, {num_heads}, {q_len}, {head_dim}) and ({kv_len}, {head_dim + 1}).

attention(query, floats(kv_len, 1), value)
ValueError: `query` and `key` must have the same head_dim (axis -1): {head_dim} and 1; got shapes …

attention(query, key, floats(kv_len + 1, value_dim))
ValueError: `key` and `value` must have the same kv_len (axis -2): {kv_len} and {kv_len + 1}; got shapes ({batch}, {num_kv_heads}, {kv_len}, {head_dim}) and ({kv_len + 1}, {value_dim}).

attention(query, key, floats(1, value_dim))
ValueError: `key` and `value` must have the same kv_len (axis -2): {kv_len} and 1; got shapes …

attention(query, key, floats(batch, 2, kv_len, value_dim))
ValueError: `key` and `value` must have the same num_kv_heads (axis -3): {num_kv_heads} and 2; got shapes …

attention(floats(batch, num_heads + 1, q_len, head_dim), key, value)
ValueError: `num_heads` must be a multiple of `num_kv_heads`, so that each key/value head serves the same number of query heads; got num_heads={num_heads + 1} and num_kv_heads={num_kv_heads}. Heads are axis -3: (..., num_heads, length, dim).

attention(floats(batch, 2, q_len, head_dim), key, value)
ValueError: `num_heads` must be a multiple of `num_kv_heads`, … got num_heads=2 and num_kv_heads={num_kv_heads}. …

attention(query, floats(batch, 0, kv_len, head_dim), floats(batch, 0, kv_len, value_dim))
ValueError: `num_heads` must be a multiple of `num_kv_heads`, … got num_heads={num_heads} and num_kv_heads=0. …

attention(floats(batch, q_len, 5, head_dim), floats(batch, 3, 5, head_dim), floats(batch, 3, 5, head_dim))
ValueError: `num_heads` must be a multiple of `num_kv_heads`, … Heads are axis -3: (..., num_heads, length, dim).

attention(query, floats(batch + 1, num_kv_heads, kv_len, head_dim), value)
ValueError: The batch axes of `query`, `key` and `value` must broadcast, so be equal, 1 or absent; got ({batch},), ({batch + 1},) and ({batch},).

attention(query, key, floats(batch + 1, num_kv_heads, kv_len, value_dim))
ValueError: The batch axes of `query`, `key` and `value` must broadcast, so be equal, 1 or absent; got ({batch},), ({batch},) and ({batch + 1},).

attention(floats(q_len, 0), floats(kv_len, 0), value)
ValueError: `scale` must be given where head_dim is 0, since 1 / sqrt(0) is no number; got None.

attention(floats(kv_len - 2, head_dim), key, value, is_causal=True)
ValueError: `is_causal` needs `q_offset` when q_len and kv_len differ; got q_len={kv_len - 2}, kv_len={kv_len}. q_offset=2 puts the queries last, as in decoding from a cache; q_offset=0 puts them first, as torch and JAX do.

attention(floats(kv_len + 1, head_dim), key, value, is_causal=True)
ValueError: `is_causal` needs `q_offset` when q_len and kv_len differ; got q_len={kv_len + 1}, kv_len={kv_len}. q_offset=-1 puts the queries last, …

attention(floats(1, head_dim), key, value, window_size=(2, 0))
ValueError: `window_size` needs `q_offset` when q_len and kv_len differ; got q_len=1, kv_len={kv_len}. q_offset={kv_len - 1} puts …

attention(floats(1, head_dim), key, value, mask=lambda q_pos, kv_pos: kv_pos >= 0)
ValueError: `mask` needs `q_offset` when q_len and kv_len differ; got q_len=1, kv_len={kv_len}. …

attention(floats(1, head_dim), key, value, bias=lambda q_pos, kv_pos: kv_pos - q_pos)
ValueError: `bias` needs `q_offset` when q_len and kv_len differ; got q_len=1, kv_len={kv_len}. …

attention(floats(1, head_dim), key, value, score_mod=lambda scores, q_pos, kv_pos: scores)
ValueError: `score_mod` needs `q_offset` when q_len and kv_len differ; got q_len=1, kv_len={kv_len}. …

attention(floats(1, head_dim), key, value, dropout_mask=lambda q_pos, kv_pos: kv_pos >= 0, dropout_rate=0.5)
ValueError: `dropout_mask` needs `q_offset` when q_len and kv_len differ; got q_len=1, kv_len={kv_len}. …
"""

AXES_OF_MASKS_AND_BIASES = """
attention(query, key, value, mask=bools())
ValueError: `mask` must have shape (kv_len,), (q_len, kv_len), or one axis for each of the scores {scores}; got shape (). Write mask[:, None, None, :] for (batch, kv_len), mask[:, None] for (batch, q_len, kv_len).

attention(query, key, value, mask=bools(batch, q_len, kv_len))
ValueError: `mask` must have shape (kv_len,), (q_len, kv_len), or one axis for each of the scores {scores}; got shape ({batch}, {q_len}, {kv_len}). Write mask[:, None, None, :] for (batch, kv_len), mask[:, None] for (batch, q_len, kv_len).

attention(query, key, value, mask=bools(num_heads, q_len, kv_len))
ValueError: `mask` must have shape …, or one axis for each of the scores {scores}; got shape ({num_heads}, {q_len}, {kv_len}). Write …

attention(query, key, value, mask=bools(batch, 1, kv_len))
ValueError: `mask` must have shape …, or one axis for each of the scores {scores}; got shape ({batch}, 1, {kv_len}). Write …

attention(query, key, value, mask=bools(1, q_len, kv_len))
ValueError: `mask` must have shape …, or one axis for each of the scores {scores}; got shape (1, {q_len}, {kv_len}). Write …

attention(query, key, value, mask=bools(2, *scores))
ValueError: `mask` must have shape …, or one axis for each of the scores {scores}; got shape (2, {batch}, {num_heads}, {q_len}, {kv_len}). Write …

attention(floats(q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), mask=bools(3, q_len, kv_len))
ValueError: `mask` must have shape …, or one axis for each of the scores ({q_len}, {kv_len}); got shape (3, {q_len}, {kv_len}). Write …

attention(floats(batch, 2, num_heads, q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), mask=bools(batch, 1, 1, kv_len))
ValueError: `mask` must have shape …, or one axis for each of the scores ({batch}, 2, {num_heads}, {q_len}, {kv_len}); got shape ({batch}, 1, 1, {kv_len}). Write …

attention(query, key, value, mask=bools(kv_len + 1))
ValueError: `mask` must broadcast to the scores (..., num_heads, q_len, kv_len) = {scores} without enlarging them; got shape ({kv_len + 1},).

attention(query, key, value, mask=bools(q_len + 1, kv_len))
ValueError: `mask` must broadcast to the scores (..., num_heads, q_len, kv_len) = {scores} without enlarging them; got shape ({q_len + 1}, {kv_len}). Write mask[:, None, None, :] for (batch, kv_len).

attention(query, key, value, mask=bools(batch, num_heads + 1, q_len, kv_len))
ValueError: `mask` must broadcast to the scores … = {scores} without enlarging them; got shape ({batch}, {num_heads + 1}, {q_len}, {kv_len}).

attention(query, key, value, mask=bools(batch + 1, 1, 1, kv_len))
ValueError: `mask` must broadcast to the scores … = {scores} without enlarging them; got shape ({batch + 1}, 1, 1, {kv_len}).

attention(floats(1, 1, q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), mask=bools(*scores))
ValueError: `mask` must broadcast to the scores … = (1, 1, {q_len}, {kv_len}) without enlarging them; got shape {scores}.

attention(query, key, value, dropout_mask=bools(batch, q_len, kv_len), dropout_rate=0.5)
ValueError: `dropout_mask` must have shape …, or one axis for each of the scores {scores}; got shape ({batch}, {q_len}, {kv_len}). Write dropout_mask[:, None, None, :] …

attention(query, key, value, dropout_mask=bools(q_len, kv_len + 1), dropout_rate=0.5)
ValueError: `dropout_mask` must broadcast to the scores … = {scores} without enlarging them; got shape ({q_len}, {kv_len + 1}). …

attention(query, key, value, bias=floats())
ValueError: `bias` must have shape (kv_len,), (q_len, kv_len), (num_heads, q_len, kv_len), or one axis for each of the scores {scores}; got shape (). Write bias[:, None, None, :] for (batch, kv_len), bias[:, None] for (batch, q_len, kv_len).

attention(query, key, value, bias=floats(2, *scores))
ValueError: `bias` must have shape …, or one axis for each of the scores {scores}; got shape (2, …

attention(floats(q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), bias=floats(3, q_len, kv_len))
ValueError: `bias` must have shape …, or one axis for each of the scores ({q_len}, {kv_len}); got shape (3, {q_len}, {kv_len}). …

attention(floats(batch, 2, num_heads, q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), bias=floats(batch, 1, 1, kv_len))
ValueError: `bias` must have shape …, or one axis for each of the scores ({batch}, 2, {num_heads}, {q_len}, {kv_len}); got shape ({batch}, 1, 1, {kv_len}). …

attention(query, key, value, bias=floats(num_heads + 1, q_len, kv_len))
ValueError: `bias` must broadcast to the scores … = {scores} without enlarging them; got shape ({num_heads + 1}, {q_len}, {kv_len}).

attention(query, key, value, bias=floats(kv_len + 1, q_len))
ValueError: `bias` must broadcast to the scores … = {scores} without enlarging them; got shape ({kv_len + 1}, {q_len}). …

attention(floats(1, 1, q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), bias=floats(3, q_len, kv_len))
ValueError: `bias` must broadcast to the scores … = (1, 1, {q_len}, {kv_len}) without enlarging them; got shape (3, {q_len}, {kv_len}).
"""

AXES_OF_SINKS_OFFSETS_AND_SEGMENTS = """
attention(query, key, value, sinks=floats(num_heads + 1))
ValueError: `sinks` must have shape (), (num_heads,) or (*batch, num_heads), here (), ({num_heads},) or ({batch}, {num_heads}); got shape ({num_heads + 1},).

attention(query, key, value, sinks=floats(1))
ValueError: `sinks` must have shape (), (num_heads,) or (*batch, num_heads), here … got shape (1,).

attention(query, key, value, sinks=floats(1, num_heads))
ValueError: `sinks` must have shape (), (num_heads,) or (*batch, num_heads), here … got shape (1, {num_heads}).

attention(query, key, value, sinks=floats(num_heads, 1))
ValueError: `sinks` must have shape (), (num_heads,) or (*batch, num_heads), here … got shape ({num_heads}, 1).

attention(query, key, value, sinks=floats(batch, num_heads, 1))
ValueError: `sinks` must have shape (), (num_heads,) or (*batch, num_heads), here … got shape ({batch}, {num_heads}, 1).

attention(floats(q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), sinks=floats(3))
ValueError: `sinks` must have shape (), (num_heads,) or (*batch, num_heads), here (); got shape (3,).

attention(query, key, value, q_offset=ints(batch, 1))
ValueError: `q_offset` must have shape () or (*batch,), here () or ({batch},); got shape ({batch}, 1).

attention(query, key, value, q_offset=ints(1))
ValueError: `q_offset` must have shape () or (*batch,), here () or ({batch},); got shape (1,).

attention(query, key, value, q_offset=ints(batch + 1))
ValueError: `q_offset` must have shape () or (*batch,), here () or ({batch},); got shape ({batch + 1},).

attention(query, key, value, q_offset=ints(batch, num_heads))
ValueError: `q_offset` must have shape () or (*batch,), here () or ({batch},); got shape ({batch}, {num_heads}).

attention(floats(batch, batch, 1, q_len, head_dim), key, value, q_offset=ints(batch))
ValueError: `q_offset` must have shape () or (*batch,), here () or ({batch}, {batch}); got shape ({batch},).

attention(floats(q_len, head_dim), floats(kv_len, head_dim), floats(kv_len, value_dim), q_offset=ints(2))
ValueError: `q_offset` must have shape () or (*batch,), here (); got shape (2,).

attention(floats(kv_len + 1, head_dim), key, value, segment_ids=ints(kv_len))
ValueError: `segment_ids` must have shape (length,) or (*batch, length), here ({kv_len + 1},) or ({batch}, {kv_len + 1}); got shape ({kv_len},).

attention(query, key, value, segment_ids=(ints(q_len + 1), ints(kv_len)))
ValueError: `segment_ids[0]` must have shape (length,) or (*batch, length), here ({q_len},) or ({batch}, {q_len}); got shape ({q_len + 1},).

attention(query, key, value, segment_ids=(ints(q_len), ints(1, kv_len)))
ValueError: `segment_ids[1]` must have shape (length,) or (*batch, length), here … got shape (1, {kv_len}).

attention(query, key, value, segment_ids=(ints(q_len), ints()))
ValueError: `segment_ids[1]` must have shape (length,) or (*batch, length), here … got shape ().

attention(query, key, value, segment_ids=(ints(q_len, 1), ints(kv_len)))
ValueError: `segment_ids[0]` must have shape (length,) or (*batch, length), here … got shape ({q_len}, 1).

attention(query, key, value, segment_ids=(ints(q_len), ints(batch, num_heads, kv_len)))
ValueError: `segment_ids[1]` must have shape (length,) or (*batch, length), here … got shape ({batch}, {num_heads}, {kv_len}).

attention(query, key, value, segment_ids=(ints(q_len), ints(batch, 1, kv_len)))
ValueError: `segment_ids[1]` must have shape (length,) or (*batch, length), here … got shape ({batch}, 1, {kv_len}).

attention(floats(batch, batch, 1, q_len, head_dim), key, value, segment_ids=(ints(batch, q_len), ints(kv_len)))
ValueError: `segment_ids[0]` must have shape (length,) or (*batch, length), here … got shape ({batch}, {q_len}).
"""

RESULTS_OF_FUNCTIONS = """
attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: None)
TypeError: `mask(q_pos, kv_pos)` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: True)
TypeError: `mask(q_pos, kv_pos)` must be an array; got bool. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: foreign(bools(kv_len)))
TypeError: All arrays must come from one Array API library; `q_pos` is a {kind}, `mask(q_pos, kv_pos)` is a {foreign_kind}.

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: floats(kv_len))
TypeError: `mask(q_pos, kv_pos)` must have a bool dtype; got float64. True marks a key that the query may attend to. …

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: bools(batch, q_len, kv_len))
ValueError: `mask(q_pos, kv_pos)` must have shape (kv_len,), (q_len, kv_len), or one axis for each of the scores {scores}; got shape ({batch}, {q_len}, {kv_len}). Write mask(q_pos, kv_pos)[:, None, None, :] for (batch, kv_len), mask(q_pos, kv_pos)[:, None] for (batch, q_len, kv_len).

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: bools())
ValueError: `mask(q_pos, kv_pos)` must have shape … got shape (). Write …

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: bools(q_len + 1, kv_len))
ValueError: `mask(q_pos, kv_pos)` must broadcast to the scores … = {scores} without enlarging them; got shape ({q_len + 1}, {kv_len}). …

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: None)
TypeError: `bias(q_pos, kv_pos)` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: 0.0)
TypeError: `bias(q_pos, kv_pos)` must be an array; got float. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: foreign(floats(kv_len)))
TypeError: All arrays must come from one Array API library; `q_pos` is a {kind}, `bias(q_pos, kv_pos)` is a {foreign_kind}.

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: kv_pos <= q_pos)
TypeError: `bias(q_pos, kv_pos)` must have a real floating dtype; got bool. To hide keys with True and False, use `mask`.

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: kv_pos - q_pos)
TypeError: `bias(q_pos, kv_pos)` must have a real floating dtype; got int64. Cast it to float32 first.

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: floats(num_heads + 1, 1, 1))
ValueError: `bias(q_pos, kv_pos)` must broadcast to the scores … = {scores} without enlarging them; got shape ({num_heads + 1}, 1, 1).

attention(query, key, value, q_offset=0, dropout_rate=0.5, dropout_mask=lambda q_pos, kv_pos: None)
TypeError: `dropout_mask(q_pos, kv_pos)` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, q_offset=0, dropout_rate=0.5, dropout_mask=lambda q_pos, kv_pos: floats(kv_len))
TypeError: `dropout_mask(q_pos, kv_pos)` must have a bool dtype; got float64. True marks a weight that is kept.

attention(query, key, value, q_offset=0, dropout_rate=0.5, dropout_mask=lambda q_pos, kv_pos: bools(kv_len + 1))
ValueError: `dropout_mask(q_pos, kv_pos)` must broadcast to the scores … = {scores} without enlarging them; got shape ({kv_len + 1},).

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: None)
TypeError: `score_mod(scores, q_pos, kv_pos)` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: EagerTensor())
TypeError: `score_mod(scores, q_pos, kv_pos)` is a tensorflow EagerTensor, which has no Array API namespace. Convert it to a NumPy, JAX or PyTorch array first.

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: foreign(floats(*scores.shape)))
TypeError: All arrays must come from one Array API library; `scores` is a {kind}, `score_mod(scores, q_pos, kv_pos)` is a {foreign_kind}.

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: scores > 0)
TypeError: `score_mod(scores, q_pos, kv_pos)` must have a real floating dtype; got bool. Cast it to float32 first.

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: scores[..., :1])
ValueError: `score_mod` must return scores of the shape it was given, {scores}; got shape ({batch}, {num_heads}, {q_len}, 1).

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: scores[None, ...])
ValueError: `score_mod` must return scores of the shape it was given, {scores}; got shape (1, {batch}, {num_heads}, {q_len}, {kv_len}).

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: scores[0, ...])
ValueError: `score_mod` must return scores of the shape it was given, {scores}; got shape ({num_heads}, {q_len}, {kv_len}).
"""

MERGING = """
merge_attentions([floats(4, 3)] * 2, [floats(4)])
ValueError: `outs` and `lses` must be equally many; got 2 and 1.

merge_attentions([], [])
ValueError: `outs` must hold one part or more, since nothing else tells the shape; got none. Nothing at all is the part (0, -inf).

merge_attentions([floats(4, 3)], floats(1, 4))
TypeError: `outs` and `lses` must both be lists of parts, or both arrays with the parts along axis 0; got list and {kind}.

merge_attentions(None, None)
TypeError: `outs` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

merge_attentions([1.0], [1.0])
TypeError: `outs[0]` must be an array; got float. Make one with `asarray` of NumPy, JAX or PyTorch.

merge_attentions([floats(4, 3), floats(1, 3)], [floats(4), floats(4)])
ValueError: `outs[0]` and `outs[1]` must have one shape; got (4, 3) and (1, 3).

merge_attentions([floats(4, 4), floats(4, 4)], [floats(4), floats(1)])
ValueError: `lses[0]` and `lses[1]` must have one shape; got (4,) and (1,).

merge_attentions([floats(4, 4)], [floats(4, 1)])
ValueError: `lses` must have shape (parts, ..., q_len), here (1, 4); got shape (1, 4, 1).

merge_attentions(floats(2, 4, 4, 3), floats(2, 4))
ValueError: `lses` must have shape (parts, ..., q_len), here (2, 4, 4); got shape (2, 4).

merge_attentions(floats(2), floats())
ValueError: `outs` must have shape (parts, ..., q_len, value_dim), with 2 or more axes; got shape (2,).

merge_attentions([ints(4, 3)], [floats(4)])
TypeError: `outs[0]` must have a real floating dtype; got int64. Cast it to float32 first.

merge_attentions([floats(4, 3)], [ints(4)])
TypeError: `lses[0]` must have a real floating dtype; got int64. Cast it to float32 first.

merge_attentions([floats(4, 3), single(floats(4, 3))], [floats(4)] * 2)
TypeError: `outs[0]` and `outs[1]` must share one dtype; got float64 and float32. Cast `outs[1]` to float64, or all to another.

merge_attentions([floats(4, 3), foreign(floats(4, 3))], [floats(4)] * 2)
TypeError: All arrays must come from one Array API library; `outs[0]` is a {kind}, `outs[1]` is a {foreign_kind}, `lses[0]` is a {kind}, `lses[1]` is a {kind}.
"""

ANALYSIS = """
attention_entropy([0.5, 0.5])
TypeError: `weights` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

attention_entropy(ints(2, 2))
TypeError: `weights` must have a real floating dtype; got int64. Cast it to float32 first.

attention_entropy(floats(4))
ValueError: `weights` must have shape (..., num_heads, q_len, kv_len), with 2 or more axes; got shape (4,).

attention_rollout([])
ValueError: `weights` must hold one layer or more; got none.

attention_rollout(floats(0, 1, 3, 3))
ValueError: `weights` must hold one layer or more; got none.

attention_rollout([floats(3, 3), None])
TypeError: `weights[1]` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention_rollout([floats(3, 3), single(floats(3, 3))])
TypeError: `weights[0]` and `weights[1]` must share one dtype; got float64 and float32. …

attention_rollout([floats(3, 3), foreign(floats(3, 3))])
TypeError: All arrays must come from one Array API library; `weights[0]` is a {kind}, `weights[1]` is a {foreign_kind}.

attention_rollout(ints(2, 3, 3))
TypeError: `weights` must have a real floating dtype; got int64. Cast it to float32 first.

attention_rollout(floats(3, 3))
ValueError: `weights` must have shape (layers, ..., num_heads, length, length), with 3 or more axes; got shape (3, 3).

attention_rollout([floats(3)])
ValueError: `weights[0]` must have shape (..., num_heads, length, length), with 2 or more axes; got shape (3,).

attention_rollout([floats(3, 3), floats(2, 4, 3)])
ValueError: `weights[1]` must be square, the weights of self-attention; got q_len=4 and kv_len=3.

attention_rollout([floats(1, 2, 3, 3), floats(2, 2, 3, 3)])
ValueError: `weights[0]` and `weights[1]` must have one shape but for the number of heads (axis -3); got (1, 2, 3, 3) and (2, 2, 3, 3).

attention_rollout([floats(3, 3), floats(2, 2, 2)])
ValueError: `weights[0]` and `weights[1]` must have one shape but for the number of heads (axis -3); got (3, 3) and (2, 2, 2).

attention_rollout([floats(3, 3)], residual=1.5)
ValueError: `residual` must be in [0, 1]; got 1.5.

attention_rollout([floats(3, 3)], residual="half")
TypeError: `residual` must be a number; got 'half'.
"""

DERIVATIVES = """
attention_vjp(query, key, value, outputs, engine="dense")
TypeError: attention_vjp() has no option `engine`; it takes bias, compute_dtype, dropout_mask, dropout_rate, is_causal, mask, q_offset, scale, score_mod, segment_ids, sinks, softcap and window_size.

attention_jvp((query, key, value), (query, key, value), engine="dense")
TypeError: attention_jvp() has no option `engine`; it takes bias, compute_dtype, dropout_mask, dropout_rate, is_causal, mask, q_offset, scale, score_mod, segment_ids, sinks, softcap and window_size.

attention_jvp((query, key, value), (query, key, value), d_lse=None)
TypeError: attention_jvp() has no option `d_lse`; it takes …

attention_vjp(query, key, value, outputs, score_mod=lambda scores, q_pos, kv_pos: scores, q_offset=0)
NotImplementedError: `score_mod` must be None in attention_vjp(), since the derivative of a function has no closed form; got one. Differentiate attention() by the library's own means, such as torch.autograd or jax.grad.

attention_jvp((query, key, value), (), score_mod=lambda scores, q_pos, kv_pos: scores, q_offset=0)
NotImplementedError: `score_mod` must be None in attention_jvp(), since the derivative of a function has no closed form; got one. …

attention_vjp(query, key, value, None)
TypeError: `d_out` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention_vjp(query, key, value, foreign(outputs))
TypeError: All arrays must come from one Array API library; `query` is a {kind}, `d_out` is a {foreign_kind}.

attention_vjp(query, key, value, ints(*outputs.shape))
TypeError: `d_out` must have a real floating dtype; got int64. Cast it to float32 first.

attention_vjp(query, key, value, floats(1, num_heads, q_len, value_dim))
ValueError: `d_out` must have shape (*batch, num_heads, q_len, value_dim), here ({batch}, {num_heads}, {q_len}, {value_dim}); got shape (1, {num_heads}, {q_len}, {value_dim}).

attention_vjp(query, key, value, floats(batch, num_heads, q_len, value_dim + 1))
ValueError: `d_out` must have shape (*batch, num_heads, q_len, value_dim), here …; got shape ({batch}, {num_heads}, {q_len}, {value_dim + 1}).

attention_vjp(query, key, value, outputs, d_lse=1.0)
TypeError: `d_lse` must be an array; got float. Make one with `asarray` of NumPy, JAX or PyTorch.

attention_vjp(query, key, value, outputs, d_lse=bools(*scores[:-1]))
TypeError: `d_lse` must have a real floating dtype; got bool. Cast it to float32 first.

attention_vjp(query, key, value, outputs, d_lse=floats(*scores[:-1], 1))
ValueError: `d_lse` must have shape (*batch, num_heads, q_len), here ({batch}, {num_heads}, {q_len}); got shape ({batch}, {num_heads}, {q_len}, 1).

attention_vjp(query, key, value, outputs, saved=outputs)
TypeError: `saved` must be a pair (out, lse), as attention_with_lse() returns it; got {kind}.

attention_vjp(query, key, value, outputs, saved=(outputs, None, None))
TypeError: `saved` must be a pair (out, lse), as attention_with_lse() returns it; got a tuple of 3.

attention_vjp(query, key, value, outputs, saved=(None, floats(*scores[:-1])))
TypeError: `saved[0]` must be an array; got None. Make one with `asarray` of NumPy, JAX or PyTorch.

attention_vjp(query, key, value, outputs, saved=(floats(q_len, value_dim), floats(*scores[:-1])))
ValueError: `saved[0]` must have shape (*batch, num_heads, q_len, value_dim), here …; got shape ({q_len}, {value_dim}).

attention_vjp(query, key, value, outputs, saved=(outputs, floats(q_len)))
ValueError: `saved[1]` must have shape (*batch, num_heads, q_len), here …; got shape ({q_len},).

attention_jvp(query, key)
TypeError: `primals` must be a tuple (query, key, value); got {kind}. `bias` and `sinks` are options, as in attention().

attention_jvp((query, key, value, query), (query, key, value))
TypeError: `primals` must be a tuple (query, key, value); got a tuple of 4. `bias` and `sinks` are options, as in attention().

attention_jvp((query, key, value), query)
TypeError: `tangents` must be a tuple (query, key, value), with bias and sinks after them if these change, too; got {kind}. What does not change is ().

attention_jvp((query, key, value), None)
TypeError: `tangents` must be a tuple (query, key, value), with bias and sinks after them if these change, too; got None. What does not change is ().

attention_jvp((query, key, value), (query, key))
TypeError: `tangents` must be a tuple (query, key, value), with bias and sinks after them if these change, too; got a tuple of 2. What does not change is ().

attention_jvp((query, key, value), [()] * 6)
TypeError: `tangents` must be a tuple (query, key, value), with bias and sinks after them if these change, too; got a list of 6. What does not change is ().

attention_jvp((query, key, value), (1.0, (), ()))
TypeError: `tangents[0]` must be an array; got float. Make one with `asarray` of NumPy, JAX or PyTorch.

attention_jvp((query, key, value), ((), foreign(key), ()))
TypeError: All arrays must come from one Array API library; `query` is a {kind}, `tangents[1]` is a {foreign_kind}.

attention_jvp((query, key, value), ((), (), ints(*value.shape)))
TypeError: `tangents[2]` must have a real floating dtype; got int64. Cast it to float32 first.

attention_jvp((query, key, value), ((), floats(kv_len, head_dim), ()))
ValueError: `tangents[1]` must have the shape of `key`, here ({batch}, {num_kv_heads}, {kv_len}, {head_dim}); got shape ({kv_len}, {head_dim}).

attention_jvp((query, key, value), ((), (), (), floats(1, kv_len)), bias=floats(q_len, kv_len))
ValueError: `tangents[3]` must have the shape of `bias`, here ({q_len}, {kv_len}); got shape (1, {kv_len}).

attention_jvp((query, key, value), ((), (), (), floats(kv_len)))
ValueError: `tangents[3]` must be () unless there is an array `bias` to change; got shape ({kv_len},) where `bias` is not given.

attention_jvp((query, key, value), ((), (), (), floats(kv_len)), bias=lambda q_pos, kv_pos: q_pos - kv_pos, q_offset=0)
ValueError: `tangents[3]` must be () unless there is an array `bias` to change; got shape ({kv_len},) where `bias` is a function.

attention_jvp((query, key, value), ((), (), (), (), floats(num_heads)), sinks=0.5)
ValueError: `tangents[4]` must have the shape of `sinks`, here (); got shape ({num_heads},).
"""

MASK_MAKERS = """
causal_mask(4, 6)
ValueError: `causal_mask` needs `q_offset` when q_len and kv_len differ; got q_len=4, kv_len=6. q_offset=2 puts the queries last, as in decoding from a cache; q_offset=0 puts them first, as torch and JAX do.

sliding_window_mask(4, 6, window_size=(1, 0))
ValueError: `sliding_window_mask` needs `q_offset` when q_len and kv_len differ; got q_len=4, kv_len=6. …

chunk_mask(4, 6, chunk_len=2)
ValueError: `chunk_mask` needs `q_offset` when q_len and kv_len differ; got q_len=4, kv_len=6. …

prefix_mask(4, 6, prefix_len=2)
ValueError: `prefix_mask` needs `q_offset` when q_len and kv_len differ; got q_len=4, kv_len=6. …

causal_mask(-1)
ValueError: `q_len` must be 0 or more; got -1.

causal_mask(2, -3, q_offset=0)
ValueError: `kv_len` must be 0 or more; got -3.

causal_mask(4.0)
TypeError: `q_len` must be an int; got 4.0.

causal_mask(True)
TypeError: `q_len` must be an int; got True.

causal_mask(ints(3))
TypeError: `q_len` must be an int; got a {kind} of shape (3,).

causal_mask(4, q_offset=1.5)
TypeError: `q_offset` must be an int or an integer array; got 1.5.

causal_mask(4, q_offset=floats(2))
TypeError: `q_offset` must have an integer dtype; got float64.

causal_mask(4, q_offset=10**30, xp=xp)
ValueError: `q_offset` must lie between -4611686018427387903 and 4611686018427387903, to fit into int64 positions; got 1000000000000000000000000000000.

causal_mask(4, xp="numpy")
TypeError: `xp` must be an array namespace, such as numpy or torch; got 'numpy'.

causal_mask(4, xp=math)
TypeError: `xp` must be an array namespace, such as numpy or torch; got math.

causal_mask(4, q_offset=ints(2), xp=foreign_xp)
TypeError: `q_offset` must be an array of the library in `xp`, {foreign_library}; got a {kind}.

sliding_window_mask(4, window_size=None)
TypeError: `window_size` must be a pair (left, right); got None.

sliding_window_mask(4, window_size=3)
TypeError: `window_size` must be a pair (left, right); got 3. Libraries read one number in several ways: …

sliding_window_mask(4, window_size=(-2, 0))
ValueError: `window_size` must hold bounds of 0 or more; got (-2, 0). …

chunk_mask(4, chunk_len=0)
ValueError: `chunk_len` must be 1 or more; got 0.

chunk_mask(4, chunk_len=2.0)
TypeError: `chunk_len` must be an int; got 2.0.

prefix_mask(4, prefix_len=2.0)
TypeError: `prefix_len` must be an int or an integer array; got 2.0.

prefix_mask(4, prefix_len=floats(2))
TypeError: `prefix_len` must have an integer dtype; got float64.

prefix_mask(4, prefix_len=ints(2), q_offset=foreign(ints(2)))
TypeError: All arrays must come from one Array API library; `q_offset` is a {foreign_kind}, `prefix_len` is a {kind}.

prefix_mask(4, prefix_len=ints(2), q_offset=ints(3))
ValueError: `q_offset` and `prefix_len` must have one shape; got (3,) and (2,).

prefix_mask(4, prefix_len=ints(2), q_offset=ints(2, 1))
ValueError: `q_offset` and `prefix_len` must have one shape; got (2, 1) and (2,).

segment_mask([0, 1])
TypeError: `q_segments` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

segment_mask(floats(4))
TypeError: `q_segments` must have an integer dtype; got float64.

segment_mask(ints(4), ints())
ValueError: `kv_segments` must have shape (..., length), with 1 or more axes; got shape ().

segment_mask(ints(2, 4), ints(3, 4))
ValueError: `q_segments` and `kv_segments` must have the same axes before the last; got shapes (2, 4) and (3, 4).

segment_mask(ints(4, 4), ints(4))
ValueError: `q_segments` and `kv_segments` must have the same axes before the last; got shapes (4, 4) and (4,).

segment_mask(ints(4), foreign(ints(4)))
TypeError: All arrays must come from one Array API library; `q_segments` is a {kind}, `kv_segments` is a {foreign_kind}.

padding_mask([1, 2], 4)
TypeError: `lengths` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

padding_mask(bools(2, 4), 4)
TypeError: `lengths` must have an integer dtype; got bool.

padding_mask(ints(2), -4)
ValueError: `kv_len` must be 0 or more; got -4.

padding_mask(ints(2), 4.0)
TypeError: `kv_len` must be an int; got 4.0.

token_padding_mask([1, 0], 0)
TypeError: `tokens` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

token_padding_mask(floats(2, 4), 0)
TypeError: `tokens` must have an integer dtype; got float64.

token_padding_mask(ints(), 0)
ValueError: `tokens` must have shape (..., kv_len), with 1 or more axes; got shape ().

token_padding_mask(ints(2, 4), None)
TypeError: `pad_token` must be an int; got None.
"""

HEADS = """
split_heads([[1.0]], 1)
TypeError: `x` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

split_heads(floats(4), 2)
ValueError: `x` must have shape (..., length, model_dim), with 2 or more axes; got shape (4,).

split_heads(floats(4, 4), 0)
ValueError: `num_heads` must be 1 or more; got 0.

split_heads(floats(4, 4), 2.0)
TypeError: `num_heads` must be an int; got 2.0.

split_heads(floats(3, 4), 3)
ValueError: `num_heads` must divide model_dim, the last axis of `x`; got num_heads=3 for shape (3, 4).

merge_heads(floats(4, 4))
ValueError: `x` must have shape (..., num_heads, length, head_dim), with 3 or more axes; got shape (4, 4).

project_heads(ints(4, 4), floats(4, 4, 4))
TypeError: `x` must have a real floating dtype; got int64. Cast it to float32 first.

project_heads(single(floats(4, 4)), floats(4, 4, 4))
TypeError: `x` and `weight` must share one dtype; got float32 and float64. Cast `weight` to float32, or all to another.

project_heads(floats(4, 4), foreign(floats(4, 4, 4)))
TypeError: All arrays must come from one Array API library; `x` is a {kind}, `weight` is a {foreign_kind}.

project_heads(floats(4), floats(4, 4, 4))
ValueError: `x` must have shape (..., length, model_dim), with 2 or more axes; got shape (4,).

project_heads(floats(4, 4), floats(4, 4))
ValueError: `weight` must have shape (model_dim, num_heads, head_dim); got shape (4, 4).

project_heads(floats(4, 4), floats(5, 4, 4))
ValueError: model_dim must be the same in axis -1 of `x` and axis 0 of `weight`: 4 and 5; got shapes (4, 4) and (5, 4, 4).

project_heads(floats(4, 4), floats(4, 4, 4), floats(4))
ValueError: `bias` must have shape (num_heads, head_dim), here (4, 4); got shape (4,).

project_heads(floats(4, 4), floats(4, 4, 4), floats(16))
ValueError: `bias` must have shape (num_heads, head_dim), here (4, 4); got shape (16,).

project_heads(floats(4, 4), floats(4, 4, 4), None)
TypeError: `bias` must be an array; got None. …

combine_heads(floats(4, 4), floats(4, 4, 4))
ValueError: `x` must have shape (..., num_heads, length, value_dim), with 3 or more axes; got shape (4, 4).

combine_heads(floats(4, 4, 4), floats(16, 4))
ValueError: `weight` must have shape (num_heads, value_dim, model_dim); got shape (16, 4).

combine_heads(floats(1, 4, 4), floats(4, 4, 4))
ValueError: num_heads must be the same in axis -3 of `x` and axis 0 of `weight`: 1 and 4; got shapes (1, 4, 4) and (4, 4, 4).

combine_heads(floats(4, 4, 5), floats(4, 4, 4))
ValueError: value_dim must be the same in axis -1 of `x` and axis 1 of `weight`: 5 and 4; got shapes (4, 4, 5) and (4, 4, 4).

combine_heads(floats(4, 4, 4), floats(4, 4, 4), floats(1))
ValueError: `bias` must have shape (model_dim,), here (4,); got shape (1,).
"""

MULTI_HEAD = """
multi_head_attention(params._asdict(), features)
TypeError: `params` must be MultiHeadAttentionParams; got dict.

multi_head_attention(features, params)
TypeError: `params` must be MultiHeadAttentionParams; got {kind}.

multi_head_attention(MultiHeadAttentionParams(), features)
ValueError: `params` must hold w_q, w_k and w_v, or w_qkv, and w_o; missing: w_q, w_k, w_v and w_o.

multi_head_attention(params._replace(w_k=()), features)
ValueError: `params` must hold w_q, w_k and w_v, or w_qkv, and w_o; missing: w_k.

multi_head_attention(fused._replace(w_o=()), features)
ValueError: `params` must hold w_q, w_k and w_v, or w_qkv, and w_o; missing: w_o.

multi_head_attention_weights(params._replace(w_q=()), features)
ValueError: `params` must hold …; missing: w_q.

multi_head_attention(params._replace(w_qkv=fused.w_qkv), features)
ValueError: `params` must hold either a fused w_qkv and b_qkv or w_q, w_k, w_v and their biases, not both; got w_q, w_k and w_v beside w_qkv.

multi_head_attention(params._replace(b_qkv=floats(4, 4)), features)
ValueError: `params` must hold either a fused w_qkv and b_qkv or w_q, w_k, w_v and their biases, not both; got b_qkv beside w_q.

multi_head_attention(fused._replace(b_q=floats(num_heads, head_dim)), features)
ValueError: `params` must hold either a fused w_qkv and b_qkv or w_q, w_k, w_v and their biases, not both; got b_q beside w_qkv.

multi_head_attention(fused._replace(w_qkv=floats(model_dim, num_heads + 3, head_dim)), features)
ValueError: `params.w_qkv` must have num_heads + 2 * num_kv_heads heads (axis 1); got {num_heads + 3} where `params.w_o` has num_heads={num_heads} (axis 0).

multi_head_attention(fused._replace(w_qkv=floats(model_dim, num_heads, head_dim)), features)
ValueError: `params.w_qkv` must have num_heads + 2 * num_kv_heads heads (axis 1); got {num_heads} where `params.w_o` has num_heads={num_heads} (axis 0).

multi_head_attention(params, floats(batch, q_len, model_dim + 1))
ValueError: model_dim must be the same in axis -1 of `query` and axis 0 of `params.w_q`: {model_dim + 1} and {model_dim}; got shapes …

multi_head_attention(params, features, floats(batch, kv_len, model_dim + 1))
ValueError: model_dim must be the same in axis -1 of `key` and axis 0 of `params.w_k`: {model_dim + 1} and {model_dim}; got shapes …

multi_head_attention(params, features, features, floats(batch, q_len, model_dim + 1))
ValueError: model_dim must be the same in axis -1 of `value` and axis 0 of `params.w_v`: {model_dim + 1} and {model_dim}; got shapes …

multi_head_attention(fused, features, floats(batch, kv_len, model_dim + 1))
ValueError: model_dim must be the same in axis -1 of `key` and axis 0 of `params.w_qkv`: {model_dim + 1} and {model_dim}; got shapes …

multi_head_attention(params, features, features, floats(batch, q_len + 1, model_dim))
ValueError: `key` and `value` must have the same kv_len (axis -2): {q_len} and {q_len + 1}; got shapes …

multi_head_attention(params, features, floats(batch + 1, kv_len, model_dim))
ValueError: The batch axes of `query`, `key` and `value` must broadcast, so be equal, 1 or absent; got ({batch},), ({batch + 1},) and ({batch + 1},).

multi_head_attention(params, features, mask=bools(batch, q_len, q_len))
ValueError: `mask` must have shape (kv_len,), (q_len, kv_len), or one axis for each of the scores …

multi_head_attention(params, None)
TypeError: `query` must be an array; got None. …

multi_head_attention(params, [[1.0]])
TypeError: `query` must be an array; got list. …

multi_head_attention(params, floats())
ValueError: `query` must have shape …; got shape ().

multi_head_attention(params, floats(model_dim))
ValueError: `query` must have shape …; got shape ({model_dim},).

multi_head_attention(params, ints(q_len, model_dim))
TypeError: `query` must have a real floating dtype; got int64. …

multi_head_attention(params, single(features))
TypeError: `query` and `params.w_q` must share one dtype; got float32 and float64. …

multi_head_attention(params, features, foreign(features))
TypeError: All arrays must come from one Array API library; …`key` is a {foreign_kind}…

multi_head_attention(params._replace(w_q=None), features)
TypeError: `params.w_q` must be an array; got None. …

multi_head_attention(params._replace(w_v=[[[1.0]]]), features)
TypeError: `params.w_v` must be an array; got list. …

multi_head_attention(params._replace(b_q=None), features)
TypeError: `params.b_q` must be an array; got None. …

multi_head_attention(params._replace(w_o=None), features)
TypeError: `params.w_o` must be an array; got None. …

multi_head_attention(params._replace(w_qkv=None), features)
TypeError: `params.w_qkv` must be an array; got None. …

multi_head_attention(params._replace(w_k=floats(model_dim, model_dim)), features)
ValueError: `params.w_k` must have shape …; got shape ({model_dim}, {model_dim}).

multi_head_attention(params._replace(w_q=floats()), features)
ValueError: `params.w_q` must have shape …; got shape ().

multi_head_attention(params._replace(b_k=floats(num_kv_heads + 1, head_dim)), features)
ValueError: `params.b_k` must have shape …, here ({num_kv_heads}, {head_dim}); got shape ({num_kv_heads + 1}, {head_dim}).

multi_head_attention(params._replace(w_o=floats(num_heads * head_dim, model_dim)), features)
ValueError: `params.w_o` must have shape …; got shape …

multi_head_attention(params._replace(w_o=floats(num_heads + 1, head_dim, model_dim)), features)
ValueError: num_heads must be the same in …`params.w_o`…

multi_head_attention(params._replace(b_o=floats(1)), features)
ValueError: `params.b_o` must have shape …, here ({model_dim},); got shape (1,).

multi_head_attention(fused._replace(w_o=floats()), features)
ValueError: `params.w_o` must have shape …; got shape ().

multi_head_attention(fused._replace(w_qkv=floats(model_dim)), features)
ValueError: `params.w_qkv` must have shape …; got shape ({model_dim},).

multi_head_attention(fused._replace(b_qkv=floats(head_dim)), features)
ValueError: `params.b_qkv` must have shape …; got shape ({head_dim},).

multi_head_attention(fused._replace(b_qkv=floats(head_dim)), features, context)
ValueError: `params.b_qkv` must have shape …; got shape ({head_dim},).
"""

PARAMETERS = """
init_multi_head_attention(8, 2, rng=0)
TypeError: `rng` must be a numpy.random.Generator; got 0. Make one with numpy.random.default_rng(seed).

init_multi_head_attention(8, 2, rng=None)
TypeError: `rng` must be a numpy.random.Generator; got None. Make one with numpy.random.default_rng(seed).

init_multi_head_attention(8, 2, rng=np.random)
TypeError: `rng` must be a numpy.random.Generator; got module. Make one with numpy.random.default_rng(seed).

init_multi_head_attention(8, 2, rng=rng, init="kaiming")
ValueError: `init` must be one of 'xavier', 'orthogonal', 'normal'; got 'kaiming'.

init_multi_head_attention(0, 2, rng=rng)
ValueError: `model_dim` must be 1 or more; got 0.

init_multi_head_attention(8.0, 2, rng=rng)
TypeError: `model_dim` must be an int; got 8.0.

init_multi_head_attention(8, 0, rng=rng)
ValueError: `num_heads` must be 1 or more; got 0.

init_multi_head_attention(8, "2", rng=rng)
TypeError: `num_heads` must be an int; got '2'.

init_multi_head_attention(10, 4, rng=rng)
ValueError: `num_heads` must divide `model_dim` unless `head_dim` is given; got num_heads=4 and model_dim=10.

init_multi_head_attention(8, 4, rng=rng, num_kv_heads=3)
ValueError: `num_heads` must be a multiple of `num_kv_heads`, so that each key/value head serves the same number of query heads; got num_heads=4 and num_kv_heads=3. …

init_multi_head_attention(8, 4, rng=rng, num_kv_heads=0)
ValueError: `num_kv_heads` must be 1 or more; got 0.

init_multi_head_attention(8, 4, rng=rng, head_dim=0)
ValueError: `head_dim` must be 1 or more; got 0.

init_multi_head_attention(8, 4, rng=rng, value_dim=2.0)
TypeError: `value_dim` must be an int; got 2.0.

init_multi_head_attention(8, 4, rng=rng, kv_model_dim=-8)
ValueError: `kv_model_dim` must be 1 or more; got -8.

init_multi_head_attention(8, 4, rng=rng, v_model_dim="8")
TypeError: `v_model_dim` must be an int; got '8'.

init_multi_head_attention(8, 4, rng=rng, out_dim=0)
ValueError: `out_dim` must be 1 or more; got 0.

init_multi_head_attention(8, 4, rng=rng, is_fused=True, value_dim=3)
ValueError: `is_fused` needs one model_dim, and value_dim equal to head_dim; got model_dim=8, kv_model_dim=8, v_model_dim=8, head_dim=2, value_dim=3. Use is_fused=False.

init_multi_head_attention(8, 4, rng=rng, is_fused=True, kv_model_dim=3)
ValueError: `is_fused` needs one model_dim, and value_dim equal to head_dim; got model_dim=8, kv_model_dim=3, …

init_multi_head_attention(8, 4, rng=rng, is_fused=1)
TypeError: `is_fused` must be True or False; got 1.

init_multi_head_attention(8, 4, rng=rng, has_bias="yes")
TypeError: `has_bias` must be True or False; got 'yes'.

init_multi_head_attention(8, 4, rng=rng, xp=xp, dtype=xp.int32)
TypeError: `dtype` must be a real floating dtype of {library}; got {library} int32.

init_multi_head_attention(8, 4, rng=rng, xp=xp, dtype="float32")
TypeError: `dtype` must be a real floating dtype of {library}; got 'float32'.

init_multi_head_attention(8, 4, rng=rng, xp=xp, dtype=foreign_dtype)
TypeError: `dtype` must be a real floating dtype of {library}; got … float64.

init_multi_head_attention(8, 4, rng=rng, xp="jax")
TypeError: `xp` must be an array namespace, such as numpy or torch; got 'jax'.

flatten_params({"w": floats(2), "b": None})
TypeError: `b` must be an array; got None. An absent parameter is written ().

flatten_params({"layers": [{"w": 1.0}]})
TypeError: `layers.0.w` must be an array; got float. Make one with `asarray` of NumPy, JAX or PyTorch.

flatten_params("params")
TypeError: `params` must be an array; got str. Make one with `asarray` of NumPy, JAX or PyTorch.

flatten_params({"layers.0": floats(2)})
ValueError: A name in `params` must not hold a dot, which separates names; got 'layers.0'.

unflatten_params([floats(2), floats(2)], {"0": floats(2)})
ValueError: `flat` must hold the names of `like`; '1' is missing.

unflatten_params(params, {})
ValueError: `flat` must hold the names of `like`; 'w_q', 'w_k', 'w_v' and 'w_o' are missing.

unflatten_params(params, flat_fused)
ValueError: `flat` must hold the names of `like`; 'w_q', 'w_k' and 'w_v' are missing and 'w_qkv' is left over.

unflatten_params([floats(2)], {"0": floats(2), "bias": floats(2), "scale": floats(2)})
ValueError: `flat` must hold the names of `like`; 'bias' and 'scale' are left over.

unflatten_params([floats(2, 3)], {"0": floats(3, 2)})
ValueError: `0` must have the shape that it has in `like`, (2, 3); got shape (3, 2).

unflatten_params([floats(2)], {"0": [1.0, 2.0]})
TypeError: `0` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

unflatten_params([None], {"0": floats(2)})
TypeError: `0` must be an array; got None. An absent parameter is written ().

unflatten_params([floats(2)], [floats(2)])
TypeError: `flat` must be a …dict…; got list…

unflatten_params([floats(2)], None)
TypeError: `flat` must be a …dict…; got None…
"""

POSITIONS = """
rotary_angles([0, 1], 4)
TypeError: `positions` must be an array; got list. Make one with `asarray` of NumPy, JAX or PyTorch.

rotary_angles(bools(4), 4)
TypeError: `positions` must have an integer or a real floating dtype; got bool.

rotary_angles(ints(), 4)
ValueError: `positions` must have shape (..., length), with 1 or more axes; got shape ().

rotary_angles(ints(4), 5)
ValueError: `dim` must be even, since features come in pairs; got 5.

rotary_angles(ints(4), 0)
ValueError: `dim` must be 2 or more; got 0.

rotary_angles(ints(4), 4.0)
TypeError: `dim` must be an int; got 4.0.

rotary_angles(ints(4), 4, base=1)
ValueError: `base` must be finite and greater than 1; got 1.

rotary_angles(ints(4), 4, base="10000")
TypeError: `base` must be a number; got '10000'.

rotary_angles(ints(4), 4, scaling=4.0)
TypeError: `scaling` must be a function of (frequencies, length), such as LinearScaling(4.0); got 4.0.

rotary_angles(ints(4), 4, scaling=lambda frequencies, length: frequencies + (1.0,))
TypeError: `scaling` must return a pair (frequencies, attention_factor); got a tuple of 3.

rotary_angles(ints(4), 4, scaling=lambda frequencies, length: (frequencies[1:], 1.0))
ValueError: `scaling` must return dim / 2 = 2 frequencies; got shape (1,).

rotary_angles(ints(4), 4, scaling=LongRoPEScaling([1.0], [1.0], 8))
ValueError: `short_factors` must hold dim / 2 = 2 numbers; got 1.

rotary_angles(ints(2, 4), 4, scaling=LinearScaling(2.0), length=ints(4))
ValueError: `length` must have shape () or (*batch,), here () or (2,); got shape (4,).

rotary_angles(ints(4), 4, dtype=xp.int64)
TypeError: `dtype` must be a real floating dtype of {library}; got …int64.

apply_rotary(floats(4), floats(4, 2), floats(4, 2))
ValueError: `x` must have shape (..., num_heads, length, head_dim), with 2 or more axes; got shape (4,).

apply_rotary(floats(2, 3, 4, 8), floats(2, 4, 4), floats(2, 4, 4))
ValueError: `cos` and `sin` must have shape (length, dim / 2), or one axis for each of `x` (2, 3, 4, 8); got shape (2, 4, 4). Write cos[:, None] for (batch, length, dim / 2), which is what rotary_angles() gives for positions of shape (batch, length).

apply_rotary(floats(3, 4, 8), floats(5, 4), floats(5, 4))
ValueError: `cos` and `sin` must have the length (axis -2) of `x`, at most half as many features (axis -1), and broadcast to it without enlarging it; got shape (5, 4) for `x` of shape (3, 4, 8).

apply_rotary(floats(3, 4, 8), floats(4, 5), floats(4, 5))
ValueError: `cos` and `sin` must have the length (axis -2) of `x`, at most half as many features (axis -1), … got shape (4, 5) for `x` of shape (3, 4, 8).

apply_rotary(floats(1, 3, 4, 8), floats(2, 1, 4, 4), floats(2, 1, 4, 4))
ValueError: `cos` and `sin` must … broadcast to it without enlarging it; got shape (2, 1, 4, 4) for `x` of shape (1, 3, 4, 8).

apply_rotary(floats(4, 8), floats(4, 4), floats(4, 3))
ValueError: `cos` and `sin` must have one shape; got (4, 4) and (4, 3).

apply_rotary(floats(4, 8), floats(4, 4), floats(4, 4), interleaved=None)
TypeError: `interleaved` must be True or False; got None.

apply_rotary(ints(4, 8), floats(4, 4), floats(4, 4))
TypeError: `x` must have a real floating dtype; got int64. Cast it to float32 first.

apply_rotary(floats(4, 8), foreign(floats(4, 4)), foreign(floats(4, 4)))
TypeError: All arrays must come from one Array API library; `x` is a {kind}, `cos` is a {foreign_kind}, `sin` is a {foreign_kind}.

sinusoidal_positions(ints(4), 5)
ValueError: `dim` must be even, since features come in pairs; got 5.

alibi_slopes(0)
ValueError: `num_heads` must be 1 or more; got 0.

alibi_bias(floats(2, 1), ints(4, 1), ints(1, 4))
ValueError: `slopes` must have shape (num_heads,); got shape (2, 1).

alibi_bias(floats(2), ints(4), ints(4))
ValueError: `q_pos` and `kv_pos` must have shapes (q_len, 1) and (1, kv_len), or (*batch, 1, q_len, 1) and (*batch, 1, 1, kv_len); got (4,) when broadcast.

alibi_bias(floats(2), ints(3, 4, 1), ints(1, 4))
ValueError: `q_pos` and `kv_pos` must have shapes (q_len, 1) and (1, kv_len), … got (3, 4, 4) when broadcast.

alibi_bias(floats(2), floats(4, 1), ints(1, 4))
TypeError: `q_pos` must have an integer dtype; got float64.

relative_position_bias(floats(8), ints(4, 1), ints(1, 4))
ValueError: `table` must have shape (num_buckets, num_heads); got shape (8,).

relative_position_bias(floats(3, 2), ints(4, 1), ints(1, 4))
ValueError: `num_buckets` must be 4 or more; got 3.

relative_position_bucket(ints(4), max_distance=8)
ValueError: `max_distance` must be 9 or more; got 8.

relative_position_bucket(floats(4))
TypeError: `relative_position` must have an integer dtype; got float64.
"""

CACHES = """
init_kv_cache(2, 0, 4)
ValueError: `capacity` must be 1 or more; got 0.

init_kv_cache(2, 8, 4, batch=2.0)
TypeError: `batch` must be an int or a tuple of ints; got 2.0.

init_kv_cache(2, 8, 4, batch=(2, -1))
ValueError: `batch` must hold sizes of 0 or more; got (2, -1).

init_kv_cache(2, 8, 4, is_rolling=1)
TypeError: `is_rolling` must be True or False; got 1.

append_kv_cache(None, floats(2, 3, 4), floats(2, 3, 4))
TypeError: `cache` must be a KVCache; got None. Make an empty one with init_kv_cache().

append_kv_cache(cache, floats(2, 3, 4), floats(2, 3, 5))
ValueError: `value` must have the shape of `cache.value` in every axis but the length (axis -2); got shape (2, 3, 5) for (2, 8, 4).

append_kv_cache(cache, floats(1, 3, 4), floats(1, 3, 4))
ValueError: `key` must have the shape of `cache.key` in every axis but the length (axis -2); got shape (1, 3, 4) for (2, 8, 4).

append_kv_cache(cache, floats(1, 2, 3, 4), floats(1, 2, 3, 4))
ValueError: `key` must have the shape of `cache.key` in every axis but the length (axis -2); got shape (1, 2, 3, 4) for (2, 8, 4).

append_kv_cache(cache, floats(2, 3, 4), floats(2, 2, 4))
ValueError: `key` and `value` must have the same length (axis -2): 3 and 2; got shapes (2, 3, 4) and (2, 2, 4).

append_kv_cache(cache, single(floats(2, 3, 4)), single(floats(2, 3, 4)))
TypeError: `key`, `value`, `cache.key` and `cache.value` must share one dtype; got float32, float32, float64 and float64. Cast `cache.key` and `cache.value` to float32, or all to another.

append_kv_cache(cache, foreign(floats(2, 3, 4)), foreign(floats(2, 3, 4)))
TypeError: All arrays must come from one Array API library; `key` is a {foreign_kind}, `value` is a {foreign_kind}, `cache.key` is a {kind}, `cache.value` is a {kind}.

append_kv_cache(cache._replace(length=1.5), floats(2, 3, 4), floats(2, 3, 4))
TypeError: `cache.length` must be an int or an integer array; got 1.5.

append_kv_cache(cache._replace(length=floats()), floats(2, 3, 4), floats(2, 3, 4))
TypeError: `cache.length` must have an integer dtype; got float64.

append_kv_cache(cache._replace(length=ints(3)), floats(2, 3, 4), floats(2, 3, 4))
ValueError: `cache.length` must have shape () or (*batch,), here (); got shape (3,).

append_kv_cache(cache._replace(positions=ints(7)), floats(2, 3, 4), floats(2, 3, 4))
ValueError: `cache.positions` must have shape (*batch, capacity), here (8,); got shape (7,).

append_kv_cache(cache, floats(2, 3, 4), floats(2, 3, 4), is_donated=None)
TypeError: `is_donated` must be True or False; got None.

cached_attention(floats(2, 3, 4), floats(2, 3, 4), floats(2, 3, 4), cache, q_offset=0)
TypeError: cached_attention() has no option `q_offset`; it takes bias, …

cached_attention(floats(2, 1, 4), floats(2, 3, 4), floats(2, 3, 4), cache)
ValueError: `query` and `key` must have the same length (axis -2): 1 and 3; got shapes (2, 1, 4) and (2, 3, 4).

cached_attention(floats(2, 3, 4), floats(2, 3, 4), floats(2, 3, 4), cache, mask=bools(3, 3))
ValueError: `mask` must broadcast to the scores (..., num_heads, q_len, kv_len) = (2, 3, 8) without enlarging them; got shape (3, 3). Write mask[:, None, None, :] for (batch, kv_len).

cached_attention(floats(2, 3, 5), floats(2, 3, 4), floats(2, 3, 4), cache)
ValueError: `query` and `key` must have the same head_dim (axis -1): 5 and 4; got shapes (2, 3, 5) and (2, 8, 4).

reorder_kv_cache(cache, ints(2))
ValueError: `cache.key` must have shape (batch, ..., num_kv_heads, capacity, head_dim), with 4 or more axes; got shape (2, 8, 4).

reorder_kv_cache(cache, floats(2))
TypeError: `indices` must have an integer dtype; got float64.

gather_pages(floats(5, 2, 4), ints(3))
ValueError: `pool` must have shape (num_pages, num_kv_heads, page_len, dim); got shape (5, 2, 4).

gather_pages(floats(5, 2, 4, 3), floats(3))
TypeError: `pages` must have an integer dtype; got float64.

gather_pages(floats(5, 2, 4, 3), ints())
ValueError: `pages` must have shape (..., sequence_pages), with 1 or more axes; got shape ().
"""

DEVICES = """
attention(query, elsewhere(key), value)
ValueError: All arrays must be on one device; `query` is on {here}, `key` is on {there}, `value` is on {here}. Move them to one first.

attention(query, key, elsewhere(value))
ValueError: All arrays must be on one device; `query` is on {here}, `key` is on {here}, `value` is on {there}. Move them to one first.

attention(query, key, value, mask=elsewhere(bools(kv_len)))
ValueError: All arrays must be on one device; … `mask` is on {there}. Move them to one first.

attention(query, key, value, bias=elsewhere(floats(kv_len)))
ValueError: All arrays must be on one device; … `bias` is on {there}. Move them to one first.

attention(query, key, value, q_offset=elsewhere(ints()))
ValueError: All arrays must be on one device; … `q_offset` is on {there}. Move them to one first.

attention(query, key, value, scale=elsewhere(floats()))
ValueError: All arrays must be on one device; … `scale` is on {there}. Move them to one first.

attention(query, key, value, sinks=elsewhere(floats(num_heads)))
ValueError: All arrays must be on one device; … `sinks` is on {there}. Move them to one first.

attention(query, key, value, segment_ids=elsewhere(ints(q_len)))
ValueError: All arrays must be on one device; … `segment_ids` is on {there}. Move them to one first.

attention(query, key, value, segment_ids=(ints(q_len), elsewhere(ints(kv_len))))
ValueError: All arrays must be on one device; … `segment_ids[0]` is on {here}, `segment_ids[1]` is on {there}. Move them to one first.

attention(query, key, value, dropout_mask=elsewhere(bools(kv_len)), dropout_rate=0.5)
ValueError: All arrays must be on one device; … `dropout_mask` is on {there}. Move them to one first.

attention(query, key, value, q_offset=0, mask=lambda q_pos, kv_pos: elsewhere(bools(kv_len)))
ValueError: All arrays must be on one device; `q_pos` is on {here}, `mask(q_pos, kv_pos)` is on {there}. Move them to one first.

attention(query, key, value, q_offset=0, bias=lambda q_pos, kv_pos: elsewhere(floats(kv_len)))
ValueError: All arrays must be on one device; `q_pos` is on {here}, `bias(q_pos, kv_pos)` is on {there}. Move them to one first.

attention(query, key, value, q_offset=0, dropout_rate=0.5, dropout_mask=lambda q_pos, kv_pos: elsewhere(bools(kv_len)))
ValueError: All arrays must be on one device; `q_pos` is on {here}, `dropout_mask(q_pos, kv_pos)` is on {there}. Move them to one first.

attention(query, key, value, q_offset=0, score_mod=lambda scores, q_pos, kv_pos: elsewhere(scores))
ValueError: All arrays must be on one device; `scores` is on {here}, `score_mod(scores, q_pos, kv_pos)` is on {there}. Move them to one first.

attention_vjp(query, key, value, elsewhere(outputs))
ValueError: All arrays must be on one device; `query` is on {here}, `d_out` is on {there}. Move them to one first.

attention_jvp((query, key, value), ((), (), elsewhere(value)))
ValueError: All arrays must be on one device; `query` is on {here}, `tangents[2]` is on {there}. Move them to one first.

merge_attentions([floats(4, 3), elsewhere(floats(4, 3))], [floats(4)] * 2)
ValueError: All arrays must be on one device; `outs[0]` is on {here}, `outs[1]` is on {there}, `lses[0]` is on {here}, `lses[1]` is on {here}. Move them to one first.

prefix_mask(4, prefix_len=ints(2), q_offset=elsewhere(ints(2)))
ValueError: All arrays must be on one device; `q_offset` is on {there}, `prefix_len` is on {here}. Move them to one first.

segment_mask(ints(4), elsewhere(ints(4)))
ValueError: All arrays must be on one device; `q_segments` is on {here}, `kv_segments` is on {there}. Move them to one first.

project_heads(floats(4, 4), elsewhere(floats(4, 4, 4)))
ValueError: All arrays must be on one device; `x` is on {here}, `weight` is on {there}. Move them to one first.

multi_head_attention(params, elsewhere(features))
ValueError: All arrays must be on one device; `query` is on {there}, …

apply_rotary(floats(4, 8), elsewhere(floats(4, 4)), elsewhere(floats(4, 4)))
ValueError: All arrays must be on one device; `x` is on {here}, `cos` is on {there}, `sin` is on {there}. Move them to one first.

alibi_bias(floats(2), ints(4, 1), elsewhere(ints(1, 4)))
ValueError: All arrays must be on one device; … `kv_pos` is on {there}. Move them to one first.

append_kv_cache(cache, elsewhere(floats(2, 3, 4)), floats(2, 3, 4))
ValueError: All arrays must be on one device; `key` is on {there}, `value` is on {here}, `cache.key` is on {here}, `cache.value` is on {here}. Move them to one first.

append_kv_cache(cache._replace(length=elsewhere(ints())), floats(2, 3, 4), floats(2, 3, 4))
ValueError: All arrays must be on one device; `cache.length` is on {there}, `key` is on {here}. Move them to one first.
"""

#: Python speaks here, not this package: these functions spell their options out.
BY_PYTHON = """
attention(query, key, value, attn_mask=None)
TypeError: attention() got an unexpected keyword argument 'attn_mask'…

attention(query, key, value, dropout_p=0.1)
TypeError: attention() got an unexpected keyword argument 'dropout_p'…

attention(query=query, key=key, value=value)
TypeError: attention() got some positional-only arguments passed as keyword arguments: …

sliding_window_mask(4)
TypeError: sliding_window_mask() missing 1 required keyword-only argument: 'window_size'

init_multi_head_attention(8, 2)
TypeError: init_multi_head_attention() missing 1 required keyword-only argument: 'rng'
"""


class Case(NamedTuple):
    call: str
    error: str
    words: str


def read(*tables):
    """Return the cases of some tables as pytest's parameters, each named by its call."""
    entries = [entry for table in tables for entry in table.strip().split("\n\n")]
    cases = [Case(*re.fullmatch(r"(.+)\n(\w+): (.+)", entry).groups()) for entry in entries]
    return [pytest.param(case, id=case.call) for case in cases]


EVERYWHERE = read(
    KINDS_OF_OBJECTS,
    PLAIN_CHOICES,
    UNKNOWN_OPTIONS,
    LIBRARIES_AND_DTYPES,
    AXES_OF_QUERY_KEY_AND_VALUE,
    AXES_OF_MASKS_AND_BIASES,
    AXES_OF_SINKS_OFFSETS_AND_SEGMENTS,
    RESULTS_OF_FUNCTIONS,
    MERGING,
    ANALYSIS,
    DERIVATIVES,
    MASK_MAKERS,
    HEADS,
    MULTI_HEAD,
    PARAMETERS,
    POSITIONS,
    CACHES,
)
by_case = pytest.mark.parametrize("case", EVERYWHERE)


class EagerTensor:
    """What TensorFlow's array looks like from outside: no Array API namespace."""

    shape = (4, 4)
    ndim = 2
    dtype = "float32"


EagerTensor.__module__ = "tensorflow.python.framework.ops"

#: What an array of each library is called in a sentence.
KINDS = {
    "array_api_strict": "array_api_strict Array",
    "numpy": "numpy ndarray",
    "torch": "torch Tensor",
    "jax": "jax Array",
}


@functools.cache
def names_for(xp, sizes):
    """Return what the names in a call and in its words mean on one library."""
    library = library_of(xp)
    n = SIZES[sizes]
    model_dim = n["num_heads"] * n["head_dim"]

    def floats(*shape):
        return asarray(xp, np.linspace(-1, 1, math.prod(shape)).reshape(shape))

    def elsewhere(x):
        return x.to("meta") if library == "torch" else x.to_device(xp.Device("device1"))

    here, there = (
        ("cpu", "meta")
        if library == "torch"
        else (f"array_api_strict.Device('{name}')" for name in ("CPU_DEVICE", "device1"))
    )
    init = functools.partial(
        af.init_multi_head_attention,
        model_dim,
        n["num_heads"],
        num_kv_heads=n["num_kv_heads"],
        rng=np.random.default_rng(0),
        xp=xp,
        dtype=xp.float64,
    )
    return {
        **{name: getattr(af, name) for name in af.__all__},
        **n,
        "model_dim": model_dim,
        "scores": (n["batch"], n["num_heads"], n["q_len"], n["kv_len"]),
        "query": floats(n["batch"], n["num_heads"], n["q_len"], n["head_dim"]),
        "key": floats(n["batch"], n["num_kv_heads"], n["kv_len"], n["head_dim"]),
        "value": floats(n["batch"], n["num_kv_heads"], n["kv_len"], n["value_dim"]),
        "outputs": floats(n["batch"], n["num_heads"], n["q_len"], n["value_dim"]),
        "features": floats(n["batch"], n["q_len"], model_dim),
        "context": floats(n["batch"], n["kv_len"], model_dim),
        "params": init(),
        "fused": init(is_fused=True),
        "flat_fused": af.flatten_params(init(is_fused=True)),
        "cache": af.init_kv_cache(2, 8, 4, xp=xp, dtype=xp.float64),
        "rng": np.random.default_rng(0),
        "np": np,
        "math": math,
        "xp": xp,
        "library": library,
        "kind": KINDS[library],
        "floats": floats,
        "ints": lambda *shape: asarray(xp, np.zeros(shape), "int64"),
        "bools": lambda *shape: asarray(xp, np.ones(shape, dtype=bool)),
        "complexes": lambda *shape: asarray(xp, np.ones(shape, dtype="complex128")),
        "single": lambda x: xp.astype(x, xp.float32),
        "EagerTensor": EagerTensor,
        "elsewhere": elsewhere,
        "here": here,
        "there": there,
        **foreign_names(library),
    }


def foreign_names(library):
    """Return the names of another library: NumPy, whose arrays go unnoticed most easily."""
    name = "array_api_strict" if library == "numpy" else "numpy"
    xp = load(name)

    def foreign(x):
        kind = str(x.dtype).rpartition(".")[2][0]
        return asarray(
            xp, np.ones(tuple(x.shape)), {"b": "bool", "i": "int64"}.get(kind, "float64")
        )

    return {
        "foreign": foreign,
        "foreign_xp": xp,
        "foreign_library": name,
        "foreign_kind": KINDS[name],
        # JAX's dtypes are NumPy's, and array-api-strict warns of a comparison with its own.
        "foreign_dtype": load("numpy" if library == "torch" else "torch").float64,
    }


def error_of(call, names):
    """Return the class and the words of the error that a call gets."""
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as caught:
        eval(call, dict(names))
    return caught.type.__name__, str(caught.value)


@functools.cache
def sentence_on_numpy(call, sizes):
    """Return the sentence that a call gets on NumPy, without the names of libraries."""
    names = names_for(load("numpy"), sizes)
    return without_libraries(error_of(call, names)[1])


def without_libraries(sentence):
    for name in (*KINDS.values(), *KINDS):
        sentence = sentence.replace(name, "_")
    return sentence


def assert_matches(sentence, words, names):
    words = eval(f"f{words!r}", dict(names))
    pattern = ".*".join(map(re.escape, words.split("…")))
    assert re.fullmatch(pattern, sentence), f"\nwanted {words}\ngot    {sentence}"


def assert_reads_well(sentence):
    assert sentence.endswith(".")
    assert "`" in sentence
    assert re.search(r"\bmust\b|\bneeds\b|\bha(s|ve) no\b", sentence)
    assert len(sentence) < 400
    assert len(re.findall(r"\. [A-Z(]", sentence)) <= 2  # three sentences
    assert not re.search(
        r"array_api_compat|Traceback|<class|NoneType|<module| at 0x|\n", sentence
    )
    assert not re.search(
        r"\b(torch|numpy|jax|array_api_strict)\.(bool|u?int|float|complex)", sentence
    )
    assert not re.search(r"torch\.Size|np\.\w+\(|array\(|tensor\(", sentence)


def under_jit(function):
    """Wrap a function so that `jax.jit` traces every JAX array among its arguments."""
    import jax

    def traced(*args, **options):
        leaves, tree = jax.tree.flatten((args, options), is_leaf=lambda x: x is None)
        places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]

        def of_arrays(arrays):
            new = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
            args, options = jax.tree.unflatten(tree, new.values())
            function(*args, **options)

        jax.jit(of_arrays)([leaves[i] for i in places])

    return traced


class TestEveryWrongCall:
    @pytest.mark.parametrize("sizes", SIZES)
    @by_case
    def test_gets_its_sentence(self, xp, case, sizes):
        names = names_for(xp, sizes)

        error, sentence = error_of(case.call, names)

        assert_matches(sentence, case.words, names)
        assert_reads_well(sentence)
        assert error == case.error
        assert without_libraries(sentence) == sentence_on_numpy(case.call, sizes)

    @pytest.mark.libraries(
        "array_api_strict", "torch", reason="the others have one device here"
    )
    @pytest.mark.parametrize("sizes", SIZES)
    @pytest.mark.parametrize("case", read(DEVICES))
    def test_gets_its_sentence_for_arrays_on_two_devices(self, xp, case, sizes):
        names = names_for(xp, sizes)

        error, sentence = error_of(case.call, names)

        assert_matches(sentence, case.words, names)
        assert error == case.error

    @pytest.mark.libraries("jax", reason="only JAX has jax.jit")
    @by_case
    def test_gets_its_sentence_when_jax_traces(self, xp, case):
        names = names_for(xp, "all_sizes_differ")
        traced = {name: under_jit(getattr(af, name)) for name in af.__all__ if name.islower()}

        error, sentence = error_of(case.call, names | traced)

        assert_matches(sentence, case.words, names)
        assert error == case.error

    @pytest.mark.parametrize("case", read(BY_PYTHON))
    def test_is_refused_by_python_itself_where_options_are_spelled_out(self, case):
        names = names_for(load("numpy"), "all_sizes_differ")

        error, sentence = error_of(case.call, names)

        assert_matches(sentence, case.words, names)
        assert error == case.error


def without_value(function):
    return lambda query, key, value, **options: function(query, key, **options)


def vjp_of_no_output(query, key, value, **options):
    return af.attention_vjp(query, key, value, None, **options)


def jvp_of_no_tangents(query, key, value, **options):
    return af.attention_jvp((query, key, value), None, **options)


class TestEverySibling:
    """They share one description of a problem, so they refuse the same calls in the same words."""

    @pytest.mark.parametrize(
        ("sibling", "not_theirs"),
        [
            (af.attention_with_lse, "nothing"),
            (af.select_engine, r"_pos\)`|`score_mod` must return|`q_offset` must lie"),
            (without_value(af.attention_weights), "value`|dropout|engine|All arrays"),
            (without_value(af.attention_scores), "value`|dropout|engine|sinks|All arrays"),
            # These have more to refuse before a function is asked.
            (vjp_of_no_output, r"_pos\)`|`score_mod` must return|`q_offset` must lie|engine"),
            (jvp_of_no_tangents, r"_pos\)`|`score_mod` must return|`q_offset` must lie|engine"),
        ],
        ids=[
            "attention_with_lse",
            "select_engine",
            "attention_weights",
            "attention_scores",
            "attention_vjp",
            "attention_jvp",
        ],
    )
    def test_refuses_what_attention_refuses_in_the_same_words(self, sibling, not_theirs):
        names = names_for(load("numpy"), "all_sizes_differ")
        cases = [param.values[0] for param in EVERYWHERE]
        calls = [
            case.call
            for case in cases
            if case.call.startswith("attention(") and not re.search(not_theirs, case.words)
        ]

        actual = {call: error_of(call, names | {"attention": sibling}) for call in calls}

        assert len(actual) > 50
        assert actual == {call: error_of(call, names) for call in calls}


class TestTable:
    """The tests above prove little if the tables shrink."""

    def test_has_many_rules(self):
        words = {param.values[0].words for param in [*EVERYWHERE, *read(DEVICES)]}

        assert len(words) > 200

    def test_has_every_option_of_attention(self):
        calls = " ".join(param.id for param in EVERYWHERE if param.id.startswith("attention("))
        parameters = inspect.signature(af.attention).parameters.values()
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

        assert options
        assert [name for name in options if f"{name}=" not in calls] == []
