"""``gc``: delete what no ref leads to any more, in two phases with a grace period between them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from erestore.errors import AccessError, ConflictError, CorruptionError, UsageError
from erestore.execute import bounded_map
from erestore.objects.garbage import Garbage, plan, read_unreachable
from erestore.objects.references import READERS, Reference, walk
from erestore.operation import new_id
from erestore.progress import Progress, silent
from erestore.storage.access import is_full
from erestore.storage.calibrations import calibrated_bases, calibration_log, keys_oldest_first, newest_note
from erestore.storage.condemned import Condemned, read_lists, write_list
from erestore.storage.expiry import Expiry, expired, former_commits, held_commits
from erestore.storage.lease_records import PREFIX, SKEW_SECONDS, read_leases
from erestore.storage.leases import Lease
from erestore.storage.objects import StoredObject
from erestore.storage.reflogs import LoggedEntry, is_deleted, read_reflogs
from erestore.store import Store

DEAD_LEASE_DAYS = 1
"""Leases that nobody has renewed for so long are removed; they have had no effect for most of that time."""

_DAY = 86400.0
LAST = 253_402_214_400.0
"""The last day of the year 9999, in seconds since 1970."""


@dataclass(frozen=True)
class GarbageObject:
    """One object that a dry run names.

    Attributes
    ----------
    oid : str
    kind : str or None
        None if its header is damaged.
    size : int
        Stored bytes.
    action : str
        ``delete`` or ``condemn``.
    """

    oid: str
    kind: str | None
    size: int
    action: str


@dataclass(frozen=True)
class ReflogHold:
    """A name whose former commits the reflog still keeps.

    Attributes
    ----------
    name : str
    deleted : bool
    until : datetime
        When the last of them is no longer kept for this name, UTC.
    """

    name: str
    deleted: bool
    until: datetime


@dataclass(frozen=True)
class GcResult:
    """What ``gc`` did, or would do in a dry run; the fields are those of its JSON.

    Attributes
    ----------
    deleted_objects, freed_bytes : int
    kept_objects : int
        Objects that stay, condemned ones included.
    condemned_objects, condemned_bytes : int
        Objects that wait for the end of the grace period.
    expired_entries : int
        Old entries of reflogs that were removed.
    unfinished : int
        Half-written files of killed writers that were removed.
    waiting : str or None
        Why nothing was deleted, where something else is at work in the store.
    dry_run : bool
    objects : tuple of GarbageObject
        In a dry run: what would be deleted, in order, then what would be condemned now.
    reflog : tuple of ReflogHold
        Names whose former commits are kept for ``undo``, and until when.
    """

    deleted_objects: int = 0
    freed_bytes: int = 0
    kept_objects: int = 0
    condemned_objects: int = 0
    condemned_bytes: int = 0
    expired_entries: int = 0
    unfinished: int = 0
    waiting: str | None = None
    dry_run: bool = False
    objects: tuple[GarbageObject, ...] = ()
    reflog: tuple[ReflogHold, ...] = ()


@dataclass(frozen=True)
class Periods:
    """How long things are kept, in seconds."""

    grace: float
    reflog: float
    deleted: float

    def of(self, *, deleted: bool) -> float:
        """Return how long a name's reflog counts."""
        return self.deleted if deleted else self.reflog


def _moment(seconds: float) -> datetime:
    """Return a time; one that no calendar has is the last there is."""
    return datetime.fromtimestamp(min(seconds, LAST), UTC)


