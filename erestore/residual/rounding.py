"""One rounding, correctly: float64 to the tensor's dtype, to nearest, ties to even, on every device.

``tensor.to(torch.bfloat16)`` rounds float64 twice (through float32), which differs in rare elements. Rounding to float32 *to
odd* first makes the second rounding innocuous for every dtype with at most 22 bits of precision (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

import torch

_NARROW = {torch.bfloat16, torch.float16, *(getattr(torch, n) for n in dir(torch) if n.startswith("float8_"))}


def round_to(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 `values` to `dtype`.

    Parameters
    ----------
    values : torch.Tensor
        Float64, any shape.
    dtype : torch.dtype
        A floating dtype.
    """
    if dtype not in _NARROW:
        return values.to(dtype)
    nearest = values.to(torch.float32)
    bits = nearest.view(torch.int32)
    back = nearest.to(torch.float64)
    even_and_inexact = (back != values) & ((bits & 1) == 0) & ~torch.isnan(values)
    # The odd neighbour lies towards the exact value: one unit up in magnitude if rounding went down, else one down.
    towards = torch.where(values.abs() > back.abs(), 1, -1).to(torch.int32)
    return torch.where(even_and_inexact, bits + towards, bits).view(torch.float32).to(dtype)
