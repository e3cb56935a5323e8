"""The dialects of attention: what each known implementation does, as data."""

from collections.abc import Mapping
from types import MappingProxyType

from . import _frameworks, _kernels, _models, _specifications
from ._dialect import Dialect

__all__ = ["DIALECTS"]

_ALL = (
    *_frameworks.DIALECTS,
    *_kernels.DIALECTS,
    *_specifications.DIALECTS,
    *_models.DIALECTS,
)

#: Every known dialect by its name.
DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in _ALL})
