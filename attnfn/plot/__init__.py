"""Pictures of attention, with Matplotlib: weights, heads, masks, and the flow over layers."""

try:
    import matplotlib  # noqa: F401, only whether it is there
except ImportError as error:
    message = f'attnfn.plot needs Matplotlib: pip install "attnfn[plot]" ({error}).'
    raise ImportError(message, name=error.name) from error

from ._flow import attention_flow
from ._heat_map import attention_head_grid, attention_heat_map
from ._mask import mask_picture

__all__ = ["attention_flow", "attention_head_grid", "attention_heat_map", "mask_picture"]
