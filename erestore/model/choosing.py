"""Which parent each of many variants is encoded against, so that all of them take the least: arithmetic on sizes alone.

As git picks the bases of its deltas, for each variant only what is near is looked at. Sizes make up a directed graph: from
a root to what is there as it is, and to every parent that would have to be written first, such as a mean; from parents to
variants that would be encoded against them. The smallest arborescence of the graph (Edmonds 1967) is the cheapest choice of
one parent for each; it has no cycles, so nothing is ever encoded against itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np

from erestore.arrays import Array

WINDOW = 4
"""Nearest variants that are tried as parents of one."""
LEAST_GAIN = 0.05
"""Share of its bytes that a variant has to lose by being encoded anew."""
NEAR = 0.9
"""Share of the squared norm of what a variant has of its own that is to be left by a parent that is worth trying."""
COSINES = (0.9, 0.7, 0.5, 0.3, 0.1)
"""Variants with a cosine above one of these are put together; each grouping gives means to try."""
SMALLEST_CLUSTER = 3
"""With fewer, one is as good a parent of the others as their mean, which takes bytes of its own."""
_ROOT = "root"


class Cost(NamedTuple):
    """What something takes: stored bytes, and total rank in a checkout."""

    size: float
    rank: float


Node = int | str
"""Variants are numbers from 0; other parents have names."""


def nearest(products: Array, place: int, own: float) -> list[int]:
    """Return the variants nearest to one, at most :data:`WINDOW`, as far as they leave little enough of it.

    Parameters
    ----------
    products : ndarray
        ``(N, N)``: inner products of what the variants changed.
    place : int
    own : float
        Squared norm of what the variant has of its own now.
    """
    norms = np.diag(products)
    distances = np.maximum(norms + norms[place] - 2 * products[place], 0.0)
    order = [other for other in np.argsort(distances, kind="stable").tolist() if other != place]
    return [other for other in order if distances[other] < NEAR * own][:WINDOW]


def clusters(products: Array, among: Iterable[int]) -> list[tuple[int, ...]]:
    """Return sets of variants that have something in common: each is connected by cosines above a threshold.

    Parameters
    ----------
    products : ndarray
        ``(N, N)``
    among : iterable of int
        Variants that are looked at.
    """
    norms = np.sqrt(np.maximum(np.diag(products), 0.0))
    used = [place for place in among if norms[place] > 0]
    found: dict[tuple[int, ...], None] = {}
    for threshold in COSINES:
        graph = nx.Graph()
        graph.add_nodes_from(used)
        for row, one in enumerate(used):
            near = products[one, used[:row]] > threshold * norms[one] * norms[used[:row]]
            graph.add_edges_from((one, used[other]) for other in np.flatnonzero(near).tolist())
        for members in nx.connected_components(graph):
            if len(members) >= SMALLEST_CLUSTER:
                found[tuple(sorted(members))] = None
    return list(found)


def squared_distance_to_mean(products: Array, place: int, members: Sequence[int]) -> float:
    """Return the squared distance of a variant from the mean of some."""
    cross = float(products[place, members].mean())
    inner = float(products[np.ix_(members, members)].mean())
    return max(0.0, float(products[place, place]) - 2 * cross + inner)


def choose(
    kept: Mapping[Node, Cost], offers: Mapping[tuple[Node, Node], Cost], means: Mapping[Node, Cost], limit: float
) -> dict[Node, Node]:
    """Choose the parents that make all variants together the smallest.

    Parameters
    ----------
    kept : Mapping[Node, Cost]
        Of every variant, and other parent that is there, as it is: the bytes that encoding it anew would free, and its total
        rank.
    offers : Mapping[(Node, Node), Cost]
        By parent and variant: what the variant's own residual would take.
    means : Mapping[Node, Cost]
        Of parents that are not there yet.
    limit : float
        Largest total rank that a variant may get; 0 for any.

    Returns
    -------
    dict of Node to Node
        The parent of every variant that is to be encoded anew.
    """
    left = {pair: cost for pair, cost in offers.items() if _pays(cost, kept[pair[1]])}
    while True:
        chosen = _cheapest(kept, left, means)
        past = [
            (parent, node)
            for node, parent in chosen.items()
            if limit and _total_rank(node, chosen, kept, left, means) > max(limit, kept[node].rank)
        ]
        if not past:
            return chosen
        for pair in past:
            del left[pair]


def _pays(cost: Cost, kept: Cost) -> bool:
    return cost.size < (1 - LEAST_GAIN) * kept.size


def _cheapest(
    kept: Mapping[Node, Cost], offers: Mapping[tuple[Node, Node], Cost], means: Mapping[Node, Cost]
) -> dict[Node, Node]:
    """Return the best choice with as many means as lower the total; each is added where it lowers it the most."""
    used: tuple[Node, ...] = ()
    total, chosen = _arborescence(kept, offers, {})
    while True:
        tried = [
            (*_arborescence(kept, offers, {mean: means[mean] for mean in (*used, each)}), each)
            for each in means
            if each not in used
        ]
        best = min(tried, key=lambda each: each[0], default=None)
        if best is None or best[0] >= total:
            return chosen
        total, chosen, used = best[0], best[1], (*used, best[2])


def _arborescence(
    kept: Mapping[Node, Cost], offers: Mapping[tuple[Node, Node], Cost], means: Mapping[Node, Cost]
) -> tuple[float, dict[Node, Node]]:
    there = {**kept, **means}
    graph = nx.DiGraph()
    graph.add_weighted_edges_from((_ROOT, node, cost.size) for node, cost in there.items())
    graph.add_weighted_edges_from((*pair, cost.size) for pair, cost in offers.items() if pair[0] in there)
    found = nx.minimum_spanning_arborescence(graph)
    parents = {node: parent for parent, node in found.edges if parent != _ROOT}
    return found.size(weight="weight"), parents


def _total_rank(
    node: Node,
    chosen: Mapping[Node, Node],
    kept: Mapping[Node, Cost],
    offers: Mapping[tuple[Node, Node], Cost],
    means: Mapping[Node, Cost],
) -> float:
    rank = 0.0
    while node in chosen:
        rank += offers[chosen[node], node].rank
        node = chosen[node]
    return rank + (means[node] if node in means else kept[node]).rank
