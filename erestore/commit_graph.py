"""The lineage as a graph: walking it, ordering it, and handing it out as a networkx DAG.

Everything here works on plain oids and functions of them; nothing reads storage.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import networkx as nx


class Node(Protocol):
    """What the lineage needs to know of a commit."""

    @property
    def parents(self) -> Sequence[str]:
        """Oids of the parents."""

    @property
    def time(self) -> int:
        """Microseconds since 1970 UTC."""


_N = TypeVar("_N", bound=Node)


def by_time(tips: Iterable[str], read: Callable[[str], _N]) -> Iterator[tuple[str, _N]]:
    """Yield every commit that `tips` lead to, newest first, reading no more than was asked for.

    Parameters
    ----------
    tips : iterable of str
        Oids to start from.
    read : callable
        Returns the commit called an oid.
    """
    seen: set[str] = set()
    heap: list[tuple[int, bool, str, _N]] = []

    def add(oid: str) -> None:
        if oid not in seen:
            seen.add(oid)
            node = read(oid)
            # One operation may make a base and its first variant, at one time: what has no parents comes last.
            heapq.heappush(heap, (-node.time, not node.parents, oid, node))

    for tip in tips:
        add(tip)
    while heap:
        *_, oid, node = heapq.heappop(heap)
        yield oid, node
        for parent in node.parents:
            add(parent)


def children_first(nodes: Mapping[str, _N]) -> Iterator[tuple[str, _N]]:
    """Yield commits newest first, but never a parent before all of its children, whatever the clocks said.

    Parameters
    ----------
    nodes : Mapping[str, commit]
        By oid; parents that are not among them are left out.
    """
    waiting = dict.fromkeys(nodes, 0)
    for node in nodes.values():
        for parent in set(node.parents) & nodes.keys():
            waiting[parent] += 1
    heap = [(-nodes[oid].time, oid) for oid, count in waiting.items() if not count]
    heapq.heapify(heap)
    while heap:
        _, oid = heapq.heappop(heap)
        yield oid, nodes[oid]
        for parent in set(nodes[oid].parents) & nodes.keys():
            waiting[parent] -= 1
            if not waiting[parent]:
                heapq.heappush(heap, (-nodes[parent].time, parent))


def lineage(nodes: Iterable[tuple[str, Sequence[str], str, Mapping[str, Any]]]) -> nx.DiGraph:
    """Return commits as a directed acyclic graph.

    Parameters
    ----------
    nodes : iterable of (oid, parents, edge, attributes)
        All parents included; the attributes are attached to the node.

    Returns
    -------
    networkx.DiGraph
        Edges lead from parent to child; ``edge`` says what the child is to it, ``position`` which of its parents it is.
    """
    import networkx as nx

    graph = nx.DiGraph()
    for oid, parents, edge, attributes in nodes:
        graph.add_node(oid, **attributes)
        for position, parent in enumerate(parents):
            graph.add_edge(parent, oid, edge=edge, position=position)
    return graph
