"""The attention of x-transformers, and the eager one of Hugging Face's models."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from transformers.models.bert import modeling_bert
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss
from x_transformers.attend import Attend


def attend(
    query,
    key,
    value,
    *,
    mask=None,
    bias=None,
    is_causal=False,
    scale=None,
    softcap=None,
    sinks=None,
):
    layer = Attend(
        causal=is_causal,
        heads=query.shape[1],
        scale=scale,
        softclamp_logits=softcap is not None,
        logit_softclamp_value=softcap or 50.0,
        head_learned_sink=sinks is not None,
    )
    if sinks is not None:
        layer.head_attn_sink.data = torch.asarray(sinks)
    out, _ = layer(
        *map(torch.asarray, (query, key, value)),
        mask=None if mask is None else torch.asarray(mask)[(None,) * (4 - mask.ndim)],
        attn_bias=None if bias is None else torch.asarray(bias),
    )
    return out.detach().numpy(), None


def eager(
    module, query, key, value, *, mask=None, bias=None, scale=None, sinks=None, softcap=None
):
    """As the models call it: the mask is a float, the lowest where a key is hidden."""
    q, k, v = (x if torch.is_tensor(x) else torch.asarray(x) for x in (query, key, value))
    added = None if bias is None else torch.asarray(bias)
    if mask is not None:
        lowest = torch.full((), torch.finfo(q.dtype).min, dtype=q.dtype)
        hidden = torch.where(torch.asarray(mask), torch.zeros_like(lowest), lowest)
        hidden = hidden[(None,) * (4 - hidden.ndim)]
        added = hidden if added is None else hidden + added
    if sinks is None:
        sinks = np.full(
            (q.shape[1],), -np.inf, dtype=np.float32
        )  # those of the model are learned
    layer = SimpleNamespace(
        num_key_value_groups=q.shape[1] // k.shape[1],
        head_dim=q.shape[-1],
        training=False,
        sinks=torch.asarray(sinks),
    )
    options = {} if softcap is None else {"softcap": softcap}
    out, _ = module.eager_attention_forward(
        layer,
        q,
        k,
        v,
        added,
        scaling=q.shape[-1] ** -0.5 if scale is None else scale,
        **options,
    )
    return out.transpose(1, 2), None


CALLS = {
    "x_transformers": attend,
    "hf_eager_bert": partial(eager, modeling_bert),
    "hf_eager_gemma2": partial(eager, modeling_gemma2),
    "hf_eager_gpt_oss": partial(eager, modeling_gpt_oss),
}
