"""Every entry of every ref, with when it was written: what garbage collection and fsck start from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from urllib.parse import unquote

from erestore.errors import CorruptionError, ErestoreError, KeyNotFoundError, UnsupportedFormatError
from erestore.storage.abc import Storage
from erestore.storage.log import entry_number
from erestore.storage.refs import RefEntry
from erestore.storage.sequence import count_of

NO_STORE_YET = 946_684_800
"""The year 2000, in POSIX seconds: some archives and file systems set all times to 1970 or 1980."""


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
    def written(self) -> float:
        """POSIX seconds: by the storage's clock, unless a copy has set the file's time to long before any store."""
        return self.entry.time / 1e6 if self.modified < NO_STORE_YET and self.entry is not None else self.modified

    @property
    def count(self) -> int | None:
        """How many entries its writer saw; None where that is not known."""
        return None if self.entry is None else count_of(self.entry.writer)


def read_reflogs(storage: Storage, known: Iterable[LoggedEntry] = ()) -> dict[str, list[LoggedEntry]]:
    """Return the entries of every name, oldest first.

    Parameters
    ----------
    storage : Storage
    known : iterable of LoggedEntry
        What was read before; entries never change, so these are not read again.
    """
    held = {logged.key: logged for logged in known}
    logs: dict[str, list[LoggedEntry]] = {}
    for listed in sorted(storage.list("refs/")):
        parts = listed.key.split("/")
        if len(parts) != 3 or len(parts[2]) != 16 or not parts[2].isdigit():
            continue
        logged = held.get(listed.key) or _read(storage, listed.key, unquote(parts[1]), listed.modified)
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


def expired(logs: Mapping[str, list[LoggedEntry]], *, before: float, deleted_before: float) -> list[LoggedEntry]:
    """Return entries written before a time, of names that exist or of deleted ones, oldest first; never the newest.

    Parameters
    ----------
    logs : Mapping[str, list of LoggedEntry]
    before, deleted_before : float
        POSIX seconds by the storage's clock.
    """
    found: list[LoggedEntry] = []
    for log in logs.values():
        limit = deleted_before if is_deleted(log) else before
        for logged in log[:-1]:
            if logged.written >= limit:
                break  # younger ones may look older, where a loser's attempt refreshed this one: no log gets a hole
            found.append(logged)
    return found


def is_deleted(log: list[LoggedEntry]) -> bool:
    """Tell whether the name of a log was deleted."""
    return log[-1].entry is not None and log[-1].entry.oid is None


def former_commits(logs: Mapping[str, list[LoggedEntry]], *, before: float, deleted_before: float) -> dict[str, float]:
    """Return the names whose logs hold commits that no name points to now, and when each was last pointed elsewhere.

    Parameters
    ----------
    logs, before, deleted_before
        See :func:`held_commits`.

    Returns
    -------
    dict of str to float
        POSIX seconds by the storage's clock.
    """
    tips = {log[-1].entry.oid for log in logs.values() if log[-1].entry is not None}
    names: dict[str, float] = {}
    for name, log in logs.items():
        limit = deleted_before if is_deleted(log) else before
        for logged in log:
            if logged.entry is None or logged.modified < limit:
                continue
            if {logged.entry.oid, logged.entry.previous} - tips - {None}:
                names[name] = max(names.get(name, 0.0), logged.modified)
    return names


def held_commits(
    logs: Mapping[str, list[LoggedEntry]], *, before: float, deleted_before: float
) -> tuple[set[str], set[str]]:
    """Return the commits that refs and their logs hold on to, and those that they hold on to if they are still there.

    Every entry that has not expired holds what it points to and what it replaced. The newest entry of a name stays for
    ever, so once it has expired only what it points to counts: else what a deletion replaced would stay for ever too.
    Where an earlier collection has removed entries, what the oldest one left replaced may have gone with them.

    Raises
    ------
    ErestoreError
        If an entry cannot be read: what it holds is unknown.
    """
    held: set[str] = set()
    replaced: set[str] = set()
    for log in logs.values():
        limit = deleted_before if is_deleted(log) else before
        for number, logged in enumerate(log, 1):
            if logged.error is not None:
                raise logged.error
            assert logged.entry is not None
            is_young = logged.written >= limit
            if logged.entry.oid and (is_young or number == len(log)):
                held.add(logged.entry.oid)
            if logged.entry.previous and is_young:
                (held if number > 1 else replaced).add(logged.entry.previous)
    return held, replaced - held
