"""Notes: what they hold, as far as garbage collection needs to know. No array is touched."""

from __future__ import annotations

from erestore.errors import ErestoreError
from erestore.model.indexes import check_index
from erestore.storage.objects import Objects
from erestore.storage.segments import SegmentedObject

CALIBRATION = "calibration"
"""Feature of the only kind of note that this version knows."""
_FIELDS = {"base", "samples", "tensors"}


def open_calibration(objects: Objects, oid: str) -> SegmentedObject:
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
    return note


def is_calibration(objects: Objects, oid: str) -> bool:
    """Tell whether a note is a calibration; no other is anything to collect."""
    try:
        open_calibration(objects, oid)
    except ErestoreError:
        return False
    return True
