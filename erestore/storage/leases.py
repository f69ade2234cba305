"""Leases: how writers and garbage collection keep out of each other's way without locks.

Each announces itself first and looks for the other afterwards, so of two that start together at least one sees the
other. A lease lasts until it is removed or has not been renewed for :data:`EXPIRES_SECONDS` by the storage's own clock,
which shows in the modification times of its listing; clocks of machines are never compared. A lease that somebody
removes while its holder is alive (``unlock``) ends the holder's operation: it is looked up before anything is made
reachable or deleted.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from typing import Self

from erestore.errors import AccessError, ConflictError, ErestoreError
from erestore.storage.abc import Storage
from erestore.storage.holder import Holder
from erestore.storage.lease_records import (
    EXPIRES_SECONDS,
    PREFIX,
    RELEASED,
    Kind,
    LeaseContent,
    LeaseRecord,
    read_leases,
)

LOOKED_UP_SECONDS = 1.0
"""How long a collector, which confirms before every deletion, relies on having looked its lease up."""


class Lease:
    """A context manager that holds a lease and renews it while its body runs.

    Entries are ``gc/leases/<kind>-<id>/<%016d>``; renewing creates the next number and removes the one before.

    Parameters
    ----------
    storage : Storage
    kind : {"writer", "collector"}
        Any number of writers may run at once, or one collector.
    writer : str
        Who, for people who look at the store.
    expires_seconds : int

    Raises
    ------
    ConflictError
        On entering: for a writer, if a collector is live; for a collector, if anybody is.
    """

    def __init__(self, storage: Storage, kind: Kind, writer: str, *, expires_seconds: int = EXPIRES_SECONDS) -> None:
        self.kind = kind
        self.name = f"{kind}-{secrets.token_hex(8)}"
        self._storage = storage
        self._writer = writer
        self._expires = expires_seconds
        self._number = 0
        self._renewed = _Stopwatch()
        self._looked_up: _Stopwatch | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._keep_renewing, name=self.name, daemon=True)

    def __enter__(self) -> Self:
        try:
            self.renew()
            self._refuse_conflicts()
        except BaseException:
            with suppress(ErestoreError):
                self.remove()
            raise
        self._renewal.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewal.join()
        with suppress(ErestoreError):  # what was done stands; the lease expires by itself
            self.remove()

    def renew(self) -> None:
        """Make the lease last for another full term.

        Raises
        ------
        ConflictError
            If somebody removed it, or it has lapsed: renewing would hide the gap in which others did not see it.
        """
        with self._lock:
            if self._number:
                if self._renewed.seconds() >= self._expires:
                    raise _lapsed()
                self._look_up()
            renewed = _Stopwatch()  # started before the write: the term counts from the earlier moment
            content = LeaseContent(self._writer, time.time_ns() // 1000, Holder.current())
            self._storage.create(self._key(self._number + 1), content.to_bytes(self.kind, self._expires))
            self._number += 1
            self._renewed = renewed
            if self._number > 1:
                with suppress(AccessError):  # credentials that may only add: the highest number counts
                    self._storage.delete(self._key(self._number - 1))

    def confirm(self) -> None:
        """Make sure that the lease has held without a gap; to be called before what was written is made reachable.

        Raises
        ------
        ConflictError
            If it has lapsed (this machine slept, or renewing failed) or somebody removed it: what was written may have
            been collected.
        """
        if self._renewed.seconds() > self._expires / 2:
            raise _lapsed()
        is_recent = self._looked_up is not None and self._looked_up.seconds() < LOOKED_UP_SECONDS
        if self.kind == "writer" or not is_recent:
            with self._lock:
                self._look_up()

    def others(self) -> list[str]:
        """Return the names of all other live leases, by the storage's clock at this lease's last renewal."""
        return [record.name for record in self._others()]

    def _others(self) -> list[LeaseRecord]:
        records = read_leases(self._storage)
        lease = records.pop(self.name, None)
        if lease is None or not lease.number:
            raise _removed()
        current = [record for _, record in sorted(records.items()) if record.is_current(lease.modified)]
        # What a lease says is looked at only where it matters: writers do not mind each other.
        return [
            record
            for record in current
            if "collector" not in (self.kind, record.kind)
            or not record.read(self._storage).is_copied(record, lease.modified)
        ]

    def _look_up(self) -> None:
        looked_up = _Stopwatch()
        if not self._storage.exists(self._key(self._number)):
            raise _removed()
        self._looked_up = looked_up

    def _refuse_conflicts(self) -> None:
        others = self._others()
        if collector := next((record for record in others if record.kind == "collector"), None):
            holder = collector.read(self._storage).holder
            raise ConflictError(
                f"Garbage collection is deleting from this store{f' ({holder})' if holder else ''}"
                f"{', but that process has ended' if holder and holder.is_gone else ''}.",
                hint="Try again when it is done. One that was killed counts for an hour, unless `erestore unlock` clears it.",
            )
        if self.kind == "collector" and others:
            raise ConflictError(
                f"{len(others)} other operations are writing to this store, so nothing was deleted.",
                hint="Run `erestore gc` again when they are done; one that was killed counts for an hour, unless "
                "`erestore unlock` clears it.",
            )

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._expires / 6):
            with suppress(ErestoreError):  # the next attempt may succeed in time; else confirm() says so
                self.renew()

    def remove(self) -> None:
        """End the lease; leaving the context does so."""
        try:
            for entry in self._storage.list(f"{PREFIX}{self.name}/"):
                self._storage.delete(entry.key)
        except AccessError:  # credentials that may only add
            self._storage.create(f"{PREFIX}{self.name}/{RELEASED}", b"")

    def _key(self, number: int) -> str:
        return f"{PREFIX}{self.name}/{number:016d}"


def storage_time(storage: Storage) -> float:
    """Return POSIX seconds by the storage's clock, which only a value that was just written shows.

    Raises
    ------
    AccessError
        If nothing can be written.
    """
    lease = Lease(storage, "writer", "")
    try:
        lease.renew()
        return read_leases(storage)[lease.name].modified
    finally:
        lease.remove()


def _lapsed() -> ConflictError:
    return ConflictError(
        "This operation was interrupted for so long that garbage collection may have run meanwhile.",
        hint="Nothing was changed; repeat the command.",
    )


def _removed() -> ConflictError:
    return ConflictError(
        "The lease of this operation was removed by somebody else (`erestore unlock`), so it was stopped.",
        hint="Repeat the command.",
    )


class _Stopwatch:
    """Time passed, including the time that a machine was suspended for."""

    def __init__(self) -> None:
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def seconds(self) -> float:
        return max(time.time() - self._wall, time.monotonic() - self._monotonic)
