"""Condemned lists: what a garbage collection found unreachable, for a later one to delete.

A list is created once, under ``gc/condemned/<id>``, and removed when nothing on it is left to delete. It is canonical
JSON: ``{"objects": [[oid, kind or null, size, modified], ...]}``, with the modification time of each object in
microseconds by the storage's clock. An object that was written again since has a later time, and the list no longer
holds for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from erestore.errors import CorruptionError, KeyNotFoundError
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.frames import is_oid

PREFIX = "gc/condemned/"


class Condemned(NamedTuple):
    """One unreachable object: oid, kind (None if its header is damaged), stored bytes, time in microseconds."""

    oid: str
    kind: str | None
    size: int
    modified: int


class CondemnedList(NamedTuple):
    """A list as stored: its key, POSIX seconds of its creation by the storage's clock, and what it condemns."""

    key: str
    since: float
    objects: tuple[Condemned, ...]


def write_list(storage: Storage, objects: Iterable[Condemned]) -> None:
    """Store a new list."""
    storage.create(f"{PREFIX}{secrets.token_hex(16)}", dump_canonical({"objects": [list(entry) for entry in objects]}))


def read_lists(storage: Storage) -> list[CondemnedList]:
    """Return all lists, oldest first; one that is damaged, or lost its time, condemns nothing."""
    lists = []
    for entry in sorted(storage.list(PREFIX), key=lambda entry: entry.modified):
        try:
            objects = parse_list(storage.read(entry.key))
        except KeyNotFoundError:
            continue
        except CorruptionError:
            objects = ()
        if any(condemned.modified > entry.modified * 1e6 for condemned in objects):
            objects = ()  # older than what it lists: its time was set, and when the grace period began is not known
        lists.append(CondemnedList(entry.key, entry.modified, objects))
    return lists


def parse_list(content: bytes) -> tuple[Condemned, ...]:
    """Read the stored form.

    Raises
    ------
    CorruptionError
        If it is malformed.
    """
    record = parse_canonical(content)
    rows = record.get("objects") if isinstance(record, dict) else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise CorruptionError("A condemned list is malformed.")
    return tuple(Condemned(*row) for row in rows)


def _is_row(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 4:
        return False
    oid, kind, size, modified = row
    return is_oid(oid) and isinstance(kind, str | None) and type(size) is int and type(modified) is int
