"""The contract of a storage: bytes under keys, with create-if-absent as the one atomic primitive.

A *key* is a relative POSIX path of ASCII characters without ``.``/``..`` components. A storage

* never shows a reader a half-written value: a key either does not exist or holds everything that was written;
* lets exactly one of any number of concurrent :meth:`Storage.create` calls for one key win;
* returns from :meth:`Storage.create` only when the value is durable;
* shows a created key to every later read and list, from any process.

Nothing is ever overwritten. Whatever is built on top needs no lock and no rename. ``erestore.testing.storage`` holds
the suite that any implementation must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

Data = bytes | Iterable[bytes]
"""A value to be written: whole, or as chunks in order (for values that should not be held in memory)."""


class Entry(NamedTuple):
    """One stored value.

    Attributes
    ----------
    key : str
    size : int
        In bytes, as stored.
    modified : float
        POSIX seconds by the *storage's* clock: when it was created or, where the storage can, last created again.
    """

    key: str
    size: int
    modified: float


class Storage(ABC):
    """Bytes under keys. See the module's docstring for what every implementation promises."""

    url: str
    """Where it is, as the user would write it."""

    @property
    def ignores_case(self) -> bool:
        """Whether keys that differ in the case of letters only are one, as on some file systems."""
        return False

    @property
    def place(self) -> str:
        """Where it is, with whatever else tells it from other storages of that URL, such as an endpoint."""
        return self.url

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return the whole value.

        Raises
        ------
        KeyNotFoundError
            If there is no such key.
        """

    @abstractmethod
    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return bytes ``start:stop`` of the value; fewer where the value ends before `stop`.

        Raises
        ------
        KeyNotFoundError
            If there is no such key.
        """

    @abstractmethod
    def create(self, key: str, data: Data) -> bool:
        """Write `data` under `key` if nothing is there.

        Returns
        -------
        bool
            True if this call wrote it, False if the key existed (then its value is untouched; its modification time is
            refreshed where the storage can, so that a concurrent garbage collection sees it as young).

        Raises
        ------
        AccessError
            No space or no permission; nothing is left behind.
        RemoteError
            The remote failed and it is not known that the value was written.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether `key` holds a value."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every entry whose key starts with `prefix` (any prefix, not only folders), in no fixed order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`; no error if it is not there. Only garbage collection and a lease's own writer call this."""

    def evict(self, key: str) -> bool:  # noqa: ARG002 - for storages that hold copies
        """Drop local copies of `key`, so that the next read asks the origin.

        Returns
        -------
        bool
            Whether there was a copy; False means that reading again would give the same bytes.
        """
        return False

    def reserve(self) -> None:  # noqa: B027 - for storages that can run out of space
        """See to it that some space is kept for operations that free more."""

    def spending_reserve(self) -> AbstractContextManager[None]:
        """Let values that are created in the body of this context use the space that is kept; refill it afterwards."""
        return nullcontext()

    def remove_unfinished(self, before: float) -> int:  # noqa: ARG002 - for storages that can leave some
        """Remove what writers that died before `before` (POSIX seconds) left half-written; no key shows it.

        Returns
        -------
        int
            How many such remains were removed.
        """
        return 0
