"""Which calibration belongs to which base: one numbered log a base, ``calibrations/<base oid>``, whose newest entry counts.

An entry is canonical JSON: ``{"id": ..., "note": oid, "time": microseconds, "writer": ...}``.
"""

from __future__ import annotations

from collections.abc import Iterator

from erestore.errors import ConflictError, CorruptionError
from erestore.storage.abc import Storage
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.frames import is_oid
from erestore.storage.log import NumberedLog

PREFIX = "calibrations/"


def calibration_log(storage: Storage, base: str) -> NumberedLog:
    """Return the log of one base."""
    return NumberedLog(storage, f"{PREFIX}{base}")


def calibrated_bases(storage: Storage) -> list[str]:
    """Return the oids of all bases that have a log."""
    bases = {entry.key.removeprefix(PREFIX).partition("/")[0] for entry in storage.list(PREFIX)}
    return sorted(base for base in bases if is_oid(base))


def newest_note(storage: Storage, base: str) -> str | None:
    """Return the oid of the note that calibrates a base; None where there is none.

    Raises
    ------
    CorruptionError
        If the newest entry is damaged.
    """
    latest = calibration_log(storage, base).latest()
    if latest is None:
        return None
    try:
        return parse_entry(latest[1])
    except CorruptionError as error:
        raise CorruptionError(
            f"Entry {latest[0]} of the log '{PREFIX}{base}' is damaged, so it is not known what calibrates the base.",
            hint="`erestore calibrate BASE --data FILE` measures it anew.",
        ) from error


def point(storage: Storage, base: str, note: str, *, operation: str, writer: str, time: int) -> int:
    """Make a note the calibration of a base; return the bytes of the entry.

    Raises
    ------
    ConflictError
        If another writer did so at the same time.
    """
    content = dump_canonical({"id": operation, "note": note, "time": time, "writer": writer})
    log = calibration_log(storage, base)
    if log.append(log.highest(), content, lambda _: True) is None:
        raise ConflictError("The base was calibrated by another writer at the same time.", hint="Try again.")
    return len(content)


def parse_entry(content: bytes) -> str:
    """Return the note that an entry names.

    Raises
    ------
    CorruptionError
        If it names none.
    """
    entry = parse_canonical(content)
    if not isinstance(entry, dict) or not is_oid(entry.get("note")):
        raise CorruptionError("An entry of a calibration's log names no note.")
    note: str = entry["note"]
    return note


def keys_oldest_first(storage: Storage, base: str) -> Iterator[str]:
    """Yield the keys of a base's log: deleted in this order, an older entry never comes to count again."""
    for entry in calibration_log(storage, base).entries():
        yield entry.key
