"""One point in the lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.records.parse import read_number, read_text, read_text_map, read_texts, reading

EDGES = ("imported", "adapted", "versioned", "merged", "picked", "reverted", "flattened", "rebased")
"""What a commit is to its parents."""

LATEST = 253_402_300_800_000_000
"""The year 10000 in microseconds since 1970, which no time in a record reaches."""


@dataclass(frozen=True)
class Commit:
    """One point in the lineage.

    Attributes
    ----------
    manifest : str
    parents : tuple of str
        Commit oids.
    edge : str
        One of :data:`EDGES`.
    author, message : str
    time : int
        Microseconds since 1970 UTC.
    own : tuple of str
        Residuals that this commit introduced.
    metrics : Mapping[str, str]
    quality : Mapping[str, str]
        What was asked and reached: ``relative_error`` (shortest float64 text), ``codec``, ``exact`` ("yes"/"no"), ...
    original_bytes : int
        Size of the checkpoint that was committed.
    stored_bytes : int
        Bytes that this commit added to the store, less this record itself.
    recipe : Any
        How a merge was made, as JSON, or None.
    """

    manifest: str
    parents: tuple[str, ...]
    edge: str
    author: str
    time: int
    message: str
    own: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, str] = field(default_factory=dict)
    original_bytes: int = 0
    stored_bytes: int = 0
    recipe: Any = None

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        return {
            "manifest": self.manifest,
            "parents": list(self.parents),
            "edge": self.edge,
            "author": self.author,
            "time": self.time,
            "message": self.message,
            "own": list(self.own),
            "metrics": dict(self.metrics),
            "quality": dict(self.quality),
            "original_bytes": self.original_bytes,
            "stored_bytes": self.stored_bytes,
            "recipe": self.recipe,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        fields = set(cls.__dataclass_fields__)
        with reading("commit", record, fields):
            if read_text(record["edge"]) not in EDGES:
                raise UnsupportedFormatError(f"A commit has the unknown edge '{record['edge']}'.")
            return cls(
                manifest=read_text(record["manifest"]),
                parents=read_texts(record["parents"]),
                edge=record["edge"],
                author=read_text(record["author"]),
                time=read_number(record["time"], LATEST),
                message=read_text(record["message"]),
                own=read_texts(record["own"]),
                metrics=read_text_map(record["metrics"]),
                quality=read_text_map(record["quality"]),
                original_bytes=read_number(record["original_bytes"]),
                stored_bytes=read_number(record["stored_bytes"]),
                recipe=record["recipe"],
            )

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        yield "manifest", self.manifest
        for oid in self.own:
            yield "residual", oid
        for oid in self.parents:
            yield "commit", oid


def dropped_tensors(commit: Commit) -> int:
    """Return of how many tensors that changed the commit kept nothing; commits of before this was recorded say 0."""
    try:
        return int(commit.quality.get("dropped", "0"))
    except ValueError:
        raise CorruptionError("A commit's count of dropped tensors is not a number.") from None


def relative_error(commit: Commit) -> float | None:
    """Return the error that was measured when the commit was made, None if there was nothing to measure against."""
    text = commit.quality.get("relative_error")
    try:
        return None if text is None else float(text)
    except ValueError:
        raise CorruptionError(f"A commit records the relative error '{text}', which is not a number.") from None