def gc(
    store: Store,
    *,
    grace_days: float | None = None,
    reflog_days: float | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> GcResult:
    """Delete what has been unreachable for the grace period, and condemn what is now.

    Kept is everything that refs lead to, now or in an entry of a reflog that has not expired, and all parts of it. An
    unreachable object is condemned first; a later collection deletes it if the grace period has passed, it is still
    unreachable and nobody has written it again. The newest entry of a reflog is never removed, not even a deletion's.
    A collection that is interrupted is finished by the next.

    Parameters
    ----------
    store : Store
    grace_days : float, optional
        By default the setting ``gc.grace_days``. With 0 (``--now``), what is unreachable is
        deleted at once.
    reflog_days : float, optional
        Age at which entries of reflogs expire; by default the setting ``gc.reflog_days``, and for deleted refs
        ``gc.reflog_deleted_days``.
    dry_run : bool
        List what would be done, and do nothing.
    progress : Progress

    Returns
    -------
    GcResult

    Raises
    ------
    CorruptionError
        If a ref, commit, manifest or index on the way is damaged or missing: what it needs is unknown, so nothing is
        deleted.
    ConflictError
        If the collector was suspended for so long that others may have started to write, or its lease was removed.
    AccessError
        If the credentials may not delete; nothing is written then, no lease either.
    """
    store.require_writable()
    collection = _Collection(store, _periods(store, grace_days, reflog_days), progress)
    try:  # the long part, while others may write; what they add is marked again once they are kept out
        collection.mark(time.time())
    except CorruptionError:  # perhaps only of a reflog's entry that another collection is removing
        if dry_run:
            raise
        collection.reached.clear()
    if dry_run:
        return collection.result(collection.plan(time.time()), dry_run=True)
    _require_deletion(store)
    with ExitStack() as stack:
        stack.enter_context(store.storage.spending_reserve())
        lease = Lease(store.storage, "collector", new_id())
        try:
            stack.enter_context(lease)
        except ConflictError as error:
            return GcResult(kept_objects=sum(1 for _ in store.objects.list()), waiting=f"{error.message} {error.hint}")
        return collection.run(lease)


@dataclass
class _Collection:
    store: Store
    periods: Periods
    progress: Progress
    logs: Mapping[str, list[LoggedEntry]] = field(default_factory=dict)
    reached: set[Reference] = field(default_factory=set)
    listed: list[StoredObject] = field(default_factory=list)
    expired: list[LoggedEntry] = field(default_factory=list)
    holds: tuple[ReflogHold, ...] = ()

    def mark(self, now: float) -> None:
        """Reach everything that is held at a time by the storage's clock."""
        entries = [logged for log in self.logs.values() for logged in log]
        self.logs = read_reflogs(self.store.storage, entries)
        expiry = Expiry.at(now, self.logs, period=self.periods.reflog, deleted_period=self.periods.deleted)
        self.expired = expired(self.logs, expiry)
        self.holds = tuple(
            ReflogHold(name, gone := is_deleted(self.logs[name]), _moment(moved + self.periods.of(deleted=gone)))
            for name, moved in sorted(former_commits(self.logs, expiry).items())
        )
        live, replaced = held_commits(self.logs, expiry)
        # A commit is deleted before its parts: while it is there, they are.
        live |= set(filter(self.store.objects.exists, replaced))
        for _ in walk(self.store.objects, [Reference("commit", oid) for oid in sorted(live)], self.reached):
            self.progress("marking", len(self.reached), len(self.reached))

    def plan(self, now: float) -> Garbage:
        """List the store once and decide."""
        self.listed = list(self.store.objects.list())
        reached = {reference.oid for reference in self.reached}
        rest = [stored for stored in self.listed if stored.oid not in reached]
        unreachable = read_unreachable(self.store.objects, rest, now)
        return plan(unreachable, read_lists(self.store.storage), now, self.periods.grace)

    def run(self, lease: Lease) -> GcResult:
        """Collect, while the lease keeps writers out."""
        now = _storage_time(self.store, lease)
        self.mark(now)
        garbage = self.plan(now)
        for logged in self.expired:
            lease.confirm()
            self.store.storage.delete(logged.key)
        self._forget_calibrations(garbage, now, lease)
        self._delete(garbage, lease)
        lease.confirm()
        for key in garbage.finished:
            self.store.storage.delete(key)
        self._remove_dead_leases(now)
        unfinished = self.store.storage.remove_unfinished(now - self.periods.grace)
        if garbage.fresh:  # last, when all space is free that can be
            self._condemn(garbage.fresh)
        return self.result(garbage, unfinished=unfinished)

    def _condemn(self, objects: tuple[Condemned, ...]) -> None:
        try:
            write_list(self.store.storage, objects)
        except AccessError as error:
            if not is_full(error):
                raise
            raise AccessError(
                error.message,
                hint="`erestore gc --grace-days 0` needs no space: it deletes what is unreachable at once. Only run it when "
                "nobody else is writing.",
            ) from error

    def _forget_calibrations(self, garbage: Garbage, now: float, lease: Lease) -> None:
        """Remove what names a note before the note, and entries that no longer count."""
        doomed = {condemned.oid for generation in garbage.doomed for condemned in generation}
        for base in calibrated_bases(self.store.storage):
            lease.confirm()
            if newest_note(self.store.storage, base) in doomed:
                for key in keys_oldest_first(self.store.storage, base):
                    self.store.storage.delete(key)
            else:
                calibration_log(self.store.storage, base).prune(now - self.periods.reflog)

    def _delete(self, garbage: Garbage, lease: Lease) -> None:
        total = sum(map(len, garbage.doomed))
        done = 0

        def delete(condemned: Condemned) -> None:
            lease.confirm()  # a collector that was suspended may wake up among writers
            self.store.objects.delete(condemned.oid)

        with ThreadPoolExecutor(READERS) as executor:
            for generation in garbage.doomed:
                for _ in bounded_map(executor, delete, generation, in_flight=2 * READERS):
                    done += 1
                    self.progress("deleting", done, total)

    def _remove_dead_leases(self, now: float) -> None:
        for record in read_leases(self.store.storage).values():
            is_old = not -SKEW_SECONDS <= now - record.modified < DEAD_LEASE_DAYS * _DAY
            for key in record.keys if record.is_released or is_old else ():
                self.store.storage.delete(key)

    def result(self, garbage: Garbage, *, unfinished: int = 0, dry_run: bool = False) -> GcResult:
        doomed = [condemned for generation in garbage.doomed for condemned in generation]
        waiting = [*garbage.waiting, *garbage.fresh]
        named = [GarbageObject(c.oid, c.kind, c.size, "delete") for c in doomed]
        named += [GarbageObject(c.oid, c.kind, c.size, "condemn") for c in garbage.fresh]
        return GcResult(
            deleted_objects=len(doomed),
            freed_bytes=sum(condemned.size for condemned in doomed),
            kept_objects=len(self.listed) - len(doomed),
            condemned_objects=len(waiting),
            condemned_bytes=sum(condemned.size for condemned in waiting),
            expired_entries=len(self.expired),
            unfinished=unfinished,
            dry_run=dry_run,
            objects=tuple(named) if dry_run else (),
            reflog=self.holds,
        )


def _require_deletion(store: Store) -> None:
    """Find out, before a lease is written that could not be removed, whether the credentials may delete at all."""
    try:
        store.storage.delete(f"{PREFIX}collector-none/{0:016d}")
    except AccessError as error:
        raise AccessError(
            f"Nothing can be deleted from the store at {store.url}: {error.message}",
            hint="Run `erestore gc` with credentials that may delete; to add variants, these suffice.",
        ) from error


def _storage_time(store: Store, lease: Lease) -> float:
    """Return the time by the storage's clock, which the lease's own entry was just stamped with."""
    return max(entry.modified for entry in store.storage.list(f"{PREFIX}{lease.name}/"))


def _periods(store: Store, grace_days: float | None, reflog_days: float | None) -> Periods:
    grace = _seconds(store.setting("gc.grace_days") if grace_days is None else grace_days)
    reflog = _seconds(store.setting("gc.reflog_days") if reflog_days is None else reflog_days)
    deleted = _seconds(store.setting("gc.reflog_deleted_days"))
    if reflog_days is not None:
        deleted = min(deleted, reflog)
    return Periods(grace, reflog, deleted)


def _seconds(days: float) -> float:
    if not 0 <= days < math.inf:
        raise UsageError(f"'{days}' is not a number of days.", hint="Give 0 or more.")
    return days * _DAY
