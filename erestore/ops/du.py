"""``du``: what takes how much space, and what separate checkpoints would take."""

from __future__ import annotations

from dataclasses import dataclass

from erestore.model.reachable import Reference, closure, walk
from erestore.progress import Progress, silent
from erestore.storage.reflogs import read_reflogs
from erestore.store import Store


@dataclass(frozen=True)
class Usage:
    """What one branch or tag takes; the fields are those of its JSON.

    Attributes
    ----------
    name, commit : str
    kind : str
        ``base``, ``variant`` or ``tag``.
    own_bytes : int
        Of objects that only this name leads to: about what deleting it would free in the end.
    shared_bytes : int
        Of objects that other names lead to as well.
    original_bytes : int
        What its checkpoint takes by itself.
    """

    name: str
    commit: str
    kind: str
    own_bytes: int
    shared_bytes: int
    original_bytes: int


@dataclass(frozen=True)
class DuResult:
    """What a store takes; the fields are those of its JSON.

    Attributes
    ----------
    variants : tuple of Usage
        Every branch and tag, bases included, sorted by name.
    stored_bytes : int
        All objects, whether any name leads to them or not.
    reachable_bytes : int
        Objects that branches and tags lead to.
    other_bytes : int
        The rest: what only reflogs lead to, and garbage.
    separate_bytes : int
        What the checkpoints of all names would take one by one; names of one commit count once.
    saved_ratio : float or None
        ``separate_bytes / stored_bytes``.
    """

    variants: tuple[Usage, ...]
    stored_bytes: int
    reachable_bytes: int
    other_bytes: int
    separate_bytes: int
    saved_ratio: float | None


def du(store: Store, *, progress: Progress = silent) -> DuResult:
    """Count bytes by name. No tensor is read.

    Parameters
    ----------
    store : Store
    progress : Progress

    Raises
    ------
    CorruptionError
        If an object on the way is missing or damaged.
    """
    sizes = {held.oid: held.size for held in store.objects.list()}
    newest = (log[-1].entry for log in read_reflogs(store.storage).values())
    named = {entry.name: entry for entry in newest if entry is not None and entry.oid is not None}
    tips = {name: str(entry.oid) for name, entry in sorted(named.items())}
    needs: dict[str, tuple[str, ...]] = {}
    for visit in walk(store.objects, [Reference("commit", oid) for oid in dict.fromkeys(tips.values())], set()):
        needs[visit.reference.oid] = tuple(reference.oid for reference in visit.needs)
        progress("walking", len(needs), max(len(needs), len(sizes)))
    reached = {name: closure([oid], needs) for name, oid in tips.items()}
    held_by: dict[str, int] = {}
    for oids in reached.values():
        for oid in oids:
            held_by[oid] = held_by.get(oid, 0) + 1
    commits = {oid: store.commit_record(oid) for oid in tips.values()}
    stored = sum(sizes.values())
    reachable = sum(sizes.get(oid, 0) for oid in held_by)
    separate = sum(commit.original_bytes for commit in commits.values())

    def usage(name: str, oid: str) -> Usage:
        base = commits[oid].edge == "imported"
        own = sum(sizes.get(held, 0) for held in reached[name] if held_by[held] == 1)
        return Usage(
            name=name,
            commit=oid,
            kind="tag" if named[name].kind == "tag" else "base" if base else "variant",
            own_bytes=own,
            shared_bytes=sum(sizes.get(held, 0) for held in reached[name]) - own,
            original_bytes=commits[oid].original_bytes,
        )

    return DuResult(
        variants=tuple(usage(name, oid) for name, oid in tips.items()),
        stored_bytes=stored,
        reachable_bytes=reachable,
        other_bytes=stored - reachable,
        separate_bytes=separate,
        saved_ratio=separate / stored if stored else None,
    )
