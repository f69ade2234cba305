"""What a checkout leaves in its folder when it is not the original bit for bit: of which commit it is, and what was lost.

The file is for people and tools. Libraries that load the folder do not look at it, and a commit of the folder does not keep
it. It says what the folder was when it was written, not what has been done to it since.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAME = "erestore-checkout.json"
_LONGEST = 1 << 16
"""Bytes; a longer file of that name is not one of these."""


@dataclass(frozen=True)
class Marker:
    """What a folder was checked out from; the fields are those of the file.

    Attributes
    ----------
    commit : str or None
        Oid; None for an expression.
    revision : str
        As it was given.
    store : str
        Id of the store, which is the same wherever the store is.
    relative_error, error_bound : float or None
        What was lost, as ``checkout`` says it.
    lossy : bool
        Whether an exact remainder, or a part of a residual, was left out.
    max_rank, max_bytes : int or None
        How much was read of the residuals.
    """

    commit: str | None
    revision: str
    store: str
    relative_error: float | None
    error_bound: float | None
    lossy: bool = False
    max_rank: int | None = None
    max_bytes: int | None = None

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        note = "Written by `erestore checkout`: these weights are not the original's bit for bit."
        return (json.dumps({"note": note, "exact": False, **asdict(self)}, indent=2) + "\n").encode()


_TYPES: dict[str, Any] = {
    "commit": str | None,
    "revision": str,
    "store": str,
    "relative_error": float | None,
    "error_bound": float | None,
    "lossy": bool,
    "max_rank": int | None,
    "max_bytes": int | None,
}


def read_marker(path: Path) -> Marker | None:
    """Return what a folder says that it was checked out from; None where it says nothing, or nothing that is understood."""
    try:
        with (path / NAME).open("rb") as file:
            content = file.read(_LONGEST + 1)
        record = json.loads(content) if len(content) <= _LONGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in _TYPES.items()):
        return None
    return Marker(**{key: record[key] for key in _TYPES})
