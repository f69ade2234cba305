"""A storage whose writes wait beside it until they are published, in the order in which they came."""

from __future__ import annotations

from collections.abc import Iterator

from erestore.storage.abc import Data, Entry, Storage

_CHUNK = 1 << 20


class Overlay(Storage):
    """Shows a storage with what was created on top of it, which goes elsewhere until :meth:`publish`.

    Parameters
    ----------
    inner : Storage
        Read through to; nothing is written or deleted there before :meth:`publish`.
    upper : Storage
        An empty one, for what is created.
    refresh : bool
        Let what is below already and is created again look newly written there; without, nothing below is touched.
    """

    def __init__(self, inner: Storage, upper: Storage, *, refresh: bool = True) -> None:
        self.url = inner.url
        self._inner = inner
        self._upper = upper
        self._refresh = refresh
        self._created: dict[str, None] = {}  # in this order they are published

    @property
    def ignores_case(self) -> bool:
        """See :attr:`Storage.ignores_case`."""
        return self._inner.ignores_case

    def publish(self) -> None:
        """Create everything in the storage below, in the order in which it was created here."""
        for key in list(self._created):
            self._inner.create(key, self._chunks(key))
            self.delete(key)

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        return self._holder(key).read(key)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        return self._holder(key).read_range(key, start, stop)

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`; what is below already is created there, which refreshes it, or not at all."""
        if self._inner.exists(key):
            return self._inner.create(key, data) if self._refresh else False
        created = self._upper.create(key, data)
        self._created[key] = None
        return created

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        return self._upper.exists(key) or self._inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        yield from self._upper.list(prefix)
        yield from (entry for entry in self._inner.list(prefix) if not self._upper.exists(entry.key))

    def delete(self, key: str) -> None:
        """Take back what was created here; what is below stays."""
        self._created.pop(key, None)
        self._upper.delete(key)

    def evict(self, key: str) -> bool:
        """See :meth:`Storage.evict`."""
        return self._holder(key).evict(key)

    def _holder(self, key: str) -> Storage:
        return self._upper if self._upper.exists(key) else self._inner

    def _chunks(self, key: str) -> Iterator[bytes]:
        start = 0
        while chunk := self._upper.read_range(key, start, start + _CHUNK):
            yield chunk
            start += len(chunk)
