"""The Marchenko-Pastur law: the singular values that a matrix of independent noise would have."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_POINTS = 4096


def singular_value_quantiles(shape: tuple[int, int], ranks: Sequence[int]) -> list[float]:
    """Return the expected singular values of noise at some ranks, over the largest.

    A matrix of ``m`` x ``n`` independent values of variance ``1 / max(m, n)`` has, as it grows, singular values between
    ``1 - sqrt(l)`` and ``1 + sqrt(l)``, ``l = min(m, n) / max(m, n)``, with the density
    ``sqrt((b^2 - s^2) (s^2 - a^2)) / (pi l s)`` (ERE, Figure 2: "M.P. quantile").

    Parameters
    ----------
    shape : (int, int)
    ranks : sequence of int
        From 1 to the smaller side.

    Returns
    -------
    list of float
        One for each rank, between 0 and 1.
    """
    short, long = sorted(shape)
    ratio = short / long
    low, high = 1 - math.sqrt(ratio), 1 + math.sqrt(ratio)
    # The substitution crowds points towards both edges, where the density has an infinite slope.
    values = (high + low) / 2 - (high - low) / 2 * np.cos(np.linspace(0, math.pi, _POINTS))
    inside = np.maximum((high**2 - values**2) * (values**2 - low**2), 0)
    # Where the matrix is square the density at zero is that limit, not 0 / 0.
    density = np.sqrt(inside) / np.maximum(values, np.finfo(float).tiny)
    if low == 0:
        density[0] = high
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(values))])
    wanted = [1 - (rank - 0.5) / short for rank in ranks]
    quantiles: list[float] = (np.interp(wanted, share / share[-1], values) / high).tolist()
    return quantiles
