"""What of a store is garbage, and in which order it can go. Nothing here deletes anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import TopologicalSorter

from erestore.errors import ErestoreError, MissingObjectError, UnsupportedFormatError
from erestore.execute import bounded_map
from erestore.objects.note import is_calibration
from erestore.objects.references import READERS, REFERRING, references
from erestore.storage.condemned import Condemned, CondemnedList
from erestore.storage.frames import RECORD_HEADER, kind_of
from erestore.storage.lease_records import SKEW_SECONDS
from erestore.storage.objects import ObjectStore, StoredObject
from erestore.storage.segments import read_present

NEVER_COLLECTED = frozenset({"note", "pack"})
"""Kinds that this version does not know what refers to, but for notes that are calibrations."""


@dataclass(frozen=True)
class Unreachable:
    """An object that no ref leads to.

    Attributes
    ----------
    condemned : Condemned
        It, as a list would name it.
    age : float
        Seconds since it was written.
    needs : tuple of str
        Oids that it refers to, where that can be read.
    """

    condemned: Condemned
    age: float
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Garbage:
    """What a garbage collection does to objects and lists.

    Attributes
    ----------
    doomed : tuple of tuple of Condemned
        To be deleted, in generations: nothing refers to an object of an earlier generation.
    fresh : tuple of Condemned
        To be condemned.
    waiting : tuple of Condemned
        Condemned before, and not to be deleted yet.
    finished : tuple of str
        Keys of lists on which nothing is left, once what is doomed is gone.
    """

    doomed: tuple[tuple[Condemned, ...], ...]
    fresh: tuple[Condemned, ...]
    waiting: tuple[Condemned, ...]
    finished: tuple[str, ...]


def read_unreachable(objects: ObjectStore, listed: Iterable[StoredObject], now: float) -> dict[str, Unreachable]:
    """Read what is unreachable as far as planning needs it, by oid; what a newer version wrote is left out.

    Parameters
    ----------
    objects : ObjectStore
    listed : iterable of StoredObject
        The unreachable objects.
    now : float
        POSIX seconds by the storage's clock.
    """

    def read(stored: StoredObject) -> Unreachable | None:
        try:
            kind = kind_of(read_present(objects.storage, "object", stored.oid, 0, RECORD_HEADER))
        except (UnsupportedFormatError, MissingObjectError):
            return None
        needs: tuple[str, ...] = ()
        if kind in REFERRING:
            try:
                needs = tuple(oid for _, oid in references(objects, kind, stored.oid))
            except UnsupportedFormatError:
                return None
            except ErestoreError:  # damaged: what it refers to is lost with it
                needs = ()
        condemned = Condemned(stored.oid, kind, stored.size, int(stored.modified * 1e6))
        if kind in NEVER_COLLECTED and not (kind == "note" and is_calibration(objects, stored.oid)):
            return None
        return Unreachable(condemned, now - stored.modified, needs)

    with ThreadPoolExecutor(READERS) as executor:
        results = bounded_map(executor, read, listed, in_flight=2 * READERS)
        return {entry.condemned.oid: entry for entry in results if entry}


def plan(
    unreachable: Mapping[str, Unreachable], lists: Iterable[CondemnedList], now: float, grace_seconds: float
) -> Garbage:
    """Decide what to delete and what to condemn.

    Deleted is what a list has condemned for the grace period, unless it was written again since or something that stays
    refers to it; condemned, what no list names and has not been written for the grace period. Without a grace period
    everything is deleted at once, whatever its time. A list from the future does not say when the grace period began: it is
    replaced by a new one.
    """
    lists = tuple(lists)
    since: dict[str, float] = {}
    for condemned_list in (condemned_list for condemned_list in lists if condemned_list.since <= now + SKEW_SECONDS):
        for condemned in condemned_list.objects:
            if _is_still_condemned(unreachable, condemned):
                since.setdefault(condemned.oid, condemned_list.since)
    doomed = {
        oid
        for oid, candidate in unreachable.items()
        if not grace_seconds or min(candidate.age, now - since.get(oid, now)) >= grace_seconds
    }
    _spare_needed(doomed, unreachable)
    rest = [entry for oid, entry in unreachable.items() if oid not in doomed]
    return Garbage(
        doomed=tuple(_generations(doomed, unreachable)),
        fresh=tuple(f.condemned for f in rest if f.condemned.oid not in since and f.age >= grace_seconds),
        waiting=tuple(f.condemned for f in rest if f.condemned.oid in since),
        finished=tuple(
            condemned_list.key
            for condemned_list in lists
            if not any(o.oid not in doomed and o.oid in since for o in condemned_list.objects)
        ),
    )


def _is_still_condemned(unreachable: Mapping[str, Unreachable], condemned: Condemned) -> bool:
    candidate = unreachable.get(condemned.oid)
    return candidate is not None and candidate.condemned.modified <= condemned.modified


def _spare_needed(doomed: set[str], unreachable: Mapping[str, Unreachable]) -> None:
    """Take out of `doomed` what objects that stay refer to: no record is left with missing parts."""
    staying = [oid for oid in unreachable if oid not in doomed]
    while staying:
        for oid in unreachable[staying.pop()].needs:
            if oid in doomed:
                doomed.remove(oid)
                staying.append(oid)


def _generations(doomed: set[str], unreachable: Mapping[str, Unreachable]) -> Iterator[tuple[Condemned, ...]]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for oid in sorted(doomed):
        sorter.add(oid)
        for needed in unreachable[oid].needs:
            if needed in doomed:
                sorter.add(needed, oid)
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        yield tuple(unreachable[oid].condemned for oid in ready)
        sorter.done(*ready)
