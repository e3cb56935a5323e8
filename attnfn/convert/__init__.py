"""Parameters from the weights of other libraries, and back to them."""

from ._attention import multi_head_attention_from, multi_head_attention_to
from ._blocks import (
    decoder_block_from,
    decoder_block_to,
    encoder_block_from,
    encoder_block_to,
)

__all__ = [
    "decoder_block_from",
    "decoder_block_to",
    "encoder_block_from",
    "encoder_block_to",
    "multi_head_attention_from",
    "multi_head_attention_to",
]
