"""How unevenly tensors may share what is lost: none loses more than so many times the share that all of them together lose.

One step for all tensors makes the sum of squared errors as small as it gets, and a sum has no regard for a tensor whose change
is small beside another's: where one large tensor is tuned or replaced, that alone can decide the step, and all else falls
below it. So a tensor's own step is made finer where the common one would lose too large a share of its change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from erestore.residual.planning import Profile, plan

_CLOSE = 1.02
"""How near to the largest step that keeps a tensor's limit is looked for."""
_FINEST = 2.0**-40
"""Of the common step: nothing finer is tried."""
_LEAST = 1 / 16
"""Of the share that would be lost without any limit: where nearly all of the change is kept for next to nothing, such as a
multiple of the base, the rest need not be kept as well as that."""


def even_share(profiles: Iterable[Profile], step: float, spread: float) -> float:
    """Return the share of the whole change that is lost at `step` where no tensor loses more than `spread` times it.

    Parameters
    ----------
    profiles : iterable of Profile
    step : float
    spread : float
        At least 1.
    """
    return shared(((plan(profile, step).error, profile.change) for profile in profiles), spread)


def shared(pairs: Iterable[tuple[float, float]], spread: float) -> float:
    """Return the largest ``s`` for which ``sum(min(e, spread * s * c)) = s * sum(c)``, over pairs ``(e, c)``.

    The left side is concave in ``s``, so going through pairs from the largest ``e / c`` down finds it.
    """
    ordered = sorted(((error, change) for error, change in pairs if change), key=lambda pair: -pair[0] / pair[1])
    free, rest = math.fsum(error for error, _ in ordered), math.fsum(change for _, change in ordered)
    least = _LEAST * free / rest if rest else 0.0
    for error, change in ordered:
        if rest <= 0 or spread * free * change >= error * rest:
            break
        free, rest = free - error, rest - spread * change
    return max(least, free / rest) if rest > 0 else least


def even_step(profile: Profile, step: float, most: float) -> float:
    """Return `step`, or a finer one at which a tensor is predicted to lose at most a share of `most` of its change."""
    limit = most * profile.change
    return step if limit >= profile.change or plan(profile, step).error <= limit else _finer(profile, step, limit)


def _finer(profile: Profile, step: float, limit: float) -> float:
    """Return about the largest step below `step` at which a tensor is predicted to lose at most `limit`."""
    low, high = step, step
    while plan(profile, low).error > limit and low > _FINEST * step:
        high, low = low, low / 2
    while high > _CLOSE * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if plan(profile, middle).error <= limit else (low, middle)
    return low
