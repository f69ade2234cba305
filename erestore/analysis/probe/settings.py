"""Which probes are made of a variant, and at which settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from erestore.errors import UsageError

PROBES = ("perturb", "truncate", "allocation", "stiefel")
SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02)
ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LARGEST_SIGMA = 10.0
"""Beyond it single weights grow by more than 20 orders of magnitude, and nothing is left to see."""


@dataclass(frozen=True)
class ProbeSettings:
    """What is asked of a probe.

    Attributes
    ----------
    probes : tuple of str
        Of :data:`PROBES`.
    sigmas : tuple of float
        Deviations of the noise of ``perturb``, 0 to 10.
    seed : int
        Of the same.
    shares : tuple of float
        Of the rank that ``truncate`` keeps, 0 to 1.
    alphas : tuple of float
        Weights of the prior rank for ``allocation``, 0 to 1.
    rank : int
        Prior rank for ``allocation`` and ``stiefel``.
    bits : int
        A code, for ``allocation``; ``stiefel`` tries all that there are.
    alpha : float
        Weight of the prior rank for ``stiefel``.
    """

    probes: tuple[str, ...] = ("perturb", "truncate")
    sigmas: tuple[float, ...] = SIGMAS
    seed: int = 0
    shares: tuple[float, ...] = SHARES
    alphas: tuple[float, ...] = ALPHAS
    rank: int = 16
    bits: int = 4
    alpha: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for probe in self.probes:
            if probe not in PROBES:
                raise UsageError(f"There is no probe '{probe}'.", hint=f"Use some of {', '.join(PROBES)}.")
        if not self.probes:
            raise UsageError("No probe is selected.", hint=f"Use some of {', '.join(PROBES)}.")
        _require("deviation", self.sigmas, lambda value: 0 <= value <= LARGEST_SIGMA, f"0 and {LARGEST_SIGMA:g}")
        _require("share of the rank", self.shares, _is_share, "0 and 1")
        _require("alpha", (*self.alphas, self.alpha), _is_share, "0 and 1")
        if not self.alphas:
            raise UsageError("No alpha is given.", hint="Give at least one number.")
        if self.seed < 0:
            raise UsageError(f"The seed {self.seed} is negative.", hint="Use 0 or a larger number.")
        if self.rank < 1 or not 2 <= self.bits <= 8:
            raise UsageError("Ranks start at 1, and bits are 2 to 8.", hint="Give a rank and bits in between.")


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _require(what: str, values: Sequence[float], is_good: Callable[[float], bool], between: str) -> None:
    if not values:
        raise UsageError(f"No {what} is given.", hint="Give at least one number.")
    for value in values:
        if not (math.isfinite(value) and is_good(value)):
            raise UsageError(f"A {what} of {value:g} is not between {between}.", hint="Give numbers in between.")
