"""The lineage laid out in the plane: a column for each generation, a lane for each branch; and its page."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

CONTINUES = frozenset({"versioned", "picked", "reverted", "flattened"})
"""What a commit may be to its parent to be the next version of the same branch."""


class LoggedCommit(Protocol):
    """A commit as ``log`` lists it; see :class:`erestore.ops.log.LogEntry`."""

    @property
    def commit(self) -> str:
        """Oid."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Oids."""

    @property
    def edge(self) -> str:
        """One of :data:`erestore.records.EDGES`."""

    @property
    def refs(self) -> tuple[str, ...]:
        """Branches and tags that point to it."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags that point to it."""

    @property
    def author(self) -> str:
        """Who made it."""

    @property
    def message(self) -> str:
        """Why."""

    @property
    def time(self) -> datetime:
        """When; UTC."""

    @property
    def stored_bytes(self) -> int:
        """What it added to the store."""

    @property
    def original_bytes(self) -> int:
        """Size of its checkpoint."""

    @property
    def relative_error(self) -> float | None:
        """As measured."""

    @property
    def exact(self) -> bool:
        """Whether every bit is kept."""

    @property
    def error_bound(self) -> float | None:
        """Where nothing was measured."""

    @property
    def lossy_error(self) -> float | None:
        """Without the exact remainder."""

    @property
    def metrics(self) -> Mapping[str, str]:
        """As given."""


@dataclass(frozen=True)
class Position:
    """Where a commit is drawn, and what it goes back to.

    Attributes
    ----------
    generation : int
        Length of the longest way from a commit without parents.
    lane : int
        Counted from the top; versions of one branch share one, and what goes back to them lies around it.
    root : str or None
        Oid of the base, by first parents; None where the list does not go back that far.
    """

    generation: int
    lane: int
    root: str | None


def name_of(entry: LoggedCommit) -> str:
    """Return what people call a commit: a branch that points to it, a tag, else the start of its oid."""
    return next((name for name in entry.refs if name not in entry.tags), next(iter(entry.refs), entry.commit[:12]))


def lay_out(entries: Sequence[LoggedCommit]) -> dict[str, Position]:
    """Place commits, whatever part of a lineage they are.

    Parameters
    ----------
    entries : sequence of LoggedCommit
        In any order.

    Returns
    -------
    dict of str to Position
        By oid.
    """
    by_oid = {entry.commit: entry for entry in entries}
    children = _children(by_oid)
    generations: dict[str, int] = {}
    roots: dict[str, str | None] = {}
    for oid in _parents_first(by_oid, children):
        entry = by_oid[oid]
        generations[oid] = max((1 + generations[parent] for parent in entry.parents if parent in by_oid), default=0)
        roots[oid] = roots.get(entry.parents[0]) if entry.parents else oid
    lanes = _lanes(by_oid)
    return {oid: Position(generations[oid], lanes[oid], roots[oid]) for oid in by_oid}


def _children(by_oid: Mapping[str, LoggedCommit]) -> dict[str, list[str]]:
    children: dict[str, list[str]] = {oid: [] for oid in by_oid}
    for oid, entry in by_oid.items():
        for parent in dict.fromkeys(entry.parents):
            if parent in children:
                children[parent].append(oid)
    return children


def _parents_first(by_oid: Mapping[str, LoggedCommit], children: Mapping[str, Sequence[str]]) -> Iterable[str]:
    waiting = {oid: len({*entry.parents} & by_oid.keys()) for oid, entry in by_oid.items()}
    ready = deque(oid for oid, count in waiting.items() if not count)
    while ready:
        yield (oid := ready.popleft())
        for child in children[oid]:
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)


def _lanes(by_oid: Mapping[str, LoggedCommit]) -> dict[str, int]:
    """Give each chain of versions a lane between those of the chains that begin at it: half above, half below."""
    firsts: dict[str, list[str]] = {}
    starts = []
    for oid in sorted(by_oid, key=lambda commit: (by_oid[commit].time, commit)):
        parents = by_oid[oid].parents
        if parents and parents[0] in by_oid:
            firsts.setdefault(parents[0], []).append(oid)
        else:
            starts.append(oid)
    lanes: dict[str, int] = {}
    number = 0
    waiting: list[tuple[str, list[str] | None]] = [(oid, None) for oid in reversed(starts)]
    while waiting:
        oid, chain = waiting.pop()
        if chain is not None:
            lanes |= dict.fromkeys(chain, number)
            number += 1
            continue
        chain, begun = _chain(oid, by_oid, firsts)
        above, below = _around(begun)
        waiting += [(other, None) for other in reversed(below)]
        waiting.append((oid, chain))
        waiting += [(other, None) for other in reversed(above)]
    return lanes


def _chain(
    oid: str, by_oid: Mapping[str, LoggedCommit], firsts: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return a commit and the versions that follow it on its branch, and what else begins at each of them."""
    chain, begun = [oid], list[list[str]]()
    while True:
        entry, follow = by_oid[chain[-1]], firsts.get(chain[-1], ())
        is_tip = any(name not in entry.tags for name in entry.refs)
        heir = next(
            (child for child in follow if by_oid[child].edge in CONTINUES and entry.parents and not is_tip), None
        )
        begun.append([child for child in follow if child != heir])
        if heir is None:
            return chain, begun
        chain.append(heir)


def _around(begun: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Divide what begins at the versions of a chain into what lies above it and below, from the top.

    What begins at later versions lies nearer: a line up or down from a version then meets nothing but later generations.
    """
    half = sum(map(len, begun)) // 2
    above, below = list[str](), list[str]()
    for group in begun:
        room = max(0, half - len(above))
        above += group[:room]
        below = [*group[room:], *below]
    return above, below
