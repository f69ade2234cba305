"""Every entry of every ref, with when it was written: what garbage collection and fsck start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from erestore.errors import CorruptionError, ErestoreError, KeyNotFoundError, UnsupportedFormatError
from erestore.storage.abc import Storage
from erestore.storage.log import entry_number
from erestore.storage.refs import RefEntry


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
            if logged.modified >= limit:
                break  # younger ones may look older, where a loser's attempt refreshed this one: no log gets a hole
            found.append(logged)
    return found


def is_deleted(log: list[LoggedEntry]) -> bool:
    """Tell whether the name of a log was deleted."""
    return log[-1].entry is not None and log[-1].entry.oid is None


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
            is_young = logged.modified >= limit
            if logged.entry.oid and (is_young or number == len(log)):
                held.add(logged.entry.oid)
            if logged.entry.previous and is_young:
                (held if number > 1 else replaced).add(logged.entry.previous)
    return held, replaced - held
