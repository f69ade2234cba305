"""One global step for all tensors: what each tensor costs at a step, and which step meets an error.

Minimising squared error under a budget of bits gives the same uniform step ``q`` for every element of ``U S`` and ``V S`` of
every layer, and for every element of what is left of the matrix (reverse water-filling). Ranks, bits and section kinds of each
tensor follow from that one number: each is worth keeping iff what it removes from the error is worth its bits, at the price
of its :class:`erestore.residual.objectives.Objective`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from erestore.residual.dyadic import Dyadic
from erestore.residual.objectives import ANSWERS, Objective
from erestore.residual.quantisation import quantise_runs, round_codes

_COMPONENT_BITS = 20
"""Multiplier and classes of one component."""
SECTION_BITS = 400
"""What the index says of a section: its name, parameters and lengths."""
_ROW_BITS = 1.5
"""Class of a row."""
_TALLEST = 2.0**20
"""Largest ``sigma / step`` for which a component's products stay far below 2**53."""
_GRID = torch.arange(-10, 13, dtype=torch.float64) / 2
"""Octaves of scale over step at which curves are tabulated; beyond, an octave is a bit."""
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the rank that pays by itself which are tried below a remainder."""


@dataclass(frozen=True)
class RateCurve:
    """What quantising numbers of one distribution costs, by their scale over the step.

    Attributes
    ----------
    bits, error : torch.Tensor
        Bits an element, and squared error an element in squared steps, on :data:`_GRID`.
    """

    bits: torch.Tensor
    error: torch.Tensor

    @classmethod
    def of(cls, sample: torch.Tensor, rounding: Callable[[torch.Tensor], torch.Tensor] = quantise_runs) -> RateCurve:
        """Tabulate the curve of a sample, flat and of root mean square 1, under a way of rounding."""
        bits, error = [], []
        for octave in _GRID.tolist():
            values = sample.to(torch.float64)[None] * 2.0**octave
            codes = rounding(values)[0]
            shares = torch.unique(codes, return_counts=True)[1].to(torch.float64) / len(codes)
            bits.append(max(0.004, float(-(shares * torch.log2(shares)).sum())))
            error.append(float(((values[0] - codes) ** 2).mean()))
        return cls(torch.tensor(bits, dtype=torch.float64), torch.tensor(error, dtype=torch.float64))

    def at(self, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return bits and squared error an element for scales in steps, float64, positive."""
        octaves = torch.log2(scales.clamp(min=1e-30))
        position = ((octaves - _GRID[0]) * 2).clamp(0, len(_GRID) - 1.001)
        low = position.floor().to(torch.int64)
        share = position - low
        bits = self.bits[low] * (1 - share) + self.bits[low + 1] * share
        error = self.error[low] * (1 - share) + self.error[low + 1] * share
        below, above = octaves < _GRID[0], octaves > _GRID[-1]
        bits = torch.where(below, self.bits[0] * (scales * 2.0 ** -float(_GRID[0])) ** 2, bits)
        bits = torch.where(above, bits + octaves - _GRID[-1], bits)
        return bits, torch.where(below, scales**2, torch.minimum(error, scales**2))


@cache
def gaussian(rounding: Callable[[torch.Tensor], torch.Tensor] = round_codes) -> RateCurve:
    """Return the curve of the normal distribution, which columns of singular vectors are close to."""
    shares = (torch.arange(8192, dtype=torch.float64) + 0.5) / 8192
    return RateCurve.of(math.sqrt(2) * torch.erfinv(2 * shares - 1), rounding)


@dataclass(frozen=True)
class Profile:
    """What the choice for one tensor depends on.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    energy : float
        Squared norm of the residual after its gamma term.
    curve : RateCurve
        Of its values over the root mean square of their row.
    row_scales, row_counts : torch.Tensor
        Float64: root mean squares of rows, to half an octave, and how many rows have each.
    singular_values : torch.Tensor or None
        Float64, descending; None where factors are not considered.
    base_multiple : Dyadic or None
        Multiple of the base's tensor taken out first, where it pays.
    base_multiple_energy : float
        Squared norm of that multiple.
    weight : float
        How much a squared error of this tensor counts against one of a matrix.
    objective : Objective
    """

    shape: tuple[int, int]
    energy: float
    curve: RateCurve
    row_scales: torch.Tensor
    row_counts: torch.Tensor
    singular_values: torch.Tensor | None = None
    base_multiple: Dyadic | None = None
    base_multiple_energy: float = 0.0
    weight: float = 1.0
    objective: Objective = ANSWERS

    @property
    def change(self) -> float:
        """Squared norm of the residual, with its gamma term."""
        return self.energy + self.base_multiple_energy

    def own_step(self, step: float) -> float:
        """Return this tensor's step where that of a tensor of weight 1 is `step`: the finer, the more its error counts."""
        return step / math.sqrt(self.weight)

    def takes_base_multiple(self, step: float) -> bool:
        """Return whether the multiple of the base is worth a section of its own at the tensor's own step."""
        return self.base_multiple is not None and self.base_multiple_energy > self.price(step) * SECTION_BITS

    def price(self, step: float) -> float:
        """Return the squared error that a bit has to save at the tensor's own step."""
        return self.objective.price * step**2

    def gain(self, plan: Plan) -> float:
        """Return by how much the residual is multiplied before it is encoded as planned."""
        return self.objective.gain(plan.error / self.energy) if self.energy else 1.0


