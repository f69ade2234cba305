"""Finding the step that just meets a bound, from measurements that cost a pass over the model each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_LARGEST_MOVE = math.log(64)
_STEEPEST, _FLATTEST = 6.0, 0.15
_HOPELESS = math.log(2.0**40)


@dataclass
class StepSearch:
    """Looks for the step at which a measure comes close to its bound from below.

    The measure is a power of the step, about; two measurements give the exponent, a third hardly ever misses.

    Attributes
    ----------
    step : float
        What to measure next.
    exponent : float
        Of the step in the measure, as far as known: positive for errors, negative for sizes.
    tolerance : float
        By how much of the bound the measure may stay below it.
    attempts : int
        After so many measurements the best that met the bound is taken.
    """

    step: float
    exponent: float
    tolerance: float = 0.02
    attempts: int = 5
    _seen: list[tuple[float, float]] = field(default_factory=list)

    def observe(self, ratio: float) -> bool:
        """Take in the measure over its bound at :attr:`step`, and set the next step.

        Returns
        -------
        bool
            Whether to go on. If not, the last step that met the bound is the answer; there is none if none did.
        """
        position, level = math.log(self.step), math.log(max(ratio, 1e-12))
        self._seen.append((position, level))
        met = [point for point in self._seen if point[1] <= 0]
        missed = [point for point in self._seen if point[1] > 0]
        if met and (max(point[1] for point in met) >= math.log1p(-self.tolerance) or len(self._seen) >= self.attempts):
            return False
        if not met and abs(position - self._seen[0][0]) > _HOPELESS:
            return False
        move = self._move(math.log1p(-self.tolerance / 2) - level)
        if not met and len(self._seen) >= self.attempts:  # far off, or in vain: find out soon
            move = math.copysign(_LARGEST_MOVE, move)
        following = position + max(-_LARGEST_MOVE, min(_LARGEST_MOVE, move))
        if met and missed:
            best, worst = max(met, key=lambda point: point[1])[0], min(missed, key=lambda point: point[1])[0]
            if not min(best, worst) < following < max(best, worst):
                following = (best + worst) / 2
        self.step = math.exp(following)
        return True

    def _move(self, change: float) -> float:
        """Return by how much the step has to move for a change of the measure, both in logarithms."""
        move = change / self.exponent
        if len(self._seen) > 1:
            (position, level), (former, lower) = self._seen[-1], self._seen[-2]
            moved = position - former
            slope = (level - lower) / moved if moved else 0.0
            if slope * self.exponent > 0 and _FLATTEST <= abs(slope) <= _STEEPEST:
                return change / slope
            if move * moved > 0 and abs(slope) < _FLATTEST:  # on a plateau small moves might never end
                return math.copysign(max(abs(move), 2 * abs(moved)), move)
        return move
