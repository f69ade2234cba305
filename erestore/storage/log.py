"""Numbered logs of create-only entries: the one thing in a store that changes, and it only grows.

Entry ``<name>/<%016d>`` is written once. Whoever creates the number after the highest has moved the log; everybody else
who tries sees that the number is taken. No lock, no overwriting, and the history is the log itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from erestore.errors import KeyNotFoundError
from erestore.storage.abc import Entry, Storage

_DIGITS = 16


class NumberedLog:
    """The entries of one log.

    Parameters
    ----------
    storage : Storage
    name : str
        Key below which the entries are, without a final slash.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self.name = name

    def entries(self) -> list[Entry]:
        """List the entries, oldest first."""
        entries = [entry for entry in self._storage.list(f"{self.name}/") if self._is_entry(entry.key)]
        return sorted(entries)

    def numbers(self) -> list[int]:
        """List the numbers in use, in ascending order."""
        return [entry_number(entry.key) for entry in self.entries()]

    def highest(self) -> int:
        """Return the number of the newest entry, 0 if there is none."""
        return max(self.numbers(), default=0)

    def read(self, number: int) -> bytes:
        """Return one entry.

        Raises
        ------
        KeyNotFoundError
            If it is not there.
        """
        return self._storage.read(self._key(number))

    def latest(self) -> tuple[int, bytes] | None:
        """Return number and content of the newest entry, None if there is none."""
        return next(self.newest_first(), None)

    def newest_first(self) -> Iterator[tuple[int, bytes]]:
        """Yield numbers and contents, newest first; entries pruned in the meantime are left out."""
        for number in reversed(self.numbers()):
            try:
                yield number, self.read(number)
            except KeyNotFoundError:
                continue

    def append(self, expected: int, content: bytes, precedes: Callable[[bytes], bool]) -> int | None:
        """Add an entry after number `expected`, if that is still the newest.

        Parameters
        ----------
        expected : int
            Number of the newest entry that the caller has seen, 0 for none.
        content : bytes
            Must differ from what any other writer could write.
        precedes : callable
            Given the content of the entry after the new one: was it written on top of the new one?

        Returns
        -------
        int or None
            The new entry's number; None if another writer was first.
        """
        number = expected + 1
        if self.highest() != expected or not self._storage.create(self._key(number), content):
            return None
        if self.highest() == number:
            return number
        # Either somebody already built on our entry, or the log had moved on and been pruned below us in between.
        try:
            return number if precedes(self.read(number + 1)) else None
        except KeyNotFoundError:
            return None

    def prune(self, before: float) -> int:
        """Delete entries older than `before` (POSIX seconds, by the storage's clock), but never the newest.

        Returns
        -------
        int
            How many were deleted.
        """
        # Up to the first young one: a hole would make a writer that was overtaken look like one that was built upon.
        old = list(itertools.takewhile(lambda entry: entry.modified < before, self.entries()[:-1]))
        for entry in old:
            self._storage.delete(entry.key)
        return len(old)

    def _key(self, number: int) -> str:
        return f"{self.name}/{number:0{_DIGITS}d}"

    def _is_entry(self, key: str) -> bool:
        digits = key.removeprefix(f"{self.name}/")
        return len(digits) == _DIGITS and digits.isdigit()


def entry_number(key: str) -> int:
    """Return the number in an entry's key."""
    return int(key.rpartition("/")[2])
