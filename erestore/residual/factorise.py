"""A matrix to integer factors: singular components quantised with one step, the long side fitted to the short one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from erestore.arrays import as_array, as_tensor
from erestore.residual.codecs.lowrank import Codes, cut_groups
from erestore.residual.codecs.lowrank2 import bands
from erestore.residual.operators import Operator
from erestore.residual.quantisation import round_codes
from erestore.residual.spectrum import squared_norm

MULTIPLIER_BITS = 6
"""Of a mantissa when encoding: the other side is fitted to the rounded multiplier, so that only its step varies a little."""
Times = Callable[[torch.Tensor], torch.Tensor]
"""A matrix as what multiplies a few columns with it."""
_BLOCK = 1 << 22
"""Elements of the residual that are projected at a time."""


def quantise(
    delta: torch.Tensor | Operator,
    basis: torch.Tensor,
    singular_values: torch.Tensor,
    side: str,
    step: float,
    rounding: Callable[[torch.Tensor], torch.Tensor] = round_codes,
    gain: float = 1.0,
) -> Codes:
    """Quantise ``U S`` and ``V S`` uniformly with one step (reverse water-filling over components).

    The short side is quantised first; the long side is then fitted to it (least squares), so that it makes up for what
    rounding did to the short side and to the multipliers.

    Parameters
    ----------
    delta : torch.Tensor or Operator
        ``(m, n)``, the residual; of an operator only products with a few columns are asked for.
    basis : torch.Tensor
        Singular vectors of the short side as columns, largest singular value first.
    singular_values : torch.Tensor
        ``(r,)``, positive, for the leading `r` columns of `basis`.
    side : str
        ``right`` if `basis` spans rows (``V``), ``left`` if it spans columns (``U``).
    step : float
    rounding : Callable
        Of components as rows, in units of the step; see :class:`erestore.residual.objectives.Objective`.
    gain : float
        What is quantised is `delta` times this.

    Returns
    -------
    Codes
        Components whose codes all vanish on one side are dropped.
    """
    rank = len(singular_values)
    sigma = gain * singular_values.to(device=basis.device, dtype=torch.float64)
    # Float32 products lose about 1e-6 of sigma_1, which matters only against a step of that size.
    dtype = torch.float64 if rank and step < 1e-4 * float(sigma[0]) else torch.float32
    short = rounding((basis[:, :rank].to(torch.float64) * (sigma / step)).T.to(dtype)).T
    alive = _largest(short) > 0
    short, sigma = short[:, alive.to(short.device)], sigma.cpu()[alive]
    mantissas, exponents = _multipliers([step * step / float(value) for value in sigma])
    weights = torch.tensor([math.ldexp(a, e) for a, e in zip(mantissas, exponents, strict=True)], dtype=torch.float64)
    fitted = _fit(_tall(delta, side), short.to(torch.float64) * weights.to(short.device), dtype)
    long = rounding(fitted.T * gain).T
    used = _largest(long) > 0
    long, short = long[:, used.to(long.device)], short[:, used.to(short.device)]
    components = used.nonzero().flatten().tolist()
    bounds = [int(a) * int(b) for a, b in zip(_largest(long), _largest(short), strict=True)]
    groups, shifts = cut_groups([mantissas[k] for k in components], [exponents[k] for k in components], bounds)
    left, right = (long, short) if side == "right" else (short, long)
    integers = [np.array(values, dtype=np.int64) for values in ([mantissas[k] for k in components], shifts)]
    return Codes(as_array(left), as_array(right), integers[0], integers[1], groups)


def _largest(side: torch.Tensor) -> torch.Tensor:
    """Return int64 ``(r,)`` on the CPU: the largest absolute code of each column."""
    return (side.abs().amax(dim=0) if side.numel() else torch.zeros(side.shape[1])).to("cpu", torch.int64)


def prefix_errors(codes: Codes, rest: torch.Tensor) -> dict[int, float]:
    """Return, by band, the squared error where that band and those after it are missing.

    Parameters
    ----------
    codes : Codes
    rest : torch.Tensor
        ``(m, n)``: what all bands together leave of the residual.
    """
    left, right = (as_tensor(side).to(rest) for side in codes.sides())
    inner = (left * (rest @ right)).sum(dim=0, dtype=torch.float64)
    gram = ((left.T @ left) * (right.T @ right)).to(torch.float64)
    total = squared_norm(rest)
    return {
        band: total + float(2 * inner[start:].sum() + gram[start:, start:].sum())
        for band, (start, _) in enumerate(bands(codes.rank))
    }


def _multipliers(weights: Sequence[float]) -> tuple[list[int], list[int]]:
    """Return mantissas and exponents of the nearest multipliers."""
    pairs = [math.frexp(weight) for weight in weights]
    rounded = [min(round(math.ldexp(fraction, MULTIPLIER_BITS)), (1 << MULTIPLIER_BITS) - 1) for fraction, _ in pairs]
    return rounded, [exponent - MULTIPLIER_BITS for _, exponent in pairs]


def leading_errors(codes: Codes, delta: Operator, energy: float) -> dict[int, float]:
    """Return what :func:`prefix_errors` does, from products alone.

    Each is the norm of the residual less what the bands before take of it: as much as that is certain to about ``1e-15`` of
    the norm, far below what a band that counts removes.

    Parameters
    ----------
    codes : Codes
    delta : Operator
        ``(m, n)``, the residual.
    energy : float
        Its squared norm.
    """
    left, right = map(as_tensor, codes.sides())
    inner = (left * delta.times(right)).sum(dim=0)
    gram = (left.T @ left) * (right.T @ right)
    return {
        band: max(0.0, energy - float(2 * inner[:start].sum() - gram[:start, :start].sum()))
        for band, (start, _) in enumerate(bands(codes.rank))
    }


def _tall(delta: torch.Tensor | Operator, side: str) -> torch.Tensor | Times:
    """Return the residual with its long side down, or what multiplies with that."""
    if isinstance(delta, Operator):
        return delta.times if side == "right" else delta.transposed_times
    return delta if side == "right" else delta.T


def _fit(tall: torch.Tensor | Times, short: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return ``X`` that minimises ``|tall - X short^T|``, ``(rows, r)``, with products in `dtype`."""
    scale = torch.linalg.vector_norm(short, dim=0)
    unit = short / scale
    gram = unit.T @ unit
    gram.diagonal().add_(1e-10)
    solved = torch.cholesky_solve(unit.T, torch.linalg.cholesky(gram)).T.div_(scale).to(dtype)
    if not isinstance(tall, torch.Tensor):
        return tall(solved)
    if not short.shape[1]:
        return torch.zeros((tall.shape[0], 0), dtype=dtype, device=tall.device)
    height = max(1, _BLOCK // max(1, tall.shape[1]))
    return torch.cat([rows.to(dtype) @ solved for rows in torch.split(tall, height)])
