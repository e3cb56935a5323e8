"""How other libraries store the weights of a layer: under which names, in which shapes."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

__all__ = [
    "ATTENTIONS",
    "AXES",
    "DECODER_BLOCKS",
    "ENCODER_BLOCKS",
    "Form",
    "Layout",
    "Layouts",
]

#: How a linear map lies in an array: as (out, in), as (in, out), or as it does here, where the
#: heads have an axis of their own.
Form: TypeAlias = Literal["rows", "columns", "heads"]
Names: TypeAlias = dict[str, str]


class Layout(NamedTuple):
    """One way to store a layer."""

    form: Form
    names: Names  # from our names to theirs
    same: Mapping[str, str] = {}  # axes that are of one size here
    optional: frozenset[str] = frozenset()  # what may be missing by itself, by our names
    beside: frozenset[str] = frozenset()  # what is there and is no part of the layer, by theirs


#: The ways in which a library may store a layer, by the layout's name. Of several that will
#: do, the first is the one that is written.
Layouts: TypeAlias = Mapping[str, tuple[Layout, ...]]

#: The axes of every parameter: those that are summed over -> those that come out.
AXES = {
    "w_q": "model_dim -> num_heads head_dim",
    "w_k": "kv_model_dim -> num_kv_heads head_dim",
    "w_v": "v_model_dim -> num_kv_heads value_dim",
    "w_o": "num_heads value_dim -> out_dim",
    "b_q": "-> num_heads head_dim",
    "b_k": "-> num_kv_heads head_dim",
    "b_v": "-> num_kv_heads value_dim",
    "b_o": "-> out_dim",
    "w_qkv": "model_dim -> 3 num_heads head_dim",
    "b_qkv": "-> 3 num_heads head_dim",
    "w_kv": "model_dim -> 2 num_heads head_dim",
    "b_kv": "-> 2 num_heads head_dim",
    "w_in": "model_dim -> hidden_dim",
    "w_gate": "model_dim -> hidden_dim",
    "w_out": "hidden_dim -> model_dim",
    "b_in": "-> hidden_dim",
    "b_gate": "-> hidden_dim",
    "b_out": "-> model_dim",
    "weight": "-> model_dim",
    "bias": "-> model_dim",
}

ONE_WIDTH = {"out_dim": "model_dim", "value_dim": "head_dim"}
SELF = ONE_WIDTH | {"kv_model_dim": "model_dim", "v_model_dim": "model_dim"}
UNGROUPED = {"num_kv_heads": "num_heads"}


def _linear(maps: Names, *, weight: str = ".weight", bias: str = ".bias") -> Names:
    """Name the weight and the bias of linear maps; `maps` names each by its letters here."""
    weights = {f"w_{letters}": name + weight for letters, name in maps.items()}
    return weights | {f"b_{letters}": name + bias for letters, name in maps.items()}


def _norm(name: str) -> Names:
    return {"weight": f"{name}.weight", "bias": f"{name}.bias"}


def _in(module: str, names: Names) -> Names:
    """Name what is in a module of theirs."""
    return {path: f"{module}.{name}" for path, name in names.items()}


def _block(**parts: Names) -> Names:
    """Name what is in the parts of a block of ours."""
    return {
        f"{part}.{path}": name for part, names in parts.items() for path, name in names.items()
    }


def _is_bias(path: str) -> bool:
    return path.rpartition(".")[2].startswith("b")


def _weights(names: Names) -> Names:
    return {path: name for path, name in names.items() if not _is_bias(path)}


def _biases(names: Names) -> frozenset[str]:
    return frozenset(path for path in names if _is_bias(path))


def _all_or_no_biases(*layouts: Layout) -> tuple[Layout, ...]:
    return *layouts, *(layout._replace(names=_weights(layout.names)) for layout in layouts)


TORCH_OUT = _linear({"o": "out_proj"})
TORCH = _linear({"qkv": "in_proj"}, weight="_weight", bias="_bias") | TORCH_OUT
#: Where keys or values have a width of their own. The biases are joined all the same.
TORCH_WIDTHS = {
    "w_q": "q_proj_weight",
    "w_k": "k_proj_weight",
    "w_v": "v_proj_weight",
    "b_qkv": "in_proj_bias",
    **TORCH_OUT,
}
BERT = _linear({"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"})
GPT2 = _linear({"qkv": "c_attn", "o": "c_proj"})
GPT2_CROSS = _linear({"q": "q_attn", "kv": "c_attn", "o": "c_proj"})
#: Files of older releases hold the causal mask, and what it puts in place of a score.
GPT2_BUFFERS = frozenset({"bias", "masked_bias"})
LLAMA = _linear({"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"})
WHISPER = _linear({"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"})
FLAX = _linear({"q": "query", "k": "key", "v": "value", "o": "out"}, weight=".kernel")
KERAS = _linear(
    {"q": "query", "k": "key", "v": "value", "o": "attention_output"},
    weight="/kernel",
    bias="/bias",
)
EQUINOX = _linear(
    {"q": "query_proj", "k": "key_proj", "v": "value_proj", "o": "output_proj"},
)

ATTENTIONS: Layouts = {
    "torch": _all_or_no_biases(
        Layout("rows", TORCH, SELF | UNGROUPED),
        Layout("rows", TORCH_WIDTHS, ONE_WIDTH | UNGROUPED),
    ),
    "flax": _all_or_no_biases(Layout("heads", FLAX)),
    "keras": _all_or_no_biases(Layout("heads", KERAS)),
    "equinox": (Layout("rows", EQUINOX, UNGROUPED, optional=_biases(EQUINOX)),),
    "bert": (
        Layout(
            "rows",
            BERT,
            SELF | UNGROUPED,
            beside=frozenset(_norm("output.LayerNorm").values()),
        ),
    ),
    "gpt2": (Layout("columns", GPT2, SELF | UNGROUPED, beside=GPT2_BUFFERS),),
    "gpt2_cross": (Layout("columns", GPT2_CROSS, SELF | UNGROUPED, beside=GPT2_BUFFERS),),
    "llama": (Layout("rows", LLAMA, SELF, optional=_biases(LLAMA)),),
    "whisper": (Layout("rows", WHISPER, SELF | UNGROUPED, optional=frozenset({"b_k"})),),
}

ENCODER_BLOCKS: Layouts = {
    "torch": _all_or_no_biases(
        Layout(
            "rows",
            _block(
                attention=_in("self_attn", TORCH),
                attention_norm=_norm("norm1"),
                feed_forward=_linear({"in": "linear1", "out": "linear2"}),
                feed_forward_norm=_norm("norm2"),
            ),
            SELF | UNGROUPED,
        )
    ),
    "bert": (
        Layout(
            "rows",
            _block(
                attention=_in("attention", BERT),
                attention_norm=_norm("attention.output.LayerNorm"),
                feed_forward=_linear({"in": "intermediate.dense", "out": "output.dense"}),
                feed_forward_norm=_norm("output.LayerNorm"),
            ),
            SELF | UNGROUPED,
        ),
    ),
    "whisper": (
        Layout(
            "rows",
            _block(
                attention=_in("self_attn", WHISPER),
                attention_norm=_norm("self_attn_layer_norm"),
                feed_forward=_linear({"in": "fc1", "out": "fc2"}),
                feed_forward_norm=_norm("final_layer_norm"),
            ),
            SELF | UNGROUPED,
            optional=frozenset({"attention.b_k"}),
        ),
    ),
}
GPT2_BLOCK = _block(
    self_attention=_in("attn", GPT2),
    self_attention_norm=_norm("ln_1"),
    feed_forward=_in("mlp", _linear({"in": "c_fc", "out": "c_proj"})),
    feed_forward_norm=_norm("ln_2"),
)
GPT2_CROSS_BLOCK = GPT2_BLOCK | _block(
    cross_attention=_in("crossattention", GPT2_CROSS),
    cross_attention_norm=_norm("ln_cross_attn"),
)
GPT2_BLOCK_BUFFERS = frozenset(
    f"{module}.{name}" for module in ("attn", "crossattention") for name in GPT2_BUFFERS
)
LLAMA_MLP = _linear({"gate": "gate_proj", "in": "up_proj", "out": "down_proj"})

DECODER_BLOCKS: Layouts = {
    "torch": _all_or_no_biases(
        Layout(
            "rows",
            _block(
                self_attention=_in("self_attn", TORCH),
                self_attention_norm=_norm("norm1"),
                cross_attention=_in("multihead_attn", TORCH),
                cross_attention_norm=_norm("norm2"),
                feed_forward=_linear({"in": "linear1", "out": "linear2"}),
                feed_forward_norm=_norm("norm3"),
            ),
            SELF | UNGROUPED,
        )
    ),
    "gpt2": (
        Layout("columns", GPT2_BLOCK, SELF | UNGROUPED, beside=GPT2_BLOCK_BUFFERS),
        Layout("columns", GPT2_CROSS_BLOCK, SELF | UNGROUPED, beside=GPT2_BLOCK_BUFFERS),
    ),
    "llama": (
        Layout(
            "rows",
            _block(
                self_attention=_in("self_attn", LLAMA),
                self_attention_norm=_weights(_norm("input_layernorm")),
                feed_forward=_in("mlp", LLAMA_MLP),
                feed_forward_norm=_weights(_norm("post_attention_layernorm")),
            ),
            SELF,
            optional=_biases(_block(self_attention=LLAMA, feed_forward=LLAMA_MLP)),
        ),
    ),
    "whisper": (
        Layout(
            "rows",
            _block(
                self_attention=_in("self_attn", WHISPER),
                self_attention_norm=_norm("self_attn_layer_norm"),
                cross_attention=_in("encoder_attn", WHISPER),
                cross_attention_norm=_norm("encoder_attn_layer_norm"),
                feed_forward=_linear({"in": "fc1", "out": "fc2"}),
                feed_forward_norm=_norm("final_layer_norm"),
            ),
            SELF | UNGROUPED,
            optional=frozenset({"self_attention.b_k", "cross_attention.b_k"}),
        ),
    ),
}
