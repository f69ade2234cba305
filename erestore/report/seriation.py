"""An order of vectors in which those that are alike stand together, for the rows of a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erestore.arrays import Array


def clustered(cosines: Sequence[Sequence[float | None]]) -> list[int]:
    """Order vectors as the leaves of the tree that average linkage makes of them (UPGMA; distance: one less the cosine).

    The tree is built along chains of nearest neighbours (Müllner 2011, arXiv:1109.2378) in O(N²). Of the ways to put two
    branches beside each other the one is taken whose facing ends are nearest (Gruvaeus and Wainer 1972).

    Parameters
    ----------
    cosines : sequence of sequence of float or None
        ``(N, N)``, symmetric; vectors of zero, which have none, come last.

    Returns
    -------
    list of int
        A permutation.
    """
    values = np.array(cosines, dtype=np.float64).reshape(len(cosines), len(cosines))  # None becomes NaN
    is_zero = np.isnan(np.diag(values))
    used = np.flatnonzero(~is_zero)
    if not used.size:
        return list(range(len(values)))
    distances = 1 - values[np.ix_(used, used)]
    order = used[_leaves(distances)]
    return [*order.tolist(), *np.flatnonzero(is_zero).tolist()]


def _leaves(distances: Array) -> list[int]:
    leaves = {index: [index] for index in range(len(distances))}
    between = distances.copy()
    np.fill_diagonal(between, np.inf)
    chain: list[int] = []
    while len(leaves) > 1:
        if not chain:
            chain.append(next(iter(leaves)))
        nearest = int(between[chain[-1]].argmin())
        # Of equally near ones the one before in the chain, so that it ends.
        if len(chain) > 1 and between[chain[-1], chain[-2]] <= between[chain[-1], nearest]:
            nearest = chain[-2]
        if len(chain) < 2 or nearest != chain[-2]:
            chain.append(nearest)
            continue
        one, two = chain.pop(), chain.pop()
        sizes = len(leaves[one]), len(leaves[two])
        joined = (sizes[0] * between[one] + sizes[1] * between[two]) / sum(sizes)
        between[one], between[:, one] = joined, joined
        between[one, one] = np.inf
        between[two], between[:, two] = np.inf, np.inf
        leaves[one] = _beside(leaves[one], leaves.pop(two), distances)
    return next(iter(leaves.values()))


def _beside(one: list[int], two: list[int], distances: Array) -> list[int]:
    ways = [(first, second) for first in (one, one[::-1]) for second in (two, two[::-1])]
    first, second = min(ways, key=lambda way: float(distances[way[0][-1], way[1][0]]))
    return [*first, *second]
