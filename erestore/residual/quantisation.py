"""Codes of one step: rounding to nearest, and rate-distortion-optimised rounding.

Remainders are rounded with a dead zone: a code is lowered where the bits that saves are worth the error. Factors are too where
squared error is all that counts; otherwise to nearest, since what a dead zone loses of them is the change's own direction
(:mod:`erestore.residual.objectives`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from erestore.arrays import Array, as_array, as_tensor
from erestore.residual import dyadic
from erestore.residual.codecs.remainder import row_ranges
from erestore.residual.codecs.vector import CODE_LIMIT, STEP_BITS

SLOPE = 2 * math.log(2) / 12
"""Squared error that a bit saves an entropy-coded uniform quantiser, in units of the squared step."""
_CLASSES_AN_OCTAVE = 2
_LARGEST = 48
"""Codes above are rounded to nearest: their neighbours cost the same."""
INT16 = 2**15 - 1


def round_codes(values: torch.Tensor) -> torch.Tensor:
    """Return the nearest codes of values in units of the step, floating: int16, or int32 where they need it."""
    return narrow(torch.round(values))


def quantise_runs(values: torch.Tensor) -> torch.Tensor:
    """Quantise values in units of the step with a dead zone.

    At a step ``q`` a bit is worth ``SLOPE * q**2`` of squared error. Runs are put into classes by their magnitude, the bits
    of every code are estimated from how often the class has it, and the boundary between code k - 1 and k moves up from
    k - 1/2 by half the price of the difference of their bits.

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
    levels = _levels(codes)
    for level in torch.unique(levels[torch.isfinite(levels)]):
        members = levels == level
        codes[members] = _lower(values[members], codes[members])
    return narrow(codes)


def dead_zones(values: torch.Tensor) -> torch.Tensor:
    """Return by how much the boundary below each code moves up, for every run, by the bits after :func:`quantise_runs`.

    Parameters
    ----------
    values : torch.Tensor
        As there.

    Returns
    -------
    torch.Tensor
        ``(runs, codes)`` in units of the step: column k - 1 is of the boundary between k - 1 and k. The last column is of the
        largest code that is ever lowered.
    """
    codes = torch.round(values)
    levels = _levels(codes)
    zones = torch.ones((len(values), _LARGEST - 1), dtype=values.dtype, device=values.device)  # zeros stay zeros
    for level in torch.unique(levels[torch.isfinite(levels)]):
        members = levels == level
        moves = SLOPE / 2 * _code_bits(_lower(values[members], codes[members]).abs()).diff()
        zones[members] = torch.nn.functional.pad(moves, (0, zones.shape[1]))[: zones.shape[1]].to(values.dtype)
    return zones


def usable_step(values: torch.Tensor, step: float) -> dyadic.Dyadic:
    """Return the step that is stored: about `step`, but no code may leave its range."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return dyadic.nearest(max(step, largest / (CODE_LIMIT - 32)), STEP_BITS)


def quantise_matrix(
    values: torch.Tensor, step: dyadic.Dyadic, rounding: Callable[[torch.Tensor], torch.Tensor] = quantise_runs
) -> list[Array]:
    """Return integer codes of the parts of a matrix ``(m, n)``; `rounding` takes rows in units of the step."""
    parts = (values[start:stop].to(torch.float64) / step.value for start, stop in row_ranges((*values.shape,)))
    return [as_array(rounding(part)) for part in parts]


def fitted_step(values: torch.Tensor, parts: Sequence[Array]) -> dyadic.Dyadic:
    """Return the step with which codes of the parts of a matrix are nearest to its values, of which one at least is not 0.

    It is less than the step they were rounded with where most codes are small: values between two codes are more often near
    the smaller.
    """
    inner = square = 0.0
    for (start, stop), part in zip(row_ranges((*values.shape,)), parts, strict=True):
        codes = as_tensor(part).to(values.device, torch.float64)
        inner += float((codes * values[start:stop]).sum())
        square += float(codes.square().sum())
    return dyadic.nearest(inner / square, STEP_BITS)


def _levels(codes: torch.Tensor) -> torch.Tensor:
    """Return the class of every run: the logarithm of its mean magnitude, -inf for zeros."""
    return torch.round(_CLASSES_AN_OCTAVE * torch.log2(codes.to(torch.float32).abs().mean(dim=1)))


def narrow(codes: torch.Tensor) -> torch.Tensor:
    """Return floating codes as int16, or as int32 where one needs that."""
    largest = float(codes.abs().max()) if codes.numel() else 0.0
    return codes.to(torch.int16 if largest <= INT16 else torch.int32)


def _lower(values: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return codes of one class with boundaries moved by what bits are worth."""
    sizes = codes.abs()
    bits = _code_bits(sizes)
    numbers = torch.arange(1, len(bits), dtype=torch.float64, device=values.device)
    boundaries = torch.cummax(numbers - 0.5 + SLOPE / 2 * bits.diff(), dim=0).values.to(torch.float32)
    level = torch.bucketize(values.abs().to(torch.float32), boundaries)  # fine enough below the largest that is lowered
    return torch.where(sizes >= _LARGEST, codes, torch.copysign(level.to(values.dtype), values))


def _code_bits(sizes: torch.Tensor) -> torch.Tensor:
    """Return the bits of every magnitude up to the largest that counts, as often as one class has it; never falling."""
    top = min(_LARGEST, int(sizes.max()))
    counts = torch.bincount(sizes.clamp(max=top).to(torch.int64).reshape(-1), minlength=top + 1).to(torch.float64) + 0.5
    bits = -torch.log2(counts / counts.sum())
    bits[1:] += 1  # the sign
    return torch.cummax(bits, dim=0).values
