"""How a rank budget is spread over layers, given their spectra.

A *spectrum* holds the singular values of one ``m × n`` layer (float64, descending). A layer of rank ``r`` costs ``r
(m + n)`` parameters and leaves the squared error ``f(r) = Σ_{l > r} σ_l²``. The budget is what the *prior rank*
would cost in every layer: ``M = Σ rank (m + n)``. No layer gets more than its numerical rank: a component with ``σ
= 0`` stores nothing.

Source: Ryu, Seo & Yoo, "Efficient Storage of Fine-Tuned Models via Low-Rank Approximation of Weight Residuals" (ERE),
§4.1, §4.2 and appendix A.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Spectrum = NDArray[np.float64]
Shape = tuple[int, int]

Allocation = Callable[[Sequence[Spectrum], Sequence[Shape], int, float], list[int]]
"""Spectra, shapes, the prior rank and its weight ``alpha`` (where it has one) to one rank per layer."""

_BISECTIONS = 200


def budget(shapes: Sequence[Shape], rank: int) -> int:
    """Return the parameters that `rank` costs in every layer: ``M = Σ rank (m + n)``."""
    return sum(rank * (m + n) for m, n in shapes)


def uniform(spectra: Sequence[Spectrum], shapes: Sequence[Shape], rank: int) -> list[int]:
    """Give every layer `rank`, clamped to its numerical rank (the paper's LRA, and ERE at ``alpha = 1``)."""
    assert len(spectra) == len(shapes)
    return [min(rank, int(np.count_nonzero(values))) for values in spectra]


def greedy(spectra: Sequence[Spectrum], shapes: Sequence[Shape], parameters: int) -> list[int]:
    """Spend `parameters` on the components that remove the most squared error per parameter.

    All ``σ² / (m + n)`` are sorted and the longest prefix within the budget is taken; it ends at the first
    component that does not fit, even where a smaller one behind it would. Within a layer gains fall, so precedence
    holds by itself, and the result is the optimum of the integer problem for the budget that it uses up: at any
    other budget the optimum is better by less than the one component that did not fit. Equal gains are taken in the
    order of layers.

    Parameters
    ----------
    spectra : sequence of arrays (min(m, n),)
    shapes : sequence of (m, n)
    parameters : int
        Budget in parameters.

    Returns
    -------
    list of int
        One rank per layer.
    """
    costs = np.array([m + n for m, n in shapes], dtype=np.int64)
    counts = [int(np.count_nonzero(values)) for values in spectra]
    owners = np.repeat(np.arange(len(shapes)), counts)
    gains = np.concatenate(
        [np.square(values[:count]) / cost for values, count, cost in zip(spectra, counts, costs, strict=True)]
        or [np.zeros(0)]
    )
    order = owners[np.argsort(-gains, kind="stable")]
    affordable = int(np.searchsorted(np.cumsum(costs[order]), parameters, side="right"))
    return [int(rank) for rank in np.bincount(order[:affordable], minlength=len(shapes))]


def ere(spectra: Sequence[Spectrum], shapes: Sequence[Shape], rank: int, alpha: float = 0.5) -> list[int]:
    """Allocate as the paper does: log-linear errors, Lagrange multiplier, prior rank, rounding.

    Each ``f`` is fitted by ``g(r) = exp(a r + b)``, by least squares on ``log f`` over all ``r`` with ``f(r) > 0``.
    For a price ``λ`` per parameter the relaxed ranks are ``u(λ) = clamp((log(-(m + n) / a) - b + log λ) / a, 0,
    numerical rank)``; λ is the smallest for which they keep within the budget, by bisection of ``log λ``. (Ranks
    fall as λ grows; algorithm 1 as printed updates the bounds the other way around.) Then ``(1 - alpha) u + alpha
    rank``, clamped, rounded half to even.

    Rounding can exceed the budget. While it does, the rank that loses the least ``σ² / (m + n)`` is taken back, of
    equals that of the first layer.

    Where no falling line can be fitted (fewer than two points with ``f > 0``) a layer gets all of its numerical
    rank as long as ``f(0)`` pays for it at the price λ, else nothing.

    Parameters
    ----------
    spectra : sequence of arrays (min(m, n),)
    shapes : sequence of (m, n)
    rank : int
        The prior rank ``r_avg``.
    alpha : float
        Weight of the prior rank, 0 to 1.

    Returns
    -------
    list of int
        One rank per layer.
    """
    total = budget(shapes, rank)
    costs = np.array([m + n for m, n in shapes], dtype=np.float64)
    caps = np.array([np.count_nonzero(values) for values in spectra], dtype=np.float64)
    relaxed = _relaxed(spectra, costs, caps, total)
    mixed = (1 - alpha) * relaxed + alpha * rank
    ranks = [int(value) for value in np.rint(np.clip(mixed, 0, caps))]
    return _trim(ranks, spectra, shapes, total)


ALLOCATIONS: Mapping[str, Allocation] = MappingProxyType(
    {
        "ere": ere,
        "greedy": lambda spectra, shapes, rank, _: greedy(spectra, shapes, budget(shapes, rank)),
        "uniform": lambda spectra, shapes, rank, _: uniform(spectra, shapes, rank),
    }
)
"""Every allocation by its name on the command line."""


def _relaxed(spectra: Sequence[Spectrum], costs: Spectrum, caps: Spectrum, total: int) -> Spectrum:
    """Return ``u(λ)`` at the smallest λ with ``Σ u (m + n) <= total``."""
    fits = [_fit(values) for values in spectra]
    sloped = np.array([fit is not None for fit in fits], dtype=bool)
    slopes = np.array([fit[0] if fit else -1.0 for fit in fits])
    offsets = np.array([fit[1] if fit else 0.0 for fit in fits])
    # log λ at which the first parameter pays; without a slope, at which the whole layer does.
    entry = offsets + np.log(-slopes) - np.log(costs)
    for index in np.flatnonzero(~sloped & (caps > 0)).tolist():
        entry[index] = np.log(np.sum(np.square(spectra[index])) / (costs[index] * caps[index]))

    def ranks_at(log_price: float) -> Spectrum:
        line = np.clip((log_price - entry) / slopes, 0, caps)
        return np.where(sloped, line, np.where(log_price <= entry, caps, 0.0))

    live = caps > 0
    if not live.any():
        return np.zeros_like(caps)
    high = float(np.max(entry[live])) + 1.0
    low = float(np.min((entry + slopes * caps)[live])) - 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(ranks_at(middle) @ costs) <= total:
            high = middle
        else:
            low = middle
    return ranks_at(high)


def _fit(values: Spectrum) -> tuple[float, float] | None:
    """Fit ``log f(r) ≈ a r + b`` over the points with ``f > 0``; None unless there are two and the line falls."""
    positive = values[: np.count_nonzero(values)]
    if len(positive) < 2:
        return None
    # f relative to σ₁², so that squares neither overflow nor vanish; summed from the small end.
    tails = np.cumsum(np.square(positive / positive[0])[::-1])[::-1]
    heights = np.log(tails[tails > 0])
    points = np.arange(len(heights), dtype=np.float64)
    if len(heights) < 2:
        return None
    centred = points - points.mean()
    slope = float(centred @ (heights - heights.mean()) / (centred @ centred))
    if not slope < 0:
        return None
    return slope, float(heights.mean() - slope * points.mean() + 2 * np.log(positive[0]))


def _trim(ranks: list[int], spectra: Sequence[Spectrum], shapes: Sequence[Shape], total: int) -> list[int]:
    """Take back the least valuable ranks until the budget holds."""
    excess = sum(rank * (m + n) for rank, (m, n) in zip(ranks, shapes, strict=True)) - total

    def last(layer: int) -> tuple[float, int]:
        return float(spectra[layer][ranks[layer] - 1]) ** 2 / sum(shapes[layer]), layer

    heap = [last(layer) for layer, rank in enumerate(ranks) if rank > 0] if excess > 0 else []
    heapq.heapify(heap)
    while excess > 0:
        layer = heap[0][1]
        ranks[layer] -= 1
        excess -= sum(shapes[layer])
        if ranks[layer]:
            heapq.heapreplace(heap, last(layer))
        else:
            heapq.heappop(heap)
    return ranks
