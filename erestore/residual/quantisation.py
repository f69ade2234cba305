"""Rate-distortion-optimised rounding: a code is lowered where the bits that saves are worth the error.

At a step ``q`` a bit is worth ``PRICE * q**2`` of squared error, the slope of an entropy-coded uniform quantiser. Runs are put
into classes by their magnitude, the bits of every code are estimated from how often the class has it, and the boundary
between code k - 1 and k moves up from k - 1/2 by half the price of the difference of their bits.
"""

from __future__ import annotations

import math

import torch

PRICE = 2 * math.log(2) / 12
"""Squared error that a bit is worth, in units of the squared step."""
_CLASSES_AN_OCTAVE = 2
_LARGEST = 48
"""Codes above are rounded to nearest: their neighbours cost the same."""
INT16 = 2**15 - 1
INT32 = 2**31 - 1


def quantise_runs(values: torch.Tensor) -> torch.Tensor:
    """Quantise values that are in units of the step.

    Parameters
    ----------
    values : torch.Tensor
        Floating ``(runs, length)``; each run is of one scale.

    Returns
    -------
    torch.Tensor
        Int16, or int32 where codes need it.
    """
    codes = torch.round(values)
    magnitudes = codes.abs().mean(dim=1)
    levels = torch.round(_CLASSES_AN_OCTAVE * torch.log2(magnitudes))
    for level in torch.unique(levels[torch.isfinite(levels)]):
        members = levels == level
        codes[members] = _lower(values[members], codes[members])
    largest = float(codes.abs().max()) if codes.numel() else 0.0
    return codes.to(torch.int16 if largest <= INT16 else torch.int32)


def _lower(values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return codes of one class with boundaries moved by what bits are worth."""
    sizes = codes.abs()
    top = min(_LARGEST, int(sizes.max()))
    counts = torch.bincount(sizes.clamp(max=top).to(torch.int64).reshape(-1), minlength=top + 1).to(torch.float64) + 0.5
    bits = -torch.log2(counts / counts.sum())
    bits[1:] += 1  # the sign
    bits = torch.cummax(bits, dim=0).values
    numbers = torch.arange(1, top + 1, dtype=torch.float64, device=values.device)
    boundaries = torch.cummax(numbers - 0.5 + PRICE / 2 * bits.diff(), dim=0).values.to(values.dtype)
    found = torch.bucketize(values.abs(), boundaries)
    return torch.where(sizes >= _LARGEST, codes, torch.copysign(found.to(values.dtype), values))


def coded_bits(codes: torch.Tensor) -> float:
    """Estimate the bits that codes ``(runs, length)`` take, with a table for each class of runs, tables not counted."""
    magnitudes = codes.to(torch.float32).abs().mean(dim=1)
    levels = torch.round(_CLASSES_AN_OCTAVE * torch.log2(magnitudes))
    total = 0.0
    for level in torch.unique(levels[torch.isfinite(levels)]):
        counts = torch.unique(codes[levels == level], return_counts=True)[1].to(torch.float64)
        total += float((counts * torch.log2(counts.sum() / counts)).sum())
    return total + len(codes)
