"""Dialects of the array libraries' own attention, and of the layers built on them."""

from functools import partial

from .._adapters import (
    attnfn_like,
    equinox_like,
    flax_like,
    flex_like,
    jax_like,
    keras_like,
    keras_multi_head_like,
    mlx_like,
    torch_like,
    torch_multi_head_like,
)
from .._subject import OPTIONS
from ._conventions import Conventions
from ._dialect import Dialect

__all__ = ["DIALECTS"]

_TORCH = "torch 2.13.0"

DIALECTS = (
    Dialect(
        name="attnfn",
        title="attnfn.attention",
        conventions=Conventions(),
        signature=attnfn_like,
        evidence="verified",
        source="attnfn 0.1.0",
        features=OPTIONS - {"lengths"} | {"groups", "lse"},
    ),
    Dialect(
        name="torch_sdpa",
        title="torch.nn.functional.scaled_dot_product_attention",
        conventions=Conventions(alignment="top_left", hidden_key="leaks", hidden_value="leaks"),
        signature=torch_like,
        evidence="verified",
        source=_TORCH,
        features=frozenset({"mask", "bias", "is_causal", "scale", "groups"}),
        notes=(
            "A mask and a bias share attn_mask.",
            "Grouped heads are asked for by enable_gqa=True.",
            "On a CPU is_causal keeps NaN in later keys out; as a mask it does not.",
        ),
    ),
    Dialect(
        name="torch_multi_head_attention",
        title="torch.nn.MultiheadAttention, need_weights=False in training",
        conventions=Conventions(mask="hidden", hidden_key="leaks", hidden_value="leaks"),
        signature=torch_multi_head_like,
        evidence="verified",
        source=_TORCH,
        features=frozenset({"mask", "bias"}),
        notes=("is_causal is a hint: the mask has to be given as well.",),
    ),
    Dialect(
        name="torch_multi_head_attention_weights",
        title="torch.nn.MultiheadAttention, need_weights=True",
        conventions=Conventions(
            mask="hidden",
            empty_row="nan",
            biased_row="nan",
            hidden_key="leaks",
            hidden_value="leaks",
        ),
        signature=partial(torch_multi_head_like, need_weights=True),
        evidence="verified",
        source=_TORCH,
        features=frozenset({"mask", "bias"}),
        notes=(
            "The weights that it returns are those after dropout.",
            "The gradient of an empty row is NaN.",
        ),
    ),
    Dialect(
        name="torch_multi_head_attention_eval",
        title="torch.nn.MultiheadAttention, its fast path in evaluation",
        conventions=Conventions(mask="hidden", empty_row="nan", hidden_value="leaks"),
        signature=partial(torch_multi_head_like, is_training=False),
        evidence="verified",
        source=_TORCH,
        features=frozenset({"mask"}),
        notes=("Taken where query, key and value are one array and nothing needs a gradient.",),
    ),
    Dialect(
        name="flex_attention",
        title="torch.nn.attention.flex_attention.flex_attention",
        conventions=Conventions(alignment="top_left", hidden_value="leaks"),
        signature=flex_like,
        evidence="verified",
        source=_TORCH,
        features=frozenset({"mask", "scale", "score_mod", "groups", "lse"}),
        notes=(
            "Positions are indices: what causal order means is up to the function given.",
            "Without CUDA it has no gradient.",
        ),
    ),
    Dialect(
        name="jax_nn",
        title="jax.nn.dot_product_attention",
        conventions=Conventions(
            alignment="top_left",
            empty_row="uniform",
            biased_row="nan",
            empty_lse="finite",
            lse_dtype="query",
            softmax_dtype="float32",
            hidden_value="leaks",
        ),
        signature=jax_like,
        evidence="verified",
        source="jax 0.10.2",
        features=frozenset(
            {"mask", "bias", "is_causal", "window_size", "lengths", "scale", "groups", "lse"}
        ),
        notes=("The log-sum-exp has no gradient.",),
    ),
    Dialect(
        name="flax_nnx",
        title="flax.nnx.dot_product_attention",
        conventions=Conventions(
            alignment="top_left",
            empty_row="uniform",
            biased_row="nan",
            softmax_dtype="float32",
            hidden_value="leaks",
        ),
        signature=flax_like,
        evidence="verified",
        source="flax 0.12.8",
        features=frozenset({"mask", "bias", "is_causal", "groups"}),
        notes=(
            "It calls jax.nn.dot_product_attention, unless weights are asked for or dropped.",
            "Dropout is the same for all sequences and heads, unless broadcast_dropout=False.",
        ),
    ),
    Dialect(
        name="flax_linen",
        title="flax.linen.dot_product_attention",
        conventions=Conventions(empty_row="uniform", biased_row="nan", hidden_value="leaks"),
        signature=flax_like,
        evidence="verified",
        source="flax 0.12.8",
        features=frozenset({"mask", "bias"}),
        notes=(
            "Dropout is the same for all sequences and heads, unless broadcast_dropout=False.",
        ),
    ),
    Dialect(
        name="equinox",
        title="equinox.nn.MultiheadAttention",
        conventions=Conventions(empty_row="uniform", hidden_value="leaks"),
        signature=equinox_like,
        evidence="verified",
        source="equinox 0.13.8",
        features=frozenset({"mask"}),
        notes=("A layer for one sequence; jax.vmap makes it one for many.",),
    ),
    Dialect(
        name="keras_ops",
        title="keras.ops.dot_product_attention",
        conventions=Conventions(
            alignment="top_left",
            empty_row="uniform",
            biased_row="nan",
            softmax_dtype="float32",
            hidden_value="leaks",
        ),
        signature=keras_like,
        evidence="verified",
        source="keras 3.15.1",
        features=frozenset({"mask", "bias", "is_causal", "scale", "groups"}),
        notes=(
            "float64 comes back as float32.",
            "On NumPy, grouped heads are refused.",
            "On PyTorch, a mask and a bias together are refused.",
            "On PyTorch, a NaN in a hidden key reaches the output, and a bias of -inf gives 0.",
        ),
    ),
    Dialect(
        name="keras_multi_head_attention",
        title="keras.layers.MultiHeadAttention",
        conventions=Conventions(
            alignment="top_left",
            window="exclusive",
            empty_row="uniform",
            softmax_dtype="float32",
            hidden_value="leaks",
        ),
        signature=keras_multi_head_like,
        evidence="verified",
        source="keras 3.15.1",
        features=frozenset({"mask", "is_causal", "window_size"}),
        notes=(
            "With dropout, or for return_attention_scores, an empty row gets 0.",
            "sliding_window is one number for both sides.",
            "float64 comes back as float32.",
        ),
    ),
    Dialect(
        name="mlx",
        title="mlx.core.fast.scaled_dot_product_attention",
        conventions=Conventions(
            alignment="bottom_right",
            empty_row="uniform",
            biased_row="nan",
            hidden_value="leaks",
        ),
        signature=mlx_like,
        evidence="verified",
        source="mlx 0.32.4",
        features=frozenset({"mask", "bias", "is_causal", "scale", "sinks", "groups"}),
        notes=(
            'Causal order is mask="causal", and so by itself alone.',
            "With sinks, an empty row gets 0.",
        ),
    ),
)
