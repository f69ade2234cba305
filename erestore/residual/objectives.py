"""What an encoder makes small, and so how it shares out bits: distance of answers, or squared error of weights alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from erestore.residual.quantisation import SLOPE, quantise_runs, round_codes

_LARGEST_ERROR = 0.9
"""Where hardly anything is kept, making more of it serves nobody."""


@dataclass(frozen=True)
class Objective:
    """How error and bits are weighed.

    Attributes
    ----------
    price : float
        Squared error that a bit must save, in units of the squared step, where one way to code a tensor is chosen before
        another.
    component_price : float
        The same for components of factors.
    rounding : Callable
        Of factors: runs of one scale, in units of the step, to codes.
    vector_weight : float
        How much a squared error of a bias or a gain counts against one of a matrix.
    exponent : float
        Of what is encoded over the change; see :meth:`gain`.
    fits_step : bool
        Whether the step of a remainder is fitted to its codes after rounding, which makes what they stand for shorter.
    """

    price: float
    component_price: float
    rounding: Callable[[torch.Tensor], torch.Tensor]
    vector_weight: float
    exponent: float
    fits_step: bool

    def gain(self, error: float) -> float:
        """Return by how much a tensor's change is multiplied before it is encoded.

        Components that are left out, and values that a dead zone makes zero, leave what is kept too short. Squared error is
        least so, but answers follow the change's direction, and how far they go along it.

        Parameters
        ----------
        error : float
            Share of the change's squared norm that is going to be lost.
        """
        return math.pow(1 - min(error, _LARGEST_ERROR), -self.exponent)


ANSWERS = Objective(
    price=SLOPE / 4,
    component_price=SLOPE / 8,
    rounding=round_codes,
    vector_weight=8.0,
    exponent=1 / 16,
    fits_step=False,
)
"""Keeps answers close. What is left out of a change hurts them more than as much noise of rounding does, so components come
cheap, factors have no dead zone, and what is encoded makes up for what is left out (docs/decisions/0013, 0019); a vector meets
every input alike, and is not scaled down by it (docs/decisions/0015)."""
WEIGHTS = Objective(
    price=SLOPE,
    component_price=SLOPE,
    rounding=quantise_runs,
    vector_weight=1.0,
    exponent=0.0,
    fits_step=True,
)
"""Squared error over all weights alike, as small as it gets for the bytes (docs/decisions/0018)."""
