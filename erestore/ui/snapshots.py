"""A store as it is at one moment: what its names stand for then is read once, and commits are kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from erestore.api import Store
from erestore.errors import KeyNotFoundError, StoreNotFoundError
from erestore.ops.log import LogEntry, log
from erestore.progress import Progress, silent
from erestore.records import Commit
from erestore.storage.abc import Storage
from erestore.storage.canonical import parse_canonical
from erestore.storage.refs import RefEntry, Refs
from erestore.store import MARKER

PATIENCE = 0.5
"""Seconds that an answer waits to hear whether names have moved: to list thousands takes long while threads compute."""
RECENT = 5.0
"""Seconds for which what was seen before stands in for that, from the end of the look at it."""


class _FixedRefs(Refs):
    """Refs as they were when this was made."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._entries = super().all()

    def all(self) -> dict[str, RefEntry]:
        return dict(self._entries)

    def read(self, name: str) -> RefEntry | None:
        return self._entries.get(name)


@dataclass
class _Unchanging:
    """What was read of commits, which is the same at every moment, by oid."""

    commits: dict[str, Commit] = field(default_factory=dict)
    entries: dict[str, LogEntry] = field(default_factory=dict)


class Snapshot(Store):
    """A store whose names do not move; safe to read from several threads.

    Attributes
    ----------
    state : str
        Differs from that of another moment if names were moved between.
    """

    def __init__(self, storage: Storage, marker: dict[str, Any], state: str, cache: _Unchanging) -> None:
        super().__init__(storage, marker)
        self.state = state
        self.refs = _FixedRefs(storage)
        self._cache = cache
        self._lock = threading.Lock()
        self._entries: tuple[LogEntry, ...] | None = None

    def commit_record(self, oid: str) -> Commit:
        """Return the commit called `oid`."""
        commits = self._cache.commits
        if oid not in commits:
            commits[oid] = super().commit_record(oid)
        return commits[oid]

    def entries(self, progress: Progress = silent) -> tuple[LogEntry, ...]:
        """Return what ``log`` says; made once."""
        with self._lock:
            if self._entries is None:
                self._entries = log(self, known=self._cache.entries, progress=progress)
            return self._entries


class Snapshots:
    """The newest snapshot of a store.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="erestore-ui")
        self._looking: Future[Snapshot] | None = None
        self._latest: tuple[Snapshot, float] | None = None
        self._cache = _Unchanging()

    def now(self) -> Snapshot:
        """Return the store as it is now; where that takes long, as it was seconds ago.

        Raises
        ------
        StoreNotFoundError
            If it is gone.
        """
        with self._lock:
            if self._looking is None or self._looking.done():
                self._looking = self._executor.submit(self._look)
            looking, latest = self._looking, self._latest
        wait([looking], PATIENCE)
        if latest is not None and not looking.done() and time.monotonic() - latest[1] < RECENT:
            return latest[0]
        return looking.result()

    def _look(self) -> Snapshot:
        with _require_store(self._store):
            marker = self._store.storage.read(MARKER)
            keys = sorted(entry.key for entry in self._store.storage.list("refs/"))
            state = blake3("\n".join((marker.decode(errors="replace"), *keys)).encode()).hexdigest()
            snapshot = self._latest[0] if self._latest else None
            if snapshot is None or snapshot.state != state:
                snapshot = Snapshot(self._store.storage, parse_canonical(marker), state, self._cache)
            self._latest = snapshot, time.monotonic()
            return snapshot


@contextmanager
def _require_store(store: Store) -> Iterator[None]:
    try:
        yield
    except KeyNotFoundError:
        raise StoreNotFoundError(
            f"The store at {store.url} is gone.", hint="Put it back and reload, or start `erestore ui` on another."
        ) from None
