"""Branches and tags: one numbered log per name, whose newest entry says where the name points.

Deleting a name appends an entry without an oid; the log of a name is its reflog.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from erestore.errors import CorruptionError, KeyNotFoundError, RefConflictError, UnsupportedFormatError, UsageError
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.frames import is_oid
from erestore.storage.log import NumberedLog, entry_number
from erestore.storage.sequence import count_entries, with_count
from erestore.storage.spelling import FEATURE_KEY, choose, plain

KINDS = ("branch", "tag")

NAME_LIMIT = 200
"""Longest name, in characters of its quoted form (a ``/`` counts as three)."""

LATEST = 253_402_300_800_000_000
"""The year 10000 in microseconds since 1970, which no time in an entry reaches."""

_COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_FIELDS = {
    "kind": str,
    "oid": str | None,
    "previous": str | None,
    "writer": str,
    "operation": str,
    "undoes": str | None,
    "time": int,
    "message": str,
}


@dataclass(frozen=True)
class RefEntry:
    """One entry of a ref's log.

    Attributes
    ----------
    name : str
    number : int
        From 1; pass it as `expected` to move the ref on.
    kind : str
        ``branch`` or ``tag``.
    oid : str or None
        Where the ref points; None once it is deleted.
    previous : str or None
        Where it pointed before.
    writer, operation : str
        Who wrote it and after how many other entries (:mod:`erestore.storage.sequence`), and the id of the operation it
        was part of.
    undoes : str or None
        Id of the operation that this one took back.
    time : int
        Microseconds since 1970 UTC, by the writer's clock.
    message : str
    """

    name: str
    number: int
    kind: str
    oid: str | None
    previous: str | None
    writer: str
    operation: str
    undoes: str | None
    time: int
    message: str

    def to_bytes(self) -> bytes:
        """Return the stored form: canonical JSON without name and number, which are the key."""
        return dump_canonical({field: getattr(self, field) for field in _FIELDS})

    @classmethod
    def from_bytes(cls, name: str, number: int, content: bytes) -> RefEntry:
        """Read the stored form.

        Raises
        ------
        CorruptionError
            If it is malformed.
        UnsupportedFormatError
            If a newer version wrote it.
        """
        try:
            record: Any = parse_canonical(content)
        except CorruptionError as error:
            raise _malformed(name, number) from error
        if not isinstance(record, dict):
            raise _malformed(name, number)
        if unknown := sorted(set(record) - set(_FIELDS)):
            raise UnsupportedFormatError(
                f"Entry {number} of '{name}' has the unknown field '{unknown[0]}'.",
                hint="A newer erestore wrote it; upgrade to read it.",
            )
        if set(record) != set(_FIELDS) or not all(
            isinstance(record[field], kind) and not isinstance(record[field], bool) for field, kind in _FIELDS.items()
        ):
            raise _malformed(name, number)
        if not all(value is None or is_oid(value) for value in (record["oid"], record["previous"])):
            raise _malformed(name, number)
        if not 0 <= record["time"] < LATEST:
            raise _malformed(name, number)
        if record["kind"] not in KINDS:
            raise UnsupportedFormatError(f"'{name}' is a ref of the unknown kind '{record['kind']}'.")
        return cls(name=name, number=number, **record)


class Refs:
    """The refs of a store, under ``refs/<quoted name>/<%016d>``.

    Parameters
    ----------
    storage : Storage
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.has_spellings = False
        """Whether some folders are spelled otherwise than their names (:mod:`erestore.storage.spelling`)."""

    def read(self, name: str) -> RefEntry | None:
        """Return the newest entry of `name` (without oid if it was deleted), None if it never was."""
        return next(self.log(name), None)

    def log(self, name: str) -> Iterator[RefEntry]:
        """Yield the entries of `name`, newest first."""
        for number, content in self._log(name).newest_first():
            yield RefEntry.from_bytes(name, number, content)

    def all(self) -> dict[str, RefEntry]:
        """Return the newest entry of every name, deleted ones included, sorted by name."""
        newest: dict[str, tuple[str, int]] = {}
        for entry in self._storage.list("refs/"):
            parts = entry.key.split("/")
            if len(parts) == 3 and parts[2].isdigit():
                folder, number = newest.get(unquote(parts[1]), (parts[1], 0))
                newest[unquote(parts[1])] = folder, max(number, entry_number(entry.key))
        entries = {}
        for name, (folder, number) in sorted(newest.items()):
            try:
                content = NumberedLog(self._storage, f"refs/{folder}").read(number)
                entries[name] = RefEntry.from_bytes(name, number, content)
            except KeyNotFoundError:  # moved on and pruned since it was listed
                if entry_now := self.read(name):
                    entries[name] = entry_now
        return entries

    def names(self, kind: str | None = None, *, deleted: bool = False) -> list[str]:
        """Return the names that exist (with `deleted`: those that were deleted), sorted."""
        return [
            name for name, entry in self.all().items() if (entry.oid is None) == deleted and kind in (None, entry.kind)
        ]

    def update(
        self,
        name: str,
        oid: str | None,
        *,
        expected: int,
        kind: str,
        operation: str,
        writer: str,
        message: str,
        undoes: str | None = None,
    ) -> RefEntry:
        """Point `name` to `oid` (None deletes it), if nobody has moved it since entry `expected` (0: never existed).

        Raises
        ------
        RefConflictError
            If somebody has; nothing of theirs is changed.
        UsageError
            If `name` cannot be a name.
        """
        check_name(name)
        assert kind in KINDS
        log = self._log(name)
        previous = None
        if expected:
            try:
                previous = RefEntry.from_bytes(name, expected, log.read(expected)).oid
            except KeyNotFoundError:
                raise RefConflictError(name) from None
        entry = RefEntry(
            name=name,
            number=expected + 1,
            kind=kind,
            oid=oid,
            previous=previous,
            writer=with_count(writer, count_entries(self._storage.list("refs/"))),
            operation=operation,
            undoes=undoes,
            time=time.time_ns() // 1000,
            message=message,
        )

        def precedes(content: bytes) -> bool:
            return RefEntry.from_bytes(name, expected + 2, content).previous == oid

        if log.name != f"refs/{plain(name)}":
            self._storage.create(FEATURE_KEY, b"")  # before what depends on it
            self.has_spellings = True
        if log.append(expected, entry.to_bytes(), precedes) is None:
            raise RefConflictError(name)
        return entry

    def prune(self, name: str, before_us: int) -> int:
        """Delete entries older than `before_us` (microseconds since 1970 UTC) except the newest; return how many."""
        return self._log(name).prune(before_us / 1e6)

    def _log(self, name: str) -> NumberedLog:
        ignores_case = self._storage.ignores_case
        if not ignores_case and not self.has_spellings:
            return NumberedLog(self._storage, f"refs/{plain(name)}")
        folders = {entry.key.split("/")[1] for entry in self._storage.list("refs/")}
        return NumberedLog(self._storage, f"refs/{choose(name, folders, ignores_case=ignores_case)}")


def check_name(name: str) -> str:
    """Return `name` if a branch or tag can be called so.

    Raises
    ------
    UsageError
        If not; the message says why.
    """
    if reason := _name_fault(name):
        raise UsageError(
            f"'{name}' cannot be a name: {reason}.",
            hint="Use letters, digits and . _ - with / between parts, for example 'team/task-mnli'.",
        )
    return name


def _name_fault(name: str) -> str | None:
    if not name:
        return "it is empty"
    if len(plain(name)) > NAME_LIMIT:
        return "it is too long"
    if name.startswith("-"):
        return "it starts with '-'"
    if name.endswith(".") or ".." in name:
        return "it ends with '.' or holds '..'"
    if not all(_COMPONENT.fullmatch(part) for part in name.split("/")):
        return "a part of it is empty, starts with '.' or holds other characters"
    if re.fullmatch(r"[0-9a-fA-F]{40,}", name):
        return "it looks like an oid"
    return None


def _malformed(name: str, number: int) -> CorruptionError:
    return CorruptionError(
        f"Entry {number} of the log of '{name}' is corrupt.",
        hint="`erestore reflog` shows older entries; `erestore fsck` lists all damage.",
    )
