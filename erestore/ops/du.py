"""``du``: what takes how much space, and what separate checkpoints would take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from erestore.errors import NotFoundError, UnknownRevisionError
from erestore.objects.garbage import plan, read_unreachable
from erestore.objects.references import Reference, closure, walk
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
class Selection:
    """What some names take together.

    Attributes
    ----------
    own_bytes : int
        Of objects that no other name leads to.
    shared_bytes : int
        Of objects that others lead to as well.
    unreachable_bytes : int
        What garbage collection may delete already: former versions, deleted names.
    freed_bytes : int
        What is deleted once these names are and no reflog or grace period keeps anything: ``gc --grace-days 0
        --reflog-days 0``.
    kept_for : tuple of str
        Other names that lead to a commit of these, such as tags and variants that continue them.
    """

    own_bytes: int
    shared_bytes: int
    unreachable_bytes: int
    freed_bytes: int
    kept_for: tuple[str, ...]


@dataclass(frozen=True)
class DuResult:
    """What a store takes; the fields are those of its JSON.

    Attributes
    ----------
    variants : tuple of Usage
        Every branch and tag, bases included, sorted by name; or those that were asked for, in that order.
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
    selection : Selection or None
        What the names that were asked for take together.
    """

    variants: tuple[Usage, ...]
    stored_bytes: int
    reachable_bytes: int
    other_bytes: int
    separate_bytes: int
    saved_ratio: float | None
    selection: Selection | None = None


def du(store: Store, names: Sequence[str] = (), *, progress: Progress = silent) -> DuResult:
    """Count bytes by name. No tensor is read.

    Parameters
    ----------
    store : Store
    names : sequence of str
        Branches and tags to show alone, with what they take together and what deleting them would free.
    progress : Progress

    Raises
    ------
    CorruptionError
        If an object on the way is missing or damaged.
    UnknownRevisionError
        If one of the names does not exist.
    """
    selected = {_ref_name(store, name): None for name in names}
    sizes = {listed.oid: listed.size for listed in store.objects.list()}
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
        exclusive = sum(sizes.get(member, 0) for member in reached[name] if held_by[member] == 1)
        return Usage(
            name=name,
            commit=oid,
            kind="tag" if named[name].kind == "tag" else "base" if base else "variant",
            own_bytes=exclusive,
            shared_bytes=sum(sizes.get(member, 0) for member in reached[name]) - exclusive,
            original_bytes=commits[oid].original_bytes,
        )

    return DuResult(
        variants=tuple(usage(name, tips[name]) for name in selected or tips),
        stored_bytes=stored,
        reachable_bytes=reachable,
        other_bytes=stored - reachable,
        separate_bytes=separate,
        saved_ratio=separate / stored if stored else None,
        selection=_select(store, selected, tips, reached, sizes) if selected else None,
    )


def _ref_name(store: Store, name: str) -> str:
    """Return the name of a branch or tag; a revision that is none of these is told of as such."""
    try:
        return store.ref(name).name
    except UnknownRevisionError:
        oid = store.resolve(name)
        refs = [ref for ref, entry in sorted(store.refs.all().items()) if entry.oid == oid]
        raise NotFoundError(
            f"'{name}' is a commit, and space is counted by branch and tag.",
            hint=f"`erestore du {refs[0]}` counts what that name needs."
            if refs
            else f"`erestore show {name}` has its size.",
        ) from None


def _select(
    store: Store,
    selected: Iterable[str],
    tips: Mapping[str, str],
    reached: Mapping[str, set[str]],
    sizes: Mapping[str, int],
) -> Selection:
    """Return what some names take together, given the objects that every name leads to."""
    rest = [name for name in tips if name not in selected]
    retained = set[str]().union(*(reached[name] for name in rest))
    selected_oids = set[str]().union(*(reached[name] for name in selected))

    def size(oids: Iterable[str]) -> int:
        return sum(sizes.get(oid, 0) for oid in oids)

    freed = _collectable(store, retained)
    return Selection(
        own_bytes=size(selected_oids - retained),
        shared_bytes=size(selected_oids & retained),
        unreachable_bytes=size(freed - selected_oids),
        freed_bytes=size(freed),
        kept_for=tuple(name for name in rest if any(tips[one] in reached[name] for one in selected)),
    )


def _collectable(store: Store, retained: set[str]) -> set[str]:
    """Return what garbage collection deletes where nothing but this is reachable and nothing waits."""
    now = time.time()
    rest = [stored for stored in store.objects.list() if stored.oid not in retained]
    garbage = plan(read_unreachable(store.objects, rest, now), (), now, 0.0)
    return {condemned.oid for generation in garbage.doomed for condemned in generation}
