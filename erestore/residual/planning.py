"""One global step for all tensors: what each tensor costs at a step, and which step meets an error.

Minimising squared error under a budget of bits gives the same uniform step ``q`` for every element of ``U S`` and ``V S`` of
every layer (reverse water-filling), with a price of ``2 ln 2 * q**2 / 12`` a bit. Ranks and bits of every tensor follow from
that one number: a component is kept iff what it removes from the error is worth its bits at that price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from erestore.residual.dyadic import Dyadic

_PRICE = 2 * math.log(2) / 12
_COMPONENT_BITS = 32
"""Multiplier, shift and widths of one component."""
_TALLEST = 2.0**20
"""Largest ``sigma / step`` for which a component's products stay far below 2**53."""


@dataclass(frozen=True)
class Profile:
    """What the choice for one tensor depends on.

    Attributes
    ----------
    shape : tuple of int
        ``(m, n)``.
    energy : float
        Squared norm of the residual after its gamma term.
    sample : torch.Tensor
        Float32 ``(k,)``: values drawn evenly from the residual.
    singular_values : torch.Tensor or None
        Float64, descending; None where factors are not considered.
    gamma : Dyadic or None
        Multiple of the base's tensor taken out first.
    """

    shape: tuple[int, int]
    energy: float
    sample: torch.Tensor
    singular_values: torch.Tensor | None = None
    gamma: Dyadic | None = None


@dataclass(frozen=True)
class Plan:
    """How one tensor is coded at a step.

    Attributes
    ----------
    mode : str
        ``nothing``, ``lowrank`` or ``vector``.
    rank : int
    error, bits : float
        Predicted squared error and size.
    """

    mode: str
    rank: int
    error: float
    bits: float


def _entropy(variance: torch.Tensor, step: float) -> torch.Tensor:
    """Return bits an element of a Gaussian of that variance quantised with `step`: exact at high and at vanishing rate."""
    return 0.5 * torch.log2(1 + 2 * math.pi * math.e * variance / step**2)


def _distortion(variance: torch.Tensor, step: float) -> torch.Tensor:
    noise = step**2 / 12
    return variance * noise / (variance + noise)


def _lowrank(profile: Profile, step: float) -> Plan:
    sigma = profile.singular_values
    assert sigma is not None
    m, n = profile.shape
    energy = sigma**2
    error = m * _distortion(energy / m, step) + n * _distortion(energy / n, step)
    bits = m * _entropy(energy / m, step) + n * _entropy(energy / n, step) + _COMPONENT_BITS
    price = _PRICE * step**2
    pays = energy > error + price * bits
    # Gains fall with sigma, so what pays is a prefix up to rounding of the model; the longest prefix is taken.
    rank = int(pays.nonzero().max()) + 1 if bool(pays.any()) else 0
    kept, tail = float(error[:rank].sum()), max(0.0, profile.energy - float(energy[:rank].sum()))
    return Plan("lowrank" if rank else "nothing", rank, kept + tail, float(bits[:rank].sum()))


def _vector(profile: Profile, step: float) -> Plan:
    elements, count = math.prod(profile.shape), len(profile.sample)
    codes = torch.round(profile.sample / step)
    scale = elements / max(1, count)
    error = float(((profile.sample - codes * step).to(torch.float64) ** 2).sum()) * scale
    shares = torch.unique(codes, return_counts=True)[1].to(torch.float64) / max(1, count)
    entropy = max(0.02, float(-(shares * torch.log2(shares)).sum()))
    return Plan("vector", 0, error, entropy * elements + 8 * _COMPONENT_BITS)


def plan(profile: Profile, step: float) -> Plan:
    """Choose the cheapest way to code one tensor at `step`, by error plus price of bits."""
    if profile.energy == 0:
        return Plan("nothing", 0, 0.0, 0.0)
    choices = [Plan("nothing", 0, profile.energy, 0.0), _vector(profile, step)]
    sigma = profile.singular_values
    if sigma is not None and len(sigma) and float(sigma[0]) < _TALLEST * step:
        choices.append(_lowrank(profile, step))
    return min(choices, key=lambda choice: choice.error + _PRICE * step**2 * choice.bits)


def solve_step(profiles: Sequence[Profile], error: float) -> float:
    """Return the largest step whose predicted total squared error is at most `error`.

    Parameters
    ----------
    profiles : sequence of Profile
    error : float
        Positive, in the units of the residual squared.
    """
    elements = sum(math.prod(profile.shape) for profile in profiles) or 1
    low = high = math.sqrt(12 * error / elements)
    while sum(plan(profile, low).error for profile in profiles) > error and low > 1e-300:
        low /= 4
    while sum(plan(profile, high).error for profile in profiles) <= error and high < 1e300:
        if plan_is_empty(profiles, high):
            return high
        high *= 4
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        if sum(plan(profile, middle).error for profile in profiles) <= error:
            low = middle
        else:
            high = middle
    return low


def plan_is_empty(profiles: Sequence[Profile], step: float) -> bool:
    """Tell whether nothing at all is coded at `step`."""
    return all(plan(profile, step).mode == "nothing" for profile in profiles)
