"""Let a program die at its n-th storage call, to find out what it leaves behind."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from erestore.storage.abc import Data, Entry, Storage
from erestore.storage.local import TEMPORARY, LocalStorage

Mode = Literal["before", "after", "truncate"]

_T = TypeVar("_T")


class FaultInjected(Exception):  # noqa: N818 - it stands for a death, not for an error that anybody handles
    """The program dies here. No ErestoreError: nothing may catch it and go on."""


class FaultyStorage(Storage):
    """Passes calls on until the program dies; from then on every call raises, as nothing runs after a death.

    Parameters
    ----------
    inner : Storage
    die_at : int, optional
        Number of the call that dies, from 1; None counts only.
    mode : {"before", "after", "truncate"}
        Die before the call has any effect, after all of it, or in the middle: a storage never shows half a value, so
        the half of a torn write is a stray temporary file on a local disk, and nothing anywhere else.

    Attributes
    ----------
    calls : int
        Calls so far.

    Examples
    --------
    >>> for n in itertools.count(1):
    ...     faulty = FaultyStorage(inner, n, "after")
    ...     try:
    ...         operation(faulty)
    ...         break
    ...     except FaultInjected:
    ...         check_that_it_shows_old_or_new(inner)
    """

    def __init__(self, inner: Storage, die_at: int | None = None, mode: Mode = "before") -> None:
        self.url = inner.url
        self.calls = 0
        self.dead = False
        self._inner = inner
        self._die_at = die_at
        self._mode = mode
        self._lock = threading.Lock()

    def _call(self, run: Callable[[], _T], tear: Callable[[], None] | None = None) -> _T:
        with self._lock:  # operations call from several threads
            if self.dead:
                raise FaultInjected
            self.calls += 1
            dies = self.dead = self.calls == self._die_at
        if dies and self._mode != "after":
            if self._mode == "truncate" and tear:
                tear()
            raise FaultInjected
        result = run()
        if self.dead:
            raise FaultInjected
        return result

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        return self._call(lambda: self._inner.read(key))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        return self._call(lambda: self._inner.read_range(key, start, stop))

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`."""
        return self._call(lambda: self._inner.create(key, data), lambda: self._tear(key, data))

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        return self._call(lambda: self._inner.exists(key))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        return iter(self._call(lambda: [*self._inner.list(prefix)]))

    def delete(self, key: str) -> None:
        """See :meth:`Storage.delete`."""
        self._call(lambda: self._inner.delete(key))

    def remove_unfinished(self, before: float) -> int:
        """See :meth:`Storage.remove_unfinished`."""
        return self._call(lambda: self._inner.remove_unfinished(before))

    def _tear(self, key: str, data: Data) -> None:
        if isinstance(self._inner, LocalStorage):
            start = data if isinstance(data, bytes) else b"".join(itertools.islice(data, 1))
            target = self._inner.directory / key
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(TEMPORARY + secrets.token_hex(8)).write_bytes(start[: len(start) // 2])
