"""Who may attend to whom, got wrong: masks, causal order, windows, lengths, segments."""

import math

import numpy as np

from attnfn.testing._dialects._conventions import Conventions

from ._mutant import mutant
from ._pieces import grouped, hidden, key_of, positions, softmax


@mutant(
    "mask: hidden",
    why="nn.MultiheadAttention marks what is hidden, scaled_dot_product_attention what is seen",
    dtypes=("float64", "float32"),
)
def mask_inverted(query, key, value, /, *, mask=None, scale=None, bug=True):
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key_of(query, key)
    allowed = True if mask is None else (~mask if bug else mask)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant("mask_ignored", why="a kernel takes a mask, and only another path of it reads the mask")
def mask_ignored(query, key, value, /, *, mask=None, is_causal=False, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    if mask is not None and not bug:
        allowed = allowed & mask
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "mask_after_softmax",
    why="weights of hidden keys are set to 0, and the rest no longer sums to 1",
    seen_in="lucidrains/memory-compressed-attention#2",
)
def mask_after_softmax(query, key, value, /, *, mask=None, bias=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    scores = scores if bias is None else scores + bias
    allowed = np.broadcast_to(True if mask is None else mask, scores.shape)
    kept_scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    weights, _ = softmax(scores if bug else kept_scores)
    return np.where(allowed, weights, 0) @ v


@mutant(
    "mask_first_batch",
    why="the mask is read without its batch axis, and all is well with a batch of one",
    seen_in="line/lighthouse#77",
)
def mask_of_first_sequence(query, key, value, /, *, mask=None, bug=True):
    out = np.empty((*query.shape[:-1], value.shape[-1]), query.dtype)
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    mask = np.broadcast_to(True if mask is None else mask, scores.shape)
    for b in range(query.shape[0]):
        allowed = mask[0 if bug else b]
        s, v = hidden(scores[b], grouped(value[b], query.shape[1]), allowed)
        out[b] = softmax(s)[0] @ v
    return out


@mutant(
    "mask_first_head", why="the kernel's mask pointer has a stride for batches, none for heads"
)
def mask_of_first_head(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    mask = np.broadcast_to(True if mask is None else mask, scores.shape)
    mask = mask[:, :1] if bug else mask
    scores, v = hidden(scores, grouped(value, query.shape[-3]), mask)
    return softmax(scores)[0] @ v


@mutant(
    "mask_transposed",
    why="scores are kept with the keys first, and the mask is not turned along",
)
def mask_transposed(query, key, value, /, *, mask=None, bug=True):
    num_heads = query.shape[-3]
    scores = np.einsum("bhkd,bhqd->bhkq", grouped(key, num_heads), query)
    scores = scores / math.sqrt(query.shape[-1])
    allowed = np.ones_like(scores, bool)
    if mask is not None:
        mask = np.atleast_2d(mask)
        allowed = np.broadcast_to(mask if bug else np.swapaxes(mask, -1, -2), scores.shape)
    scores, allowed = np.swapaxes(scores, -1, -2), np.swapaxes(allowed, -1, -2)
    scores, v = hidden(scores, grouped(value, num_heads), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "mask_value: -10000|mask_finite",
    why="BERT adds -10000 to hidden scores; other scores of that size are then taken for hidden",
    also=("empty_row: uniform",),
    dtypes=("float64", "float32"),
    conventions=Conventions(hidden_key="leaks", hidden_value="leaks"),
)
def mask_minus_ten_thousand(query, key, value, /, *, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    v = grouped(value, query.shape[-3])
    if mask is not None:
        added = (1.0 - mask.astype(scores.dtype)) * -10000.0
        scores = scores + (added if bug else np.where(mask, 0, -np.inf).astype(scores.dtype))
    return softmax(scores)[0] @ v


@mutant(
    "mask_finite|mask_value: -10000",
    why="a constant instead of -inf, lest something become NaN",
    seen_in="flashinfer-ai/flashinfer#4267",
    also=("empty_row: uniform", "empty_lse: finite"),
    conventions=Conventions(hidden_value="leaks"),
    returns_lse=True,
)
def mask_constant(query, key, value, /, *, mask=None, is_causal=False, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    allowed = allowed if mask is None else allowed & mask
    weights, lse = softmax(np.where(allowed, scores, -30000.0 if bug else -np.inf))
    return weights @ grouped(value, query.shape[-3]), lse


@mutant("causal_ignored", why="a flag that reaches the reference and not the kernel")
def causal_ignored(
    query, key, value, /, *, is_causal=False, q_offset=None, mask=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = np.ones_like(j <= p) if bug or not is_causal else j <= p
    allowed = allowed if mask is None else allowed & mask
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "causal_strict",
    why="'a query must not see the future' becomes kv_pos < q_pos; the first row is then empty",
    returns_lse=True,
)
def causal_without_itself(query, key, value, /, *, is_causal=False, q_offset=None, bug=True):
    batch, num_heads, q_len, head_dim = query.shape
    out = np.zeros((batch, num_heads, q_len, value.shape[-1]), query.dtype)
    lse = np.full(out.shape[:-1], -np.inf, query.dtype)
    offset = np.broadcast_to(0 if q_offset is None else q_offset, (batch,))
    for b, h, i in np.ndindex(lse.shape):
        end = key.shape[-2]
        if is_causal:
            end = min(end, i + offset[b] + (0 if bug else 1))
        if end <= 0:
            continue
        g = h * key.shape[1] // num_heads
        s = key[b, g, :end] @ query[b, h, i] / math.sqrt(head_dim)
        w = np.exp(s - s.max())
        out[b, h, i] = w @ value[b, g, :end] / w.sum()
        lse[b, h, i] = s.max() + np.log(w.sum())
    return out, lse


@mutant("causal_one_more", why="tril(diagonal=1), or an end of i + 2 where i + 1 is meant")
def causal_one_ahead(query, key, value, /, *, is_causal=False, q_offset=None, bug=True):
    batch, num_heads, q_len, head_dim = query.shape
    out = np.zeros((batch, num_heads, q_len, value.shape[-1]), query.dtype)
    offset = np.broadcast_to(0 if q_offset is None else q_offset, (batch,))
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    for b in range(batch):
        for i in range(q_len):
            end = k.shape[-2]
            if is_causal:
                end = max(min(end, i + offset[b] + (2 if bug else 1)), 0)
            s = np.einsum("hd,hkd->hk", query[b, :, i], k[b, :, :end]) / math.sqrt(head_dim)
            out[b, :, i] = np.einsum("hk,hkd->hd", softmax(s[:, None])[0][:, 0], v[b, :, :end])
    return out


@mutant("causal_reversed", why="triu where tril is meant, or the mask's meaning turned")
def causal_upper_triangle(query, key, value, /, *, is_causal=False, q_offset=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = np.ones_like(j <= p)
    if is_causal:
        allowed = (j >= p) if bug else (j <= p)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "alignment: top_left",
    why="tril(ones(q_len, kv_len)) in a decoder with a cache: the last query sees the first keys",
    seen_in="NVIDIA/cutlass#2336",
    conventions=Conventions(alignment="bottom_right"),
)
def causal_top_left(query, key, value, /, *, is_causal=False, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    q_len, kv_len = scores.shape[-2:]
    allowed = np.ones((q_len, kv_len), bool)
    if is_causal:
        allowed = np.tril(allowed, 0 if bug else kv_len - q_len)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "alignment: bottom_right",
    why="a loop ported from a decoder, in a function that promises PyTorch's alignment",
    seen_in="Dao-AILab/flash-attention#282",
    conventions=Conventions(alignment="top_left"),
)
def causal_bottom_right(query, key, value, /, *, is_causal=False, window_size=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    q_len, kv_len = scores.shape[-2:]
    p, j = positions(q_len, kv_len, kv_len - q_len if bug else 0)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    if window_size is not None:
        left, right = window_size
        allowed = allowed if left is None else allowed & (j >= p - left)
        allowed = allowed if right is None else allowed & (j <= p + right)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "q_offset_ignored",
    why="queries counted from 0: right in training, wrong in every step of decoding",
    seen_in="gittensor-ai-lab/sparkinfer#3",
)
def decoding_from_zero(
    query, key, value, /, *, is_causal=False, window_size=None, q_offset=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], None if bug else q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    if window_size is not None:
        left, right = window_size
        allowed = allowed if left is None else allowed & (j >= p - left)
        allowed = allowed if right is None else allowed & (j <= p + right)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


def _with_window(query, key, value, window_size, q_offset, is_causal, inside):
    """Attend where `inside` says of (distance, window_size) that it is in the window."""
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    if window_size is not None:
        allowed = allowed & inside(j - p, window_size)
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


def _inside(distance, window_size):
    left, right = window_size
    inside = np.ones_like(distance, bool)
    inside &= True if left is None else distance >= -left
    inside &= True if right is None else distance <= right
    return inside


@mutant(
    "window: exclusive",
    why="a window of w is read as w keys with the query's own, as Hugging Face counts",
)
def window_counts_itself(
    query, key, value, /, *, window_size=None, is_causal=False, q_offset=None, bug=True
):
    def inside(distance, window):
        left, right = window
        if bug:
            left = None if left is None else max(left - 1, 0)
            right = None if right is None else max(right - 1, 0)
        return _inside(distance, (left, right))

    return _with_window(query, key, value, window_size, q_offset, is_causal, inside)


@mutant(
    "window_one_more",
    why="a window of w is passed to a kernel that reaches w back beside the query's own key",
    seen_in="huggingface/transformers#39408",
)
def window_reaches_too_far(
    query, key, value, /, *, window_size=None, is_causal=False, q_offset=None, bug=True
):
    def inside(distance, window):
        left, right = window
        left = left + 1 if bug and left is not None else left
        return _inside(distance, (left, right))

    return _with_window(query, key, value, window_size, q_offset, is_causal, inside)


@mutant("window_swapped", why="q_pos - kv_pos where kv_pos - q_pos is meant")
def window_mirrored(
    query, key, value, /, *, window_size=None, is_causal=False, q_offset=None, bug=True
):
    def inside(distance, window):
        return _inside(-distance if bug else distance, window)

    return _with_window(query, key, value, window_size, q_offset, is_causal, inside)


@mutant(
    "window_right_ignored",
    why="windows come with causal order in mind, which has no right side",
)
def window_open_to_the_right(
    query, key, value, /, *, window_size=None, q_offset=None, bug=True
):
    def inside(distance, window):
        return _inside(distance, (window[0], None if bug else window[1]))

    return _with_window(query, key, value, window_size, q_offset, False, inside)


@mutant(
    "window_ignored",
    why="a negative number is passed for the window, which the kernel takes for none",
    seen_in="proger/hippogriff#7",
)
def window_never_closed(
    query, key, value, /, *, window_size=None, is_causal=False, q_offset=None, bug=True
):
    def inside(distance, window):
        return np.ones_like(distance, bool) if bug else _inside(distance, window)

    return _with_window(query, key, value, window_size, q_offset, is_causal, inside)


@mutant(
    "lengths_ignored", why="padding is looked at: nothing shows while the batch has one length"
)
def padding_attended(query, key, value, /, *, lengths=None, mask=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.broadcast_to(True if mask is None else mask, scores.shape)
    if lengths is not None and not bug:
        allowed = allowed & (np.arange(scores.shape[-1]) < lengths[:, None, None, None])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v


@mutant(
    "lengths_one_more|lengths: last_index",
    why="<= instead of <: one slot of the cache that was never written",
    seen_in="microsoft/onnxruntime-genai#2354",
    returns_lse=True,
)
def lengths_with_one_more(query, key, value, /, *, lengths=None, bug=True):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    allowed = np.ones(scores.shape, bool)
    if lengths is not None:
        j, n = np.arange(scores.shape[-1]), lengths[:, None, None, None]
        allowed = allowed & ((j <= n) if bug else (j < n))
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    weights, lse = softmax(scores)
    return weights @ v, lse


@mutant(
    "lengths_one_less",
    why="the length before the new token was written is taken for the length after",
    seen_in="UChi-JCL/CacheGen#8",
)
def lengths_before_the_token(query, key, value, /, *, lengths=None, bug=True):
    batch, num_heads = query.shape[:2]
    k, v = grouped(key, num_heads), grouped(value, num_heads)
    lengths = np.full(batch, k.shape[-2]) + (1 if bug else 0) if lengths is None else lengths
    out = []
    for b, n in enumerate(lengths):
        n = max(int(n) - (1 if bug else 0), 0)
        s = query[b] @ np.swapaxes(k[b, :, :n], -1, -2) / math.sqrt(query.shape[-1])
        out.append(softmax(s)[0] @ v[b, :, :n])
    return np.stack(out)


@mutant(
    "segments_ignored",
    why="packed sequences in a kernel that has no ids: a sequence sees its neighbours",
)
def packed_sequences_mixed(
    query, key, value, /, *, segment_ids=None, is_causal=False, q_offset=None, bug=True
):
    scores = query @ key_of(query, key) / math.sqrt(query.shape[-1])
    p, j = positions(*scores.shape[-2:], q_offset)
    allowed = (j <= p) if is_causal else np.ones_like(j <= p)
    if segment_ids is not None and not bug:
        pair = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
        q_ids, kv_ids = map(np.asarray, pair)
        allowed = allowed & (q_ids[..., None, :, None] == kv_ids[..., None, None, :])
    scores, v = hidden(scores, grouped(value, query.shape[-3]), allowed)
    return softmax(scores)[0] @ v
