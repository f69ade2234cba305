"""A storage that counts what is read from it."""

from __future__ import annotations

from collections.abc import Iterator

from erestore.storage.abc import Data, Entry, Storage


class CountingStorage(Storage):
    """Any storage; `reads` holds ``(key, bytes)`` of everything that was read."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.url = inner.url
        self.reads: list[tuple[str, int]] = []

    def read(self, key: str) -> bytes:
        content = self.inner.read(key)
        self.reads.append((key, len(content)))
        return content

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        content = self.inner.read_range(key, start, stop)
        self.reads.append((key, len(content)))
        return content

    def create(self, key: str, data: Data) -> bool:
        return self.inner.create(key, data)

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def bytes_of(self, oid: str) -> int:
        """Bytes that were read of one object."""
        return sum(size for key, size in self.reads if key == f"objects/{oid[:2]}/{oid[2:]}")
