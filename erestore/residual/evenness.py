"""How unevenly tensors may share what is lost: none loses more than so many times the share that all of them together lose.

One step for all tensors makes the sum of squared errors as small as it gets, and a sum has no regard for a tensor whose change
is small beside another's: where one large tensor is tuned or replaced, that alone can decide the step, and all else falls
below it. So a tensor's own step is made finer where the common one would lose too large a share of its change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from erestore.residual.step_plan import Profile, plan

_CLOSE = 1.02
"""How near to the largest step that keeps a tensor's limit is looked for."""
_FINEST = 2.0**-40
"""Of the common step: nothing finer is tried."""
_LEAST = 1 / 16
"""Of the share that would be lost without any limit: where nearly all of the change is kept for next to nothing, such as a
multiple of the base, the rest need not be kept as well as that."""


class LossReference(NamedTuple):
    """What the loss of one tensor is compared with.

    Attributes
    ----------
    change : float
        Squared norm that a share is of.
    missed : float
        Squared error that it may have besides: that of the parent's value. A child that did not move the tensor need not make
        up for it, which would take about as many bytes as the parent did.
    """

    change: float
    missed: float = 0.0

    def limit(self, share: float) -> float:
        """Return the squared error that a share allows."""
        return self.missed + share * self.change


@dataclass(frozen=True)
class References:
    """What the losses of all tensors are compared with: by default what each differs by from its parent.

    Attributes
    ----------
    missed : Mapping[str, float]
        Squared errors of the parent's value, by key, as far as they are known.
    changes : Mapping[str, float], optional
        Squared norms that shares are of, where the residual is added to something else than what was changed.
    """

    missed: Mapping[str, float] = field(default_factory=dict)
    changes: Mapping[str, float] | None = None

    def of(self, key: str, norm: float) -> LossReference:
        """Return the reference of a tensor whose residual has a squared norm."""
        missed = min(norm, self.missed.get(key, 0.0))
        return LossReference(norm - missed if self.changes is None else self.changes.get(key, 0.0), missed)

    def total(self, norm: float) -> float:
        """Return what the share that all lose together is of, for a residual of a squared norm."""
        return norm if self.changes is None else math.fsum((*self.changes.values(), *self.missed.values()))


OWN_CHANGES = References()
"""A tensor's loss is compared with its own residual."""


class Loss(NamedTuple):
    """Squared error of one tensor without any limit, and what it is compared with."""

    error: float
    reference: LossReference


def shared(losses: Iterable[Loss], spread: float) -> float:
    """Return the largest share of the whole that is lost where no tensor loses more than `spread` times that share.

    Parameters
    ----------
    losses : iterable of Loss
    spread : float
        At least 1.

    Notes
    -----
    For errors ``e``, changes ``c`` and ``m`` of what was missed before, the largest ``s`` for which
    ``sum(min(e, m + spread * s * c)) = s * sum(m + c)``. The left side is concave in ``s``, so going through tensors from the
    largest ``(e - m) / c`` down finds it.
    """
    comparable = [loss for loss in losses if any(loss.reference)]
    free = math.fsum(loss.error for loss in comparable)
    rest = math.fsum(math.fsum(loss.reference) for loss in comparable)
    least = _LEAST * free / rest if rest else 0.0
    beyond = [(max(0.0, error - reference.missed), reference.change) for error, reference in comparable]
    for error, change in sorted(beyond, key=lambda pair: -pair[0] / pair[1] if pair[1] else -math.inf):
        if rest <= 0 or spread * free * change >= error * rest:
            break
        free, rest = free - error, rest - spread * change
    return max(least, free / rest) if rest > 0 else least


def even_step(profile: Profile, step: float, most: float) -> float:
    """Return `step`, or a finer one at which a tensor is predicted to lose at most a share of `most` of its change."""
    limit = most * profile.change
    return step if most >= 1 or plan(profile, step).error <= limit else _finer(profile, step, limit)


def _finer(profile: Profile, step: float, limit: float) -> float:
    """Return about the largest step below `step` at which a tensor is predicted to lose at most `limit`."""
    low, high = step, step
    while plan(profile, low).error > limit and low > _FINEST * step:
        high, low = low, low / 2
    while high > _CLOSE * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if plan(profile, middle).error <= limit else (low, middle)
    return low
