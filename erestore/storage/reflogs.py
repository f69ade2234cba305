"""Every entry of every ref, with when it was written, and their order: what garbage collection, undo and fsck start from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from urllib.parse import unquote

from erestore.errors import CorruptionError, ErestoreError, KeyNotFoundError, UnsupportedFormatError
from erestore.storage.abc import Storage
from erestore.storage.log import entry_number
from erestore.storage.refs import RefEntry
from erestore.storage.sequence import count_of


@dataclass(frozen=True)
class LoggedEntry:
    """One entry of a reflog.

    Attributes
    ----------
    key, name : str
    number : int
    modified : float
        POSIX seconds by the storage's clock.
    entry : RefEntry or None
        None if it cannot be read.
    error : ErestoreError or None
        Why not.
    """

    key: str
    name: str
    number: int
    modified: float
    entry: RefEntry | None
    error: ErestoreError | None = None

    @property
    def count(self) -> int | None:
        """How many entries its writer saw; None where that is not known."""
        return None if self.entry is None else count_of(self.entry.writer)


def read_reflogs(storage: Storage, entries: Iterable[LoggedEntry] = ()) -> dict[str, list[LoggedEntry]]:
    """Return the entries of every name, oldest first.

    Parameters
    ----------
    storage : Storage
    entries : iterable of LoggedEntry
        What was read before; entries never change, so these are not read again.
    """
    loaded = {logged.key: logged for logged in entries}
    logs: dict[str, list[LoggedEntry]] = {}
    for listed in sorted(storage.list("refs/")):
        parts = listed.key.split("/")
        if len(parts) != 3 or len(parts[2]) != 16 or not parts[2].isdigit():
            continue
        logged = loaded.get(listed.key) or _read(storage, listed.key, unquote(parts[1]), listed.modified)
        if logged is not None:
            logs.setdefault(logged.name, []).append(logged)
    return logs


def _read(storage: Storage, key: str, name: str, modified: float) -> LoggedEntry | None:
    number = entry_number(key)
    try:
        return LoggedEntry(key, name, number, modified, RefEntry.from_bytes(name, number, storage.read(key)))
    except KeyNotFoundError:  # pruned since it was listed
        return None
    except (CorruptionError, UnsupportedFormatError) as error:
        return LoggedEntry(key, name, number, modified, None, error)


def in_order(logs: Mapping[str, list[LoggedEntry]]) -> list[LoggedEntry]:
    """Return the readable entries of all logs, oldest first, in the order in which they were written.

    That is by how many entries their writers saw. Entries of versions that did not count stand among the others by time, and
    among themselves: a clock that was ahead shows in the storage's earlier time, a copied file in the writer's.
    """
    readable = {name: [logged for logged in log if logged.entry is not None] for name, log in logs.items()}
    counted = sorted((e.modified, e.count) for log in readable.values() for e in log if e.count is not None)
    highest = list(accumulate((count for _, count in counted), max))

    def position(logged: LoggedEntry) -> tuple[int, float]:
        assert logged.entry is not None
        count = logged.count
        if count is None:
            before = bisect_right(counted, logged.modified, key=itemgetter(0))
            count = highest[before - 1] if before else 0
        return count, min(logged.modified, logged.entry.time / 1e6)

    # Within a log its order holds, whatever any time says.
    positions = (
        (*latest, logged.number, name, logged)
        for name, log in readable.items()
        for latest, logged in zip(accumulate(map(position, log), max), log, strict=True)
    )
    return [logged for *_, logged in sorted(positions, key=itemgetter(0, 1, 2, 3))]


def is_deleted(log: Sequence[LoggedEntry]) -> bool:
    """Return whether the name of a log was deleted."""
    return log[-1].entry is not None and log[-1].entry.oid is None
