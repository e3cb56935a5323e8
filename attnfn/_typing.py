"""The words that signatures are written in."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, runtime_checkable

__all__ = [
    "Array",
    "ArrayT",
    "AttentionOptions",
    "BlockOptions",
    "CachedOptions",
    "DerivativeOptions",
    "EngineName",
    "FeatureMap",
    "LinearAttentionOptions",
    "Namespace",
    "PositionFunction",
    "ScoreFunction",
    "ScoreOptions",
    "UnmaskedScoreOptions",
    "WeightOptions",
]


@runtime_checkable
class SupportsShapeAndDtype(Protocol):
    """The little that every array library's array has in common, statically."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...


#: In public signatures: the kind of array that goes in is the kind that comes out.
ArrayT = TypeVar("ArrayT", bound=SupportsShapeAndDtype)

#: Inside the library, where no checker knows the Array API's operators yet.
Array: TypeAlias = Any

Namespace: TypeAlias = ModuleType
EngineName: TypeAlias = Literal["auto", "dense", "blockwise", "native"]

#: ``f(q_pos, kv_pos)``: what a mask, a bias or a dropout mask is at any rows and columns.
PositionFunction: TypeAlias = Callable[[Array, Array], Array]
#: ``f(scores, q_pos, kv_pos)``: the scores that replace `scores`.
ScoreFunction: TypeAlias = Callable[[Array, Array, Array], Array]
#: From ``(..., length, head_dim)`` to ``(..., length, feature_dim)``.
FeatureMap: TypeAlias = Callable[[Array], Array]


class UnplacedScoreOptions(TypedDict, total=False):
    """Options that say what a score is, but for masks, order and where queries stand."""

    bias: Array | PositionFunction | None
    window_size: tuple[int | None, int | None] | None
    segment_ids: Array | tuple[Array, Array] | None
    scale: float | Array | None
    softcap: float | None
    score_mod: ScoreFunction | None
    compute_dtype: Any


class UnmaskedScoreOptions(UnplacedScoreOptions, total=False):
    """Options that say what a score is, but for masks and order."""

    q_offset: int | Array | None


class ScoreOptions(UnmaskedScoreOptions, total=False):
    """Options that say what a score is."""

    mask: Array | PositionFunction | None
    is_causal: bool


class WeightOptions(ScoreOptions, total=False):
    """And those that say what a row of scores becomes."""

    sinks: float | Array | None


class DerivativeOptions(WeightOptions, total=False):
    """And those that need the values."""

    dropout_mask: Array | PositionFunction | None
    dropout_rate: float | None


class AttentionOptions(DerivativeOptions, total=False):
    """And how to compute: every option of `attention`."""

    engine: EngineName


class BlockOptions(UnmaskedScoreOptions, total=False):
    """Options of the attention in a block, but for masks, order and dropout."""

    sinks: float | Array | None
    engine: EngineName


class CachedOptions(UnplacedScoreOptions, total=False):
    """Every option of `attention` but `q_offset`."""

    mask: Array | PositionFunction | None
    is_causal: bool
    sinks: float | Array | None
    dropout_mask: Array | PositionFunction | None
    dropout_rate: float | None
    engine: EngineName


class LinearAttentionOptions(TypedDict, total=False):
    """Every option of `linear_attention`."""

    mask: Array | None
    is_causal: bool
    feature_map: FeatureMap | None
    chunk_len: int
    compute_dtype: Any
