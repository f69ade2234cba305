"""Leases as they are stored: who holds which, and which of them still count.

A lease's entries are ``gc/leases/<kind>-<id>/<%016d>``, of which the highest number counts. Whoever may not delete ends its
lease with ``gc/leases/<kind>-<id>/released``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from erestore.errors import CorruptionError, KeyNotFoundError
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.holder import Holder

EXPIRES_SECONDS = 3600
"""A lease that was not renewed for so long is dead."""

SKEW_SECONDS = 600
"""A lease from further in the future is dead: the clock that stamped it was ahead, or its file's time was set."""

COPIED_SECONDS = 86400
"""Clocks of machines differ by less. Where a lease's content and its file are further apart, the file is a copy."""

PREFIX = "gc/leases/"
RELEASED = "released"

Kind = Literal["writer", "collector"]


@dataclass
class LeaseRecord:
    """One lease in a listing.

    Attributes
    ----------
    name : str
        ``<kind>-<id>``.
    keys : list of str
        All that is stored of it.
    number : int
        Of its newest entry; 0 if none is left.
    modified : float
        POSIX seconds by the storage's clock: when it was last renewed.
    is_released : bool
    """

    name: str
    keys: list[str] = field(default_factory=list)
    number: int = 0
    modified: float = 0.0
    is_released: bool = False

    @property
    def kind(self) -> str:
        """``writer`` or ``collector``."""
        return self.name.partition("-")[0]

    def is_current(self, now: float) -> bool:
        """Return whether it counts at a time by the storage's clock, as far as a listing shows."""
        if self.is_released or not self.number:
            return False
        return -SKEW_SECONDS <= now - self.modified < EXPIRES_SECONDS

    def read(self, storage: Storage) -> LeaseContent:
        """Return what its newest entry says; nothing where it is gone or damaged."""
        try:
            content = parse_canonical(storage.read(f"{PREFIX}{self.name}/{self.number:016d}"))
        except (KeyNotFoundError, CorruptionError):
            content = None
        return LeaseContent.from_record(content if isinstance(content, dict) else {})


@dataclass(frozen=True)
class LeaseContent:
    """What an entry of a lease says; nobody depends on it.

    Attributes
    ----------
    writer : str
        Id of who holds the lease.
    time : int
        Microseconds since 1970 UTC by the holder's clock; 0 where it is not known.
    holder : Holder or None
    """

    writer: str = ""
    time: int = 0
    holder: Holder | None = None

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> LeaseContent:
        """Read the fields that are there."""
        writer, time = record.get("writer"), record.get("time")
        return cls(
            writer if isinstance(writer, str) else "",
            time if isinstance(time, int) else 0,
            Holder.from_record(record.get("holder")),
        )

    def to_bytes(self, kind: Kind, expires_seconds: int) -> bytes:
        """Return the stored form."""
        assert self.holder is not None
        fields = {"expires_seconds": expires_seconds, "kind": kind, "time": self.time, "writer": self.writer}
        return dump_canonical({**fields, "holder": self.holder.to_record()})

    def is_copied(self, record: LeaseRecord, now: float) -> bool:
        """Return whether the lease's file is a copy made without its time: its holder works elsewhere, if at all.

        Parameters
        ----------
        record : LeaseRecord
        now : float
            By the storage's clock. How far that is from this machine's is not a sign of a copy.
        """
        offset = now - time.time()
        return abs(record.modified - self.time / 1e6 - offset) > COPIED_SECONDS


def read_leases(storage: Storage) -> dict[str, LeaseRecord]:
    """Return all leases that are stored, dead ones included, by name."""
    records: dict[str, LeaseRecord] = {}
    for entry in storage.list(PREFIX):
        name, _, last = entry.key.removeprefix(PREFIX).partition("/")
        record = records.setdefault(name, LeaseRecord(name))
        record.keys.append(entry.key)
        if last == RELEASED:
            record.is_released = True
        elif last.isdigit() and int(last) > record.number:
            record.number, record.modified = int(last), entry.modified
    return records