@dataclass(frozen=True)
class Plan:
    """How one tensor is coded at a step.

    Attributes
    ----------
    rank : int
        Components of its low-rank section; 0 for none.
    remainder : bool
        Whether what they leave is quantised.
    error, bits : float
        Predicted squared error and size.
    """

    rank: int
    remainder: bool
    error: float
    bits: float

    def cost(self, price: float) -> float:
        """Return error plus the price of bits."""
        return self.error + price * self.bits


def _components(profile: Profile, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squared error and bits of every component."""
    sigma = profile.singular_values
    assert sigma is not None
    error = bits = torch.zeros_like(sigma)
    for length in profile.shape:
        cost, lost = gaussian(profile.objective.rounding).at(sigma / (math.sqrt(length) * step))
        bits, error = bits + length * cost, error + length * lost * step**2
    return error, bits + _COMPONENT_BITS


def _remainder(profile: Profile, step: float, energy: float, noise: float = 0.0) -> tuple[float, float]:
    """Return squared error and bits of quantising what is left of the matrix.

    Of the matrix itself `energy` is left, shared out among rows as the whole is; beside it the `noise` of rounding factors,
    which all rows have alike.
    """
    squares = profile.row_scales**2 * (energy / profile.energy) + noise / math.prod(profile.shape)
    bits, error = profile.curve.at(squares.sqrt() / step)
    columns = profile.shape[1]
    overhead = SECTION_BITS + (_ROW_BITS * profile.shape[0] if profile.shape[0] > 1 else 0)
    return (
        float((error * profile.row_counts).sum()) * columns * step**2,
        float((bits * profile.row_counts).sum()) * columns + overhead,
    )


def plans(profile: Profile, step: float) -> list[Plan]:
    """Return the ways to code one tensor at its own step, cheapest first by error plus price of bits."""
    left = 0.0 if profile.takes_base_multiple(step) else profile.base_multiple_energy
    nothing = Plan(0, remainder=False, error=profile.energy + left, bits=0.0)
    if profile.energy == 0:
        return [nothing]
    candidates = [nothing, Plan(0, True, *_remainder(profile, step, profile.energy))]
    sigma = profile.singular_values
    if sigma is not None and len(sigma) and float(sigma[0]) < _TALLEST * step:
        error, bits = _components(profile, step)
        energy = sigma**2
        pays = energy > error + profile.objective.component_price * step**2 * bits
        # Gains fall with sigma, so what pays is a prefix up to rounding of the model; the longest prefix is taken.
        longest = int(pays.nonzero().max()) + 1 if bool(pays.any()) else 0
        for rank in sorted({round(share * longest) for share in _SHARES} - {0}):
            lost, size = float(error[:rank].sum()), float(bits[:rank].sum()) + SECTION_BITS
            tail = max(0.0, profile.energy - float(energy[:rank].sum()))
            candidates.append(Plan(rank, False, lost + tail, size))
            rest = _remainder(profile, step, tail, lost)
            candidates.append(Plan(rank, True, rest[0], size + rest[1]))
    return sorted(candidates, key=lambda plan: plan.cost(profile.price(step)))


def plan(profile: Profile, step: float) -> Plan:
    """Return the cheapest way to code one tensor where `step` is the step of a tensor of weight 1."""
    return plans(profile, profile.own_step(step))[0]


def solve_step(profiles: Sequence[Profile], error: float, shares: Sequence[float] | None = None) -> float:
    """Return the largest step whose predicted total squared error is at most `error`.

    Parameters
    ----------
    profiles : sequence of Profile
    error : float
        Positive, in the units of the residual squared.
    shares : sequence of float, optional
        Share of its change that each tensor loses at most, as its own step is made finer where it would lose more.
    """
    limits = (
        [math.inf] * len(profiles) if shares is None else [s * p.change for s, p in zip(shares, profiles, strict=True)]
    )

    def lost(step: float) -> float:
        return sum(min(plan(profile, step).error, limit) for profile, limit in zip(profiles, limits, strict=True))

    elements = sum(math.prod(profile.shape) for profile in profiles) or 1
    low = high = math.sqrt(12 * error / elements)
    while lost(low) > error and low > 1e-300:
        low /= 2
    while lost(high) <= error and high < 1e300:
        if plan_is_empty(profiles, high):
            return high
        high *= 2
    while high > 1.02 * low:
        middle = math.sqrt(low * high)
        if lost(middle) <= error:
            low = middle
        else:
            high = middle
    return low


def solve_step_for_bits(profiles: Sequence[Profile], bits: float) -> float:
    """Return about the smallest step at which the sections are predicted to take at most `bits`."""
    energy = sum(profile.energy + profile.base_multiple_energy for profile in profiles)
    elements = sum(math.prod(profile.shape) for profile in profiles)
    low = high = start = math.sqrt(energy / max(1, elements)) or 1.0

    def size(step: float) -> float:
        return sum(plan(profile, step).bits for profile in profiles)

    while size(low) <= bits and low > 1e-12 * start:
        low /= 2
    while size(high) > bits:
        high *= 2
    while high > 1.05 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if size(middle) <= bits else (middle, high)
    return high


def plan_is_empty(profiles: Sequence[Profile], step: float) -> bool:
    """Return whether nothing at all is coded at `step`."""
    return all(plan(profile, step).bits == 0 for profile in profiles)
