"""``status``: what a store holds at a glance."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from erestore.objects.references import Reference, walk
from erestore.storage.expiry import held_commits
from erestore.storage.lease_records import read_leases
from erestore.storage.reflogs import LoggedEntry, in_order, read_reflogs
from erestore.store import Store


@dataclass(frozen=True)
class LastOperation:
    """The newest entry of all refs: operation, the ref, the message, and when (UTC)."""

    operation: str
    ref: str
    message: str
    time: datetime


@dataclass(frozen=True)
class StatusResult:
    """What a store holds; the fields are those of its JSON.

    Attributes
    ----------
    store, id : str
        URL, and the id that the store was made with.
    bases, variants, tags : int
        Branches that name a base, branches that name a variant, and tags.
    commits : int
        That branches and tags lead to.
    objects, stored_bytes : int
        All that is stored, whether anything leads to it or not.
    unreachable_objects, unreachable_bytes : int
        What no ref and no reflog leads to: the next garbage collection would take it, once it is old enough.
    running : int
        Operations that are writing just now, or died less than an hour ago.
    last : LastOperation or None
    """

    store: str
    id: str
    bases: int
    variants: int
    tags: int
    commits: int
    objects: int
    stored_bytes: int
    unreachable_objects: int
    unreachable_bytes: int
    running: int
    last: LastOperation | None


def status(store: Store) -> StatusResult:
    """Count what a store holds."""
    logs = read_reflogs(store.storage)
    newest = [log[-1].entry for log in logs.values() if log[-1].entry is not None]
    named = [entry for entry in newest if entry.oid is not None]
    branches = [entry for entry in named if entry.kind == "branch"]
    bases = sum(store.commit_record(str(entry.oid)).edge == "imported" for entry in branches)
    sizes = {listed.oid: listed.size for listed in store.objects.list()}
    reached: set[Reference] = set()
    tips = [Reference("commit", str(entry.oid)) for entry in named]
    commits = sum(visit.reference.kind == "commit" for visit in walk(store.objects, tips, reached))
    live, replaced = held_commits(logs)
    logged = [Reference("commit", oid) for oid in live | replaced]
    # Older entries of a log may lead to what garbage collection has taken; that is no concern of a summary.
    for _ in walk(store.objects, logged, reached, lambda *_: None):
        pass
    unreachable = sizes.keys() - {reference.oid for reference in reached}
    return StatusResult(
        store=store.url,
        id=store.id,
        bases=bases,
        variants=len(branches) - bases,
        tags=len(named) - len(branches),
        commits=commits,
        objects=len(sizes),
        stored_bytes=sum(sizes.values()),
        unreachable_objects=len(unreachable),
        unreachable_bytes=sum(sizes[oid] for oid in unreachable),
        running=_running(store),
        last=_last(logs),
    )


def _running(store: Store) -> int:
    """Count leases that are not known to be dead, by this machine's clock: only a write would show the storage's."""
    now = time.time()
    return sum(record.is_current(now) for record in read_leases(store.storage).values())


def _last(logs: Mapping[str, list[LoggedEntry]]) -> LastOperation | None:
    entry = next((logged.entry for logged in reversed(in_order(logs))), None)
    if entry is None:
        return None
    return LastOperation(entry.operation, entry.name, entry.message, datetime.fromtimestamp(entry.time / 1e6, UTC))
