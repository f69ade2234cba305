"""Rounding for what comes out of a layer: errors of a matrix's columns are made to cancel where its inputs go together.

With inputs ``x`` of second moment ``C = E[x x^T]`` a matrix with error ``E`` answers with an expected squared error of
``tr(E C E^T)``. With ``C = L L^T`` that is the squared norm of ``E L``, and as `L` is triangular, a code can make up for what
the columns rounded before it lost: each value is moved by the error of its row so far, then rounded (the nearest plane of a
lattice; Babai, "On Lovász' lattice reduction and the nearest lattice point problem", Combinatorica 1986). Nothing of what is
stored changes its meaning: the codes are other ones, of the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from erestore.residual.quantisation import dead_zones, narrow, quantise_runs

SHRINKAGE = 0.2
"""Share of the identity in the moments that are used: what calibration did not see may still be asked for."""
_FINE = 2.0**16
"""From such codes on the step is so fine that how they are rounded hardly matters."""
_STRIPE = 64
"""Columns whose errors are passed on together."""
_LOWERED = 2
"""By how much a code can be lowered at most where that saves bits."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A block of inputs that go together, prepared for rounding.

    Attributes
    ----------
    start : int
        Its first column in the matrix.
    order : Tensor, shape (n,)
        Its columns, those with small inputs last to be rounded: first in here.
    passed : Tensor, shape (n, n), float32
        Unit lower triangular: the share of the error of column ``order[j]`` that column ``order[i]`` makes up for, at
        ``[j, i]``.
    weights : Tensor, shape (n,), float64
        What a squared error of each that nothing makes up for counts, in `order`.
    """

    start: int
    order: Tensor
    passed: Tensor
    weights: Tensor

    @classmethod
    def of(cls, moments: Tensor, start: int, shrinkage: float = SHRINKAGE) -> Self:
        """Prepare second moments.

        Parameters
        ----------
        moments : Tensor, shape (n, n), float64
            Symmetric; in units of the mean square of the matrix's inputs.
        start : int
        shrinkage : float
        """
        order = torch.argsort(moments.diagonal(), stable=True)
        mixed = (1 - shrinkage) * moments[order][:, order]
        mixed.diagonal().add_(shrinkage)
        factor, failed = torch.linalg.cholesky_ex(mixed)
        if failed:  # stored with few digits, moments can end up as those of no inputs
            factor = mixed.diagonal().sqrt().diag()
        roots = factor.diagonal()
        return cls(start, order, (factor / roots).to(torch.float32), roots**2)


def shape_codes(values: Tensor, metrics: tuple[Metric, ...]) -> Tensor:
    """Quantise values in units of the step, with a dead zone, for the least error of what comes out.

    Parameters
    ----------
    values : Tensor, shape (rows, columns), floating
    metrics : tuple of Metric
        Of all columns, block by block.

    Returns
    -------
    Tensor
        Int16, or int32 where codes need it.
    """
    if values.numel() and float(values.abs().max()) >= _FINE:
        return quantise_runs(values)
    values = values.to(torch.float32)
    zones = dead_zones(values)
    mean = float(torch.cat([metric.weights for metric in metrics]).mean())
    codes = torch.empty_like(values)
    for metric in metrics:
        columns = metric.start + metric.order
        codes[:, columns] = _round_block(values[:, columns], zones, metric, mean)
    return narrow(codes)


def _round_block(values: Tensor, zones: Tensor, metric: Metric, mean: float) -> Tensor:
    """Round columns from the last to the first, each moved by what those after it lost."""
    errors = torch.zeros_like(values)
    codes = torch.empty_like(values)
    dearer = (mean / metric.weights).to(values.dtype).tolist()
    rows = torch.arange(len(values))
    for stop in range(values.shape[1], 0, -_STRIPE):
        start = max(0, stop - _STRIPE)
        aims = values[:, start:stop] - errors[:, stop:] @ metric.passed[stop:, start:stop]
        for column in range(stop - 1, start - 1, -1):
            aim = aims[:, column - start]
            if column + 1 < stop:
                aim = aim - errors[:, column + 1 : stop] @ metric.passed[column + 1 : stop, column]
            codes[:, column] = _lowered(aim, zones, dearer[column], rows)
            errors[:, column] = codes[:, column] - values[:, column]
    return codes


def _lowered(values: Tensor, zones: Tensor, dearer: float, rows: Tensor) -> Tensor:
    """Round to nearest, then down where the bits that saves are worth the error, bits being `dearer` than on average."""
    sizes = values.abs()
    codes = torch.round(sizes)
    last = zones.shape[1]
    for _ in range(_LOWERED):
        index = (codes - 1).clamp(0, last - 1).to(torch.int64)
        below = (codes > 0) & (codes <= last) & (sizes < codes - 0.5 + dearer * zones[rows, index])
        codes = codes - below.to(codes.dtype)
    return torch.copysign(codes, values)
