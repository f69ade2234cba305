"""Segmented objects: where their segments are, and reading and verifying them one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from erestore.errors import CorruptionError, KeyNotFoundError, MissingObjectError
from erestore.storage.abc import Data, Storage
from erestore.storage.canonical import parse_canonical
from erestore.storage.frames import (
    damaged,
    decode_head,
    digest,
    head_length,
    is_oid,
)

FIRST_READ = 64 << 10
"""Bytes read at once when an object is opened: small objects need one request."""

SEGMENT_LIMIT = 1 << 30
"""Largest segment before its entropy stage, in bytes: what reading one can take is bounded whatever an index says."""

RANGE_LIMIT = 8 << 20
"""Neighbouring segments are read together up to this many bytes."""


class PutResult(NamedTuple):
    """Oid of a stored object, and the bytes that storing it added (0 when it was there already)."""

    oid: str
    added_bytes: int


class Segment(NamedTuple):
    """Where one segment is and what it holds.

    Attributes
    ----------
    offset, stored_length, raw_length : int
        In bytes; the offset counts from the start of the object.
    stage : str
        Name of the entropy stage that turns stored bytes into raw bytes.
    digest : str
        BLAKE3-256 of the stored bytes, in hex.
    """

    offset: int
    stored_length: int
    raw_length: int
    stage: str
    digest: str

    @property
    def stop(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + self.stored_length


class SegmentedObject:
    """A segmented object opened for reading; its index is read and verified, its segments are not yet.

    Attributes
    ----------
    kind, oid : str
    index : dict
        The index as stored, ``segments`` included.
    alignment : int
    segments : tuple of Segment
    """

    def __init__(self, storage: Storage, kind: str, oid: str, start: bytes | None = None) -> None:
        self.kind = kind
        self.oid = oid
        self._storage = storage
        self._key = object_key(kind, oid)
        start = read_present(storage, kind, oid, 0, FIRST_READ) if start is None else start
        length = head_length(kind, oid, start)
        head = start[:length]
        if len(start) < length:
            head += read_present(storage, kind, oid, len(start), length)
        self._start = start
        self.alignment, content = decode_head(kind, oid, head)
        self.index: dict[str, Any] = parse_canonical(content)
        self.segments = self._place_segments(length)

    def read(self, number: int) -> bytes:
        """Return the stored bytes of one segment, verified.

        Raises
        ------
        CorruptionError
            If they are not what was written, even when read once more past a cache.
        """
        return next(self.read_many((number,)))

    def read_many(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Yield the stored bytes of segments in the order asked for, reading neighbours together."""
        for run in self._runs(numbers):
            yield from self._read_run(run)

    def _runs(self, numbers: Iterable[int]) -> Iterator[list[Segment]]:
        run: list[Segment] = []
        for number in numbers:
            segment = self.segments[number]
            if run and not self._continues(run, segment):
                yield run
                run = []
            run.append(segment)
        if run:
            yield run

    def _continues(self, run: list[Segment], segment: Segment) -> bool:
        gap = segment.offset - run[-1].stop
        return 0 <= gap < self.alignment and segment.stop - run[0].offset <= RANGE_LIMIT

    def _read_run(self, run: list[Segment]) -> list[bytes]:
        parts = self._parts(run)
        damage = self._first_damaged(run, parts)
        if damage is not None and self._storage.evict(self._key):
            self._start = b""  # came from the same copy
            parts = self._parts(run)
            damage = self._first_damaged(run, parts)
        if damage is not None:
            raise damaged(self.kind, self.oid, f"segment {damage} does not match its digest")
        return parts

    def _parts(self, run: list[Segment]) -> list[bytes]:
        first = run[0].offset
        data = self._read_range(first, run[-1].stop)
        return [data[segment.offset - first : segment.stop - first] for segment in run]

    def _first_damaged(self, run: list[Segment], parts: list[bytes]) -> int | None:
        for segment, part in zip(run, parts, strict=True):
            if digest(part) != segment.digest:
                return self.segments.index(segment)
        return None

    def _read_range(self, start: int, stop: int) -> bytes:
        if stop <= len(self._start):
            return self._start[start:stop]
        return read_present(self._storage, self.kind, self.oid, start, stop)

    def verify(self) -> None:
        """Read everything: every segment, the padding between them, and that nothing follows.

        Raises
        ------
        CorruptionError
            At the first byte that is not what was written.
        """
        end = self._head_length
        for run in self._runs(range(len(self.segments))):
            start, data = end, self._read_range(end, run[-1].stop)
            parts = []
            for segment in run:
                if any(data[end - start : segment.offset - start]):
                    raise damaged(self.kind, self.oid, "its padding is not zero")
                parts.append(data[segment.offset - start : segment.stop - start])
                end = segment.stop
            if (damage := self._first_damaged(run, parts)) is not None:
                raise damaged(self.kind, self.oid, f"segment {damage} does not match its digest")
        if read_present(self._storage, self.kind, self.oid, end, end + 1):
            raise damaged(self.kind, self.oid, "bytes follow its last segment")

    def _place_segments(self, head: int) -> tuple[Segment, ...]:
        self._head_length = head
        rows = self.index.get("segments") if isinstance(self.index, dict) else None
        if not isinstance(rows, list) or not all(map(_is_segment_row, rows)):
            raise damaged(self.kind, self.oid, "its index does not describe its segments")
        offsets, _ = place([row[0] for row in rows], head, self.alignment)
        return tuple(Segment(offset, *row) for offset, row in zip(offsets, rows, strict=True))


def place(lengths: Iterable[int], head: int, alignment: int) -> tuple[list[int], int]:
    """Return the offset of every segment and the length of the whole object; empty segments take no padding."""
    offsets = []
    end = head
    for length in lengths:
        offset = -(-end // alignment) * alignment if length else end
        offsets.append(offset)
        end = offset + length
    return offsets, end


def object_key(kind: str, oid: str) -> str:
    """Return the key of an object.

    Raises
    ------
    MissingObjectError
        If `oid` is not an oid: a record that names such a thing refers to nothing.
    """
    if not is_oid(oid):
        raise MissingObjectError(str(oid), kind)
    return f"objects/{oid[:2]}/{oid[2:]}"


def create_object(storage: Storage, kind: str, oid: str, data: Data) -> bool:
    """Store an object under its oid, unless it is there; return whether this call wrote it.

    Raises
    ------
    CorruptionError
        If what is there is empty, as a write that was cut off leaves it in places that are not meant for stores.
    """
    key = object_key(kind, oid)
    if storage.create(key, data):
        return True
    if any(entry.key == key and not entry.size for entry in storage.list(key)):
        raise CorruptionError(
            f"'{key}' in the store at {storage.url} is empty: a write to it was cut off once.",
            hint="Remove that file from where the store is kept, then repeat the command.",
        )
    return False


def read_present(storage: Storage, kind: str, oid: str, start: int, stop: int) -> bytes:
    """Read a range of an object that must exist.

    Raises
    ------
    MissingObjectError
        If it does not.
    """
    try:
        return storage.read_range(object_key(kind, oid), start, stop)
    except KeyNotFoundError:
        raise MissingObjectError(oid, kind) from None


def _is_segment_row(row: object) -> bool:
    if not (isinstance(row, list) and len(row) == 4):
        return False
    stored_length, raw_length, stage, stored_digest = row
    return (
        all(type(length) is int and 0 <= length <= SEGMENT_LIMIT for length in (stored_length, raw_length))
        and isinstance(stage, str)
        and (stage != "raw" or stored_length == raw_length)
        and is_oid(stored_digest)
    )
