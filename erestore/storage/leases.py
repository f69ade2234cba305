"""Leases: how writers and garbage collection keep out of each other's way without locks.

Each announces itself first and looks for the other afterwards, so of two that start together at least one sees the
other. A lease lasts until it is removed or has not been renewed for :data:`EXPIRES_SECONDS` by the storage's own clock,
which shows in the modification times of its listing; clocks of machines are never compared.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from typing import Literal, Self

from erestore.errors import ConflictError, ErestoreError
from erestore.storage.abc import Entry, Storage
from erestore.storage.canonical import dump_canonical

EXPIRES_SECONDS = 3600
"""A lease that was not renewed for so long is dead."""

PREFIX = "gc/leases/"

Kind = Literal["writer", "collector"]


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
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._keep_renewing, name=self.name, daemon=True)

    def __enter__(self) -> Self:
        try:
            self.renew()
            self._refuse_conflicts()
        except BaseException:
            self._remove()
            raise
        self._renewal.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewal.join()
        with suppress(ErestoreError):  # what was done stands; the lease expires by itself
            self._remove()

    def renew(self) -> None:
        """Make the lease last for another full term."""
        with self._lock:
            renewed = _Stopwatch()  # started before the write: the term counts from the earlier moment
            body = {
                "kind": self.kind,
                "writer": self._writer,
                "time": time.time_ns() // 1000,
                "expires_seconds": self._expires,
            }
            self._storage.create(self._key(self._number + 1), dump_canonical(body))
            self._number += 1
            self._renewed = renewed
            if self._number > 1:
                self._storage.delete(self._key(self._number - 1))

    def confirm(self) -> None:
        """Make sure that the lease has held without a gap; to be called before what was written is made reachable.

        Raises
        ------
        ConflictError
            If it has lapsed (this machine slept, or renewing failed): what was written may have been collected.
        """
        if self._renewed.seconds() > self._expires / 2:
            raise ConflictError(
                "This operation was interrupted for so long that garbage collection may have run meanwhile.",
                hint="Nothing was changed; repeat the command.",
            )

    def others(self) -> list[str]:
        """Return the names of all other live leases, by the storage's clock at this lease's last renewal."""
        newest = self._newest()
        if self.name not in newest:
            raise ConflictError("The lease of this operation was removed by somebody else.", hint="Repeat the command.")
        now = newest.pop(self.name).modified
        return sorted(name for name, entry in newest.items() if now - entry.modified < self._expires)

    def _newest(self) -> dict[str, Entry]:
        newest: dict[str, Entry] = {}
        for entry in sorted(self._storage.list(PREFIX), key=lambda entry: entry.modified):
            newest[entry.key.removeprefix(PREFIX).partition("/")[0]] = entry
        return newest

    def _refuse_conflicts(self) -> None:
        others = self.others()
        if any(name.startswith("collector-") for name in others):
            raise ConflictError("Garbage collection is deleting from this store.", hint="Try again in a moment.")
        if self.kind == "collector" and others:
            raise ConflictError(
                f"{len(others)} other operations are writing to this store, so nothing was deleted.",
                hint="Run `erestore gc` again when they are done; one that was killed counts for an hour.",
            )

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._expires / 6):
            with suppress(ErestoreError):  # the next attempt may succeed; confirm() tells whether one did in time
                self.renew()

    def _remove(self) -> None:
        for entry in self._storage.list(f"{PREFIX}{self.name}/"):
            self._storage.delete(entry.key)

    def _key(self, number: int) -> str:
        return f"{PREFIX}{self.name}/{number:016d}"


class _Stopwatch:
    """Time passed, including the time that a machine was suspended for."""

    def __init__(self) -> None:
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def seconds(self) -> float:
        return max(time.time() - self._wall, time.monotonic() - self._monotonic)
