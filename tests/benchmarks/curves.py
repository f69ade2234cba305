"""Reading a size off a measured curve."""

from __future__ import annotations

import math
from collections.abc import Sequence


def at_equal(curve: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Return the size at which a method's loss is `loss`, straight between measured points in logarithms.

    Parameters
    ----------
    curve : sequence of (loss, size)
        Where it crosses `loss` more than once, the crossing at the largest size counts.
    loss : float

    Returns
    -------
    float or None
        The smallest measured size where every loss is below `loss`, which is then more than was asked for; None where every
        loss is above.
    """
    points = sorted(((size, own) for own, size in curve), reverse=True)
    if points[0][1] > loss:
        return None
    size, own = points[0]
    for lower_size, higher in points[1:]:
        if higher > loss:
            share = (math.log(loss) - math.log(own)) / (math.log(higher) - math.log(own))
            return math.exp((1 - share) * math.log(size) + share * math.log(lower_size))
        size, own = lower_size, higher
    return size
