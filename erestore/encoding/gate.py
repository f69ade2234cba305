"""A test of the user's that decides how much may be lost, and the search for the most that it lets through."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

FIRST_ERROR = 0.01
LARGEST_ERROR = 0.5
"""Nothing that loses more is tried: little of the fine-tune would be left, whatever a test says of it."""
SMALLEST_ERROR = 1e-6
"""Where even this does not pass, nothing smaller is tried."""

_STRIDE = 4 ** (1 / 1.2)
"""From one step to the next while looking for a bracket: about a factor of 4 in the error."""
_SIZES = 1.03
"""How far apart the sizes at the two ends of the bracket may stay."""
_STEPS = 1.01
"""The same of the steps: where sizes come in jumps they never get closer."""
_ATTEMPTS = 11


class Trial(NamedTuple):
    """One run of a gate.

    Attributes
    ----------
    number : int
        From 1, which is the original.
    bytes : int or None
        What the commit would add to the store but for its records and an exact remainder; None of the original.
    relative_error : float
    passed : bool
    """

    number: int
    bytes: int | None
    relative_error: float
    passed: bool


def _unheard(_: Trial) -> None:
    """Ignore a trial."""


@dataclass(frozen=True)
class Gate:
    """A test that a stored model has to pass.

    Attributes
    ----------
    name : str
        Recorded with the commit. The same files through a gate of the same name are not committed again.
    passes : Callable[[Path], bool]
        Given a checkpoint as checkout writes it, a directory or a file, which is removed afterwards. What it raises ends
        the commit, with nothing stored.
    tried : Callable[[Trial], None]
        Told of every run.
    """

    name: str
    passes: Callable[[Path], bool] = field(compare=False)
    tried: Callable[[Trial], None] = field(default=_unheard, compare=False)


@dataclass
class GateSearch:
    """Looks for the largest step that passes: by strides until one passes and one does not, then by bisection.

    Attributes
    ----------
    step : float
        What to try next.
    """

    step: float
    _passed: tuple[float, int] | None = None
    _failed: tuple[float, int] | None = None
    _attempts: int = 0

    def observe(self, size: int, error: float, *, passed: bool) -> bool:
        """Take in what :attr:`step` gave, and set the next.

        Returns
        -------
        bool
            Whether to go on.
        """
        self._attempts += 1
        if passed:
            self._passed = self.step, size
        else:
            self._failed = self.step, size
        if self._passed is None:
            self.step /= _STRIDE
            return error > SMALLEST_ERROR and self._attempts < _ATTEMPTS
        if self._failed is None:
            self.step *= _STRIDE
            return self._attempts < _ATTEMPTS
        (low, larger), (high, smaller) = self._passed, self._failed
        self.step = math.sqrt(low * high)
        return larger > _SIZES * smaller and high > _STEPS * low and self._attempts < _ATTEMPTS
