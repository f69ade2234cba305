"""A storage in the memory of this process, for tests, demonstrations and scratch work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from erestore.errors import KeyNotFoundError
from erestore.storage.abc import Data, Entry, Storage
from erestore.storage.keys import check_key


class _Shelf:
    """The values that every MemoryStorage of one name shares."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, float]] = {}
        self.lock = threading.Lock()


_shelves: dict[str, _Shelf] = {}
_shelves_lock = threading.Lock()


class MemoryStorage(Storage):
    """A dictionary behind a lock.

    Parameters
    ----------
    name : str, optional
        Storages of one name share their values within this process; without a name nobody else sees them.
    clock : callable, optional
        Gives the modification times, in POSIX seconds.
    """

    def __init__(self, name: str | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.url = f"memory://{name or ''}"
        self._clock = clock
        with _shelves_lock:
            self._shelf = _Shelf() if name is None else _shelves.setdefault(name, _Shelf())

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        with self._shelf.lock:
            try:
                return self._shelf.values[check_key(key)][0]
            except KeyError:
                raise KeyNotFoundError(key) from None

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        return self.read(key)[start : max(start, stop)]

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`."""
        check_key(key)
        value = data if isinstance(data, bytes) else b"".join(data)
        with self._shelf.lock:
            existing = self._shelf.values.get(key)
            self._shelf.values[key] = (value if existing is None else existing[0], self._clock())
            return existing is None

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        with self._shelf.lock:
            return check_key(key) in self._shelf.values

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        with self._shelf.lock:
            entries = [
                Entry(key, len(value), modified)
                for key, (value, modified) in self._shelf.values.items()
                if key.startswith(prefix)
            ]
        return iter(entries)

    def delete(self, key: str) -> None:
        """See :meth:`Storage.delete`."""
        with self._shelf.lock:
            self._shelf.values.pop(check_key(key), None)
