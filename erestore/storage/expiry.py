"""When entries of reflogs expire, though clocks and copies may have given them any time.

Two times are known of an entry: that of its file, by the storage's clock, and that of its writer. A copy may have set the one,
and the other's clock may have been wrong, or both where they are one machine's that lost its time. The later one counts,
since what is kept for too long does less harm than what goes too early. Neither counts where it is of before there were
stores, or of the future; and no entry is older than those that its writer saw (:mod:`erestore.storage.sequence`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from erestore.storage.lease_records import SKEW_SECONDS
from erestore.storage.reflogs import LoggedEntry, in_order, is_deleted

NO_STORE_YET = 946_684_800
"""The year 2000, in POSIX seconds: clocks without a battery, some archives and file systems begin in 1970 or 1980."""


@dataclass(frozen=True)
class Expiry:
    """Which entries have expired at a time.

    Attributes
    ----------
    now : float
        POSIX seconds by the storage's clock.
    period, deleted_period : float
        Seconds for which entries of names that exist, and of deleted ones, count; with 0 all have expired.
    written : Mapping[str, float]
        See :func:`writing_times`.
    """

    now: float
    period: float
    deleted_period: float
    written: Mapping[str, float]

    @classmethod
    def at(cls, now: float, logs: Mapping[str, list[LoggedEntry]], *, period: float, deleted_period: float) -> Self:
        """Look at all logs at a time."""
        return cls(now, period, deleted_period, writing_times(logs, now))

    def has_expired(self, logged: LoggedEntry, log: Sequence[LoggedEntry]) -> bool:
        """Return whether an entry of a log has."""
        period = self.deleted_period if is_deleted(log) else self.period
        return not period or self.written[logged.key] < self.now - period


def expired(logs: Mapping[str, list[LoggedEntry]], expiry: Expiry) -> list[LoggedEntry]:
    """Return the entries that have expired, oldest first; never the newest of a name."""
    entries: list[LoggedEntry] = []
    for log in logs.values():
        for logged in log[:-1]:
            if not expiry.has_expired(logged, log):
                break  # no log gets a hole
            entries.append(logged)
    return entries


def former_commits(logs: Mapping[str, list[LoggedEntry]], expiry: Expiry) -> dict[str, float]:
    """Return the names whose logs hold commits that no name points to now, and when each was last pointed elsewhere.

    Returns
    -------
    dict of str to float
        POSIX seconds.
    """
    tips = {log[-1].entry.oid for log in logs.values() if log[-1].entry is not None}
    names: dict[str, float] = {}
    for name, log in logs.items():
        for logged in log:
            if logged.entry is None or expiry.has_expired(logged, log):
                continue
            if {logged.entry.oid, logged.entry.previous} - tips - {None}:
                names[name] = max(names.get(name, 0.0), expiry.written[logged.key])
    return names


def held_commits(logs: Mapping[str, list[LoggedEntry]], expiry: Expiry | None = None) -> tuple[set[str], set[str]]:
    """Return the commits that refs and their logs hold on to, and those that they hold on to if they are still there.

    Every entry that has not expired (where nothing is said, none has) holds what it points to and what it replaced. The
    newest entry of a name stays for ever, so once it has expired only what it points to counts: else what a deletion replaced
    would stay for ever too. Where an earlier collection has removed entries, what the oldest one left replaced may have
    gone with them.

    Raises
    ------
    ErestoreError
        If an entry cannot be read: what it holds is unknown.
    """
    commits: set[str] = set()
    replaced: set[str] = set()
    for log in logs.values():
        for number, logged in enumerate(log, 1):
            if logged.error is not None:
                raise logged.error
            assert logged.entry is not None
            is_young = expiry is None or not expiry.has_expired(logged, log)
            if logged.entry.oid and (is_young or number == len(log)):
                commits.add(logged.entry.oid)
            if logged.entry.previous and is_young:
                (commits if number > 1 else replaced).add(logged.entry.previous)
    return commits, replaced - commits


def writing_times(logs: Mapping[str, list[LoggedEntry]], now: float) -> dict[str, float]:
    """Return when each entry was written at the latest, in POSIX seconds by its key."""
    ordered = in_order(logs)
    readable = {logged.key for logged in ordered}
    times: dict[str, float | None] = {}
    latest = 0.0
    for logged in ordered:
        if (time := _plausible(logged, now)) is not None:
            latest = max(latest, time)
        times[logged.key] = None if time is None else latest
    bounds: dict[str, float] = {}
    following = now
    for key, time in reversed(times.items()):
        following = following if time is None else time
        bounds[key] = following
    unreadable = (logged for log in logs.values() for logged in log if logged.key not in readable)
    return bounds | {logged.key: _plausible(logged, now) or now for logged in unreadable}


def _plausible(logged: LoggedEntry, now: float) -> float | None:
    """Return the later of the times that can be true, None if none can."""
    times = [logged.modified] + ([] if logged.entry is None else [logged.entry.time / 1e6])
    return max((time for time in times if NO_STORE_YET <= time <= now + SKEW_SECONDS), default=None)
