"""Notes: what they hold, as far as garbage collection needs to know. No array is touched."""

from __future__ import annotations

from erestore.errors import CorruptionError, ErestoreError
from erestore.objects.index import check_index, check_size
from erestore.storage.calibrations import newest_note
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import SegmentedObject

CALIBRATION = "calibration"
"""Feature of the only kind of note that this version knows."""
_FIELDS = {"base", "samples", "tensors"}


def open_calibration(objects: ObjectStore, oid: str) -> SegmentedObject:
    """Open a note that holds a calibration.

    Raises
    ------
    UnsupportedFormatError
        If it is a note of another kind, or of a newer version.
    CorruptionError
        If its index is malformed.
    """
    note = objects.open("note", oid)
    check_index("note", oid, note.index, _FIELDS, {CALIBRATION, "raw"})
    try:
        check_size(note.index["samples"])
    except ValueError as error:
        raise CorruptionError(f"The note {oid} does not say with how many examples it was made.") from error
    return note


def calibrated_with(objects: ObjectStore, base: str) -> int | None:
    """Return how many examples a base was calibrated with; None where it was not."""
    note = newest_note(objects.storage, base)
    return None if note is None else int(open_calibration(objects, note).index["samples"])


def is_calibration(objects: ObjectStore, oid: str) -> bool:
    """Return whether a note is a calibration; no other is anything to collect."""
    try:
        open_calibration(objects, oid)
    except ErestoreError:
        return False
    return True
