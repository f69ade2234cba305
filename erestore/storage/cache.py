"""Local copies of what was read from a remote.

Only what never changes is kept: objects, and entries of numbered logs as they were last listed. Whether something
exists is always asked of the remote. Every copy carries a digest, and any trouble with the cache's directory (full,
unwritable, damaged) is the same as not having a copy.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from erestore.storage.abc import Data, Entry, Storage
from erestore.storage.frames import digest

_DIGEST_BYTES = 32
_KEPT_AFTER_EVICTION = 0.8  # of the limit, so that not every write evicts
_TEMPORARY = "new-"
_END = 1 << 62  # as `stop`: to the end of the value, wherever that is


class _Copy(NamedTuple):
    """One file of the cache; sorts by last use."""

    used: float
    size: int
    path: Path


class CachedStorage(Storage):
    """A storage whose immutable values are kept on the local disk once read.

    Parameters
    ----------
    inner : Storage
    directory : Path
        May be shared by any number of processes and remotes.
    limit_bytes : int
        What the copies may take; the least recently used ones go first.
    """

    def __init__(self, inner: Storage, directory: Path, limit_bytes: int = 20 << 30) -> None:
        self.url = inner.url
        self._inner = inner
        self._directory = directory
        self._limit = limit_bytes
        self._listed: dict[str, Entry] = {}
        self._total: int | None = None
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """See :attr:`Storage.place`."""
        return self._inner.place

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        return self._read(key, 0, _END, lambda: self._inner.read(key))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        return self._read(key, start, stop, lambda: self._inner.read_range(key, start, stop))

    def _read(self, key: str, start: int, stop: int, fetch: Callable[[], bytes]) -> bytes:
        folder = self._folder(key)
        if folder is None or stop <= start:
            return fetch()
        copy = _find_copy(folder, start, stop)
        if copy is None:
            copy = fetch()
            with suppress(OSError):
                self._keep(folder / f"{start}-{stop}", copy)
        return copy

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`."""
        return self._inner.create(key, data)

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        return self._inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        for entry in self._inner.list(prefix):
            if not entry.key.startswith("objects/"):
                self._listed[entry.key] = entry
            yield entry

    def delete(self, key: str) -> None:
        """See :meth:`Storage.delete`."""
        self.evict(key)
        self._inner.delete(key)

    def evict(self, key: str) -> bool:
        """See :meth:`Storage.evict`."""
        folder = self._folder(key)
        if folder is None or not folder.is_dir():
            return False
        shutil.rmtree(folder, ignore_errors=True)
        # What cannot be removed would be read again: then it is as if nothing had been evicted.
        return not folder.is_dir()

    def remove_unfinished(self, before: float) -> int:
        """See :meth:`Storage.remove_unfinished`."""
        return self._inner.remove_unfinished(before)

    def _folder(self, key: str) -> Path | None:
        """Return where copies of `key` are kept, None if it is not one to keep."""
        if key.startswith("objects/"):
            version = ""
        elif key.startswith(("refs/", "config/", "calibrations/")) and key in self._listed:
            # A store that was removed and made anew has other entries under the same numbers.
            entry = self._listed[key]
            version = f" {entry.size} {entry.modified}"
        else:
            return None
        name = digest(f"{self.place} {key}{version}".encode())
        return self._directory / name[:2] / name[2:]

    def _keep(self, path: Path, content: bytes) -> None:
        size = len(content) + _DIGEST_BYTES
        if size > self._limit // 2:
            return
        self._make_room(size)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_TEMPORARY + secrets.token_hex(8))
        try:
            with temporary.open("xb") as file:
                file.write(blake3(content).digest())
                file.write(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        with self._lock:
            # Other processes write too; their part is seen whenever this one counts again.
            self._total = size + (sum(c.size for c in self._copies()) if self._total is None else self._total)
            if self._total > self._limit:
                self._total = size + self._evict_oldest(int(self._limit * _KEPT_AFTER_EVICTION) - size)

    def _evict_oldest(self, target: int) -> int:
        copies = sorted(self._copies())
        total = sum(copy.size for copy in copies)
        for copy in copies:
            if total <= target:
                break
            with suppress(OSError):
                copy.path.unlink()
                total -= copy.size
                copy.path.parent.rmdir()  # if it was the last of its key
        return total

    def _copies(self) -> Iterator[_Copy]:
        for folder, _, names in os.walk(self._directory):
            for name in names:
                with suppress(OSError):
                    path = Path(folder, name)
                    status = path.stat()
                    yield _Copy(status.st_mtime, status.st_size, path)


def _find_copy(folder: Path, start: int, stop: int) -> bytes | None:
    """Return the bytes ``start:stop`` if a copy in `folder` holds them all, and mark that copy as used."""
    with suppress(OSError, ValueError):
        for path in folder.iterdir():
            if path.name.startswith(_TEMPORARY):
                continue
            first, last = map(int, path.name.split("-"))
            if first <= start and stop <= last:
                with path.open("rb") as file:
                    expected, content = file.read(_DIGEST_BYTES), file.read()
                if blake3(content).digest() == expected:
                    os.utime(path)
                    return content[start - first : stop - first]
    return None
