"""Buffers: tensors in a checkpoint that are not parameters, which versions of a library save or leave out as they like."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAMES = re.compile(
    r"(?:^|\.)(?:position_ids|token_type_ids|masked_bias|(?:original_)?inv_freq|cos_cached|sin_cached"
    r"|relative_position_index|_float_tensor|num_batches_tracked)$"
)
_MASKS = re.compile(r"(?:^|\.)(?:attn|attention|self_attention)\.bias$")


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Return whether a tensor is a buffer by its name, or is a causal mask, which has two dimensions or more unlike a bias."""
    return bool(_NAMES.search(name)) or (len(shape) > 1 and bool(_MASKS.search(name)))
