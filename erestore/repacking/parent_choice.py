"""Which parent each of many variants is encoded against, so that all of them take the least: arithmetic on sizes alone.

As git picks the bases of its deltas, for each variant only what is near is looked at. Sizes make up a directed graph: from
a root to what is there as it is, and to every parent that would have to be written first, such as a mean; from parents to
variants that would be encoded against them. The smallest arborescence of the graph (Edmonds 1967) is the cheapest choice of
one parent for each; it has no cycles, so nothing is ever encoded against itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
TRIED = 8
"""Parents that are tried at a time as ones that stay as they are."""
_ROOT = "root"


class Cost(NamedTuple):
    """What something takes: stored bytes, and total rank in a checkout."""

    size: float
    rank: float


Node = int | str
"""Variants are numbers from 0; other parents have names."""


def nearest(products: Array, index: int, squared_norm: float) -> list[int]:
    """Return the variants nearest to one, at most :data:`WINDOW`, as far as they leave little enough of it.

    Parameters
    ----------
    products : ndarray
        ``(N, N)``: inner products of what the variants changed.
    index : int
    squared_norm : float
        Squared norm of what the variant has of its own now.
    """
    norms = np.diag(products)
    distances = np.maximum(norms + norms[index] - 2 * products[index], 0.0)
    order = [other for other in np.argsort(distances, kind="stable").tolist() if other != index]
    return [other for other in order if distances[other] < NEAR * squared_norm][:WINDOW]


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
    used = [index for index in among if norms[index] > 0]
    groups: dict[tuple[int, ...], None] = {}
    for threshold in COSINES:
        graph = nx.Graph()
        graph.add_nodes_from(used)
        for row, one in enumerate(used):
            near = products[one, used[:row]] > threshold * norms[one] * norms[used[:row]]
            graph.add_edges_from((one, used[other]) for other in np.flatnonzero(near).tolist())
        for members in nx.connected_components(graph):
            if len(members) >= SMALLEST_CLUSTER:
                groups[tuple(sorted(members))] = None
    return list(groups)


def squared_distance_to_mean(products: Array, index: int, members: Sequence[int]) -> float:
    """Return the squared distance of a variant from the mean of some."""
    cross = float(products[index, members].mean())
    inner = float(products[np.ix_(members, members)].mean())
    return max(0.0, float(products[index, index]) - 2 * cross + inner)


@dataclass(frozen=True)
class Offer:
    """What a variant's own residual would take on a parent as it is, and on one that is encoded anew itself.

    The latter has lost something that the variant then makes up for.
    """

    as_is: Cost
    anew: Cost


@dataclass(frozen=True)
class Sizes:
    """What is to be chosen from.

    Attributes
    ----------
    costs : Mapping[Node, Cost]
        Of every variant, and other parent that is there, as it is: the bytes that encoding it anew would free, and its total
        rank.
    offers : Mapping[(Node, Node), Offer]
        By parent and variant.
    means : Mapping[Node, Cost]
        Of parents that are not there yet.
    """

    costs: Mapping[Node, Cost]
    offers: Mapping[tuple[Node, Node], Offer]
    means: Mapping[Node, Cost]


def choose(sizes: Sizes, limit: float) -> dict[Node, Node]:
    """Choose the parents that make all variants together the smallest.

    Parameters
    ----------
    sizes : Sizes
    limit : float
        Largest total rank that a variant may get; 0 for any.

    Returns
    -------
    dict of Node to Node
        The parent of every variant that is to be encoded anew.
    """
    offers = {
        (parent, node): offer
        for (parent, node), offer in sizes.offers.items()
        if offer.as_is.size < (1 - LEAST_GAIN) * sizes.costs[node].size
    }
    while True:
        left = Sizes(sizes.costs, offers, sizes.means)
        parents = _cheapest(left)
        past = [
            (parent, node)
            for node, parent in parents.items()
            if limit and _total_rank(left, parents, node) > max(limit, sizes.costs[node].rank)
        ]
        if not past:
            return parents
        for pair in past:
            del offers[pair]


def _cheapest(sizes: Sizes) -> dict[Node, Node]:
    """Return the best choice with as many means, and variants that stay as they are for others, as lower the total.

    Each is added where it lowers it the most.
    """
    used: frozenset[Node] = frozenset()
    total, parents = _arborescence(sizes, used)
    while True:
        best = min(
            ((*_arborescence(sizes, used | {extra}), extra) for extra in _promising(sizes, used)),
            key=lambda tried: tried[0],
            default=None,
        )
        if best is None or best[0] >= total:
            return parents
        total, parents, used = best[0], best[1], used | {best[2]}


def _promising(sizes: Sizes, used: frozenset[Node]) -> list[Node]:
    """Return the parents that would save the most if all variants that they could have were theirs."""
    saved: dict[Node, float] = {}
    for (parent, node), offer in sizes.offers.items():
        if parent not in used and (parent in sizes.means or sizes.costs[parent].size):
            saved[parent] = saved.get(parent, 0.0) + sizes.costs[node].size - offer.as_is.size
    return sorted(saved, key=lambda parent: -saved[parent])[:TRIED]


def _arborescence(sizes: Sizes, used: frozenset[Node]) -> tuple[float, dict[Node, Node]]:
    """Return the smallest total, and the choice, with some of the means and where some variants stay as they are."""
    graph = nx.DiGraph()
    graph.add_weighted_edges_from((_ROOT, node, cost.size) for node, cost in sizes.costs.items())
    graph.add_weighted_edges_from((_ROOT, node, sizes.means[node].size) for node in used if node in sizes.means)
    for (parent, node), offer in sizes.offers.items():
        if parent in graph and node not in used:
            stays = parent in used or not sizes.costs[parent].size
            graph.add_edge(parent, node, weight=(offer.as_is if stays else offer.anew).size)
    tree = nx.minimum_spanning_arborescence(graph)
    return tree.size(weight="weight"), {node: parent for parent, node in tree.edges if parent != _ROOT}


def _total_rank(sizes: Sizes, parents: Mapping[Node, Node], node: Node) -> float:
    rank = 0.0
    while node in parents:
        rank += sizes.offers[parents[node], node].as_is.rank
        node = parents[node]
    return rank + (sizes.means[node] if node in sizes.means else sizes.costs[node]).rank
