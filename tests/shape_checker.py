"""What `nox -s shapes` checks annotations with: beartype, to whom NumPy's scalars are numbers."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

__all__ = ["check"]

NUMBERS = {
    bool: bool | np.bool_,
    int: int | np.integer,
    float: float | int | np.floating | np.integer,
}

check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict(NUMBERS)))
