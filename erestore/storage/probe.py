"""Check that a remote has atomic create-if-absent, before anything depends on it.

Some servers ignore the condition and answer that all is well. A remote is probed once, before its first write, and the
result is remembered in it; one that fails is refused, since degrading to "last writer wins" loses data silently.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from erestore.errors import AccessError, UnsafeRemoteError
from erestore.storage.abc import Data, Entry, Storage
from erestore.storage.frames import digest
from erestore.storage.remote import SMALLEST_PART, FsspecStorage

RACERS = 4

KEPT = "probe/kept"
"""Where who may not delete leaves what probing takes, the same values every time."""


def probe(storage: FsspecStorage) -> None:
    """Check that `storage` creates exclusively, unless it is remembered that it does.

    Raises
    ------
    UnsafeRemoteError
        If it does not.
    """
    # Where the store is belongs to the marker's key: a copy of a store on another server is not thereby safe.
    marker = f"probe/passed-{digest(storage.place.encode())[:16]}"
    if storage.exists(marker):
        return
    if not storage.is_exclusive:
        raise _unsafe(storage, f"the fsspec file system for {storage.protocol}:// looks and then writes")
    may_delete = _may_delete(storage)
    folder = f"probe/{secrets.token_hex(8)}" if may_delete else KEPT
    try:
        _check_twice(storage, f"{folder}/small", b"first", b"second")
        _check_twice(storage, f"{folder}/empty", b"first", b"")
        _check_twice(storage, f"{folder}/empty-first", b"", b"second")
        _check_parts(storage, f"{folder}/parts")
        _check_race(storage, f"{folder}/race")
    finally:
        for entry in storage.list(f"{folder}/") if may_delete else ():
            storage.delete(entry.key)
    storage.create(marker, b"{}")


def _may_delete(storage: FsspecStorage) -> bool:
    """Find out by a key that is never there."""
    try:
        storage.delete("probe/none")
    except AccessError:
        return False
    return True


def _check_twice(storage: FsspecStorage, key: str, first: bytes, second: bytes) -> None:
    # The first is there already where it could not be deleted after an earlier probe.
    storage.put_if_absent(key, first)
    if storage.put_if_absent(key, second) or storage.read(key) != first:
        raise _unsafe(storage, "a second writer overwrote the first")


def _check_parts(storage: FsspecStorage, key: str) -> None:
    body = bytes(SMALLEST_PART + 1)
    storage.put_if_absent(key, b"first")
    if storage.put_if_absent(key, body, in_parts=True) or storage.read(key) != b"first":
        raise _unsafe(storage, "an upload in parts overwrote an existing value")


def _check_race(storage: FsspecStorage, key: str) -> None:
    start = threading.Barrier(RACERS)
    bodies = [secrets.token_bytes(32) for _ in range(RACERS)]

    def write(body: bytes) -> bool:
        start.wait()
        return storage.put_if_absent(key, body)

    earlier = storage.read(key) if storage.exists(key) else None  # of a probe that could not delete
    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(write, bodies))
    content = storage.read(key)
    winners = [body for body, is_winner in zip(bodies, won, strict=True) if is_winner]
    if winners != [body for body in bodies if body == content] or earlier not in (None, content):
        raise _unsafe(storage, f"{sum(won)} of {RACERS} concurrent writers were told that they had won")


def _unsafe(storage: FsspecStorage, reason: str) -> UnsafeRemoteError:
    return UnsafeRemoteError(
        f"'{storage.url}' does not create exclusively: {reason}, so concurrent writers would lose data.",
        hint="Use another remote, or pass --single-writer if nobody else will ever write to it at the same time.",
    )


class ProbedStorage(Storage):
    """A remote that is probed before the first write through this object; reading needs no probe.

    Parameters
    ----------
    inner : FsspecStorage
    """

    def __init__(self, inner: FsspecStorage) -> None:
        self.url = inner.url
        self._inner = inner
        self._passed = False
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """See :attr:`Storage.place`."""
        return self._inner.place

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`.

        Raises
        ------
        UnsafeRemoteError
            If the remote fails the probe; nothing is written.
        """
        with self._lock:
            if not self._passed:
                probe(self._inner)
                self._passed = True
        return self._inner.create(key, data)

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        return self._inner.read(key)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        return self._inner.read_range(key, start, stop)

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        return self._inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        return self._inner.list(prefix)

    def delete(self, key: str) -> None:
        """See :meth:`Storage.delete`."""
        self._inner.delete(key)

    def remove_unfinished(self, before: float) -> int:
        """See :meth:`Storage.remove_unfinished`."""
        return self._inner.remove_unfinished(before)
