"""The immutable objects of a store: records, blobs and segmented objects, each under the oid of its content."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from erestore.compression import compress, decompress
from erestore.errors import CorruptionError, MissingObjectError, UnsupportedFormatError
from erestore.storage.abc import Data, Storage
from erestore.storage.access import refusals
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.frames import (
    damaged,
    decode_record,
    encode_record,
    is_oid,
    is_segmented,
    record_length,
    record_oid,
)
from erestore.storage.segment_writer import SegmentWriter
from erestore.storage.segments import (
    FIRST_READ,
    PutResult,
    SegmentedObject,
    create_object,
    object_key,
    read_present,
)

BLOB_SEGMENT = 1 << 20
"""Blobs above this many bytes are stored in segments of this many bytes."""

_T = TypeVar("_T")


class StoredObject(NamedTuple):
    """One object as a listing shows it: oid, stored size in bytes, POSIX time by the storage's clock."""

    oid: str
    size: int
    modified: float


class ObjectStore:
    """The objects in a storage, under ``objects/<2 hex>/<62 hex>``.

    Parameters
    ----------
    storage : Storage
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put_record(self, kind: str, record: Mapping[str, Any]) -> PutResult:
        """Store a JSON object."""
        return self._put(kind, dump_canonical(dict(record)))

    def get_record(self, kind: str, oid: str) -> dict[str, Any]:
        """Return a JSON object, verified against its oid.

        Raises
        ------
        MissingObjectError
            If it is not there.
        CorruptionError
            If it is not what was written.
        """
        record = parse_canonical(self._past_cache(kind, oid, lambda: self._read_framed(kind, oid)))
        if not isinstance(record, dict):
            raise damaged(kind, oid, "it is not a JSON object")
        return record

    def put_blob(self, data: Data) -> PutResult:
        """Store bytes, whole or as chunks; from chunks, memory stays bounded."""
        chunks = iter((data,)) if isinstance(data, bytes) else iter(data)
        pieces = _cut(chunks, BLOB_SEGMENT)
        start = list(itertools.islice(pieces, 2))
        if len(start) < 2:
            return self._put("blob", b"".join(start))
        with self.writer("blob") as writer:
            for piece in itertools.chain(start, pieces):
                compressed = compress(piece)
                if len(compressed) < len(piece):
                    writer.add(compressed, raw_length=len(piece), stage="zstd")
                else:
                    writer.add(piece, raw_length=len(piece), stage="raw")
            return writer.finish({})

    def put_blob_file(self, path: Path | str) -> PutResult:
        """Store the content of a file.

        Raises
        ------
        AccessError
            If the file cannot be read.
        """
        return self.put_blob(_read_chunks(Path(path)))

    def get_blob(self, oid: str) -> bytes:
        """Return a blob; see :meth:`get_record` for what is raised."""
        return b"".join(self.iter_blob(oid))

    def blob_start(self, oid: str, length: int) -> bytes:
        """Return the first bytes of a blob; little more of a big one is read."""
        return next(self.iter_blob(oid), b"")[:length]

    def iter_blob(self, oid: str) -> Iterator[bytes]:
        """Yield a blob in chunks of at most :data:`BLOB_SEGMENT` bytes, each verified."""
        blob = self._past_cache("blob", oid, lambda: self._open_either("blob", oid))
        if isinstance(blob, bytes):
            yield blob
            return
        unknown = set(blob.index) - {"segments"} | {segment.stage for segment in blob.segments} - {"raw", "zstd"}
        if unknown:
            raise UnsupportedFormatError(
                f"The blob {oid} has the unknown field or entropy stage '{min(unknown)}'.",
                hint="Upgrade erestore to read it.",
            )
        for segment, stored in zip(blob.segments, blob.read_many(range(len(blob.segments))), strict=True):
            if segment.raw_length > BLOB_SEGMENT:
                raise damaged("blob", oid, "a segment is longer than those of blobs are")
            yield stored if segment.stage == "raw" else decompress(stored, segment.raw_length)

    def writer(self, kind: str, align: int = 1) -> SegmentWriter:
        """Start a segmented object."""
        return SegmentWriter(self.storage, kind, align)

    def open(self, kind: str, oid: str) -> SegmentedObject:
        """Open a segmented object; see :meth:`get_record` for what is raised."""
        return self._past_cache(kind, oid, lambda: SegmentedObject(self.storage, kind, oid))

    def verify(self, kind: str, oid: str) -> None:
        """Read a whole object, of either form, from where it is stored (not a local copy), and check every byte of it.

        Raises
        ------
        MissingObjectError
            If it is not there.
        CorruptionError
            If it is not what was written.
        """
        self.storage.evict(object_key(kind, oid))
        content = self._open_either(kind, oid)
        if isinstance(content, SegmentedObject):
            content.verify()

    def exists(self, oid: str) -> bool:
        """Return whether there is such an object."""
        return is_oid(oid) and self.storage.exists(object_key("object", oid))

    def size(self, oid: str) -> int:
        """Return the stored size in bytes.

        Raises
        ------
        MissingObjectError
            If it is not there.
        """
        for entry in self.storage.list(object_key("object", oid)):
            return entry.size
        raise MissingObjectError(oid)

    def find(self, prefix: str) -> list[str]:
        """Return the oids that start with `prefix` (lower-case hexadecimal digits), sorted."""
        if not prefix or len(prefix) > 64 or prefix.strip("0123456789abcdef"):
            return []
        key = f"objects/{prefix[:2]}/{prefix[2:]}" if len(prefix) > 1 else f"objects/{prefix}"
        return sorted(item.oid for item in self._list(key))

    def list(self) -> Iterator[StoredObject]:
        """Yield every object, in no fixed order."""
        return self._list("objects/")

    def delete(self, oid: str) -> None:
        """Remove an object; only garbage collection does so."""
        self.storage.delete(object_key("object", oid))

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        for entry in self.storage.list(prefix):
            oid = entry.key.removeprefix("objects/").replace("/", "", 1)
            if is_oid(oid) and entry.key == object_key("object", oid):
                yield StoredObject(oid, entry.size, entry.modified)

    def _put(self, kind: str, content: bytes) -> PutResult:
        oid = record_oid(kind, content)
        stored = encode_record(kind, content)
        created = create_object(self.storage, kind, oid, stored)
        return PutResult(oid, len(stored) if created else 0)

    def _open_either(self, kind: str, oid: str) -> bytes | SegmentedObject:
        """Read a record's content, or open a segmented object, whichever it is."""
        start = read_present(self.storage, kind, oid, 0, FIRST_READ)
        if is_segmented(start):
            return SegmentedObject(self.storage, kind, oid, start)
        return self._read_framed(kind, oid, start)

    def _read_framed(self, kind: str, oid: str, start: bytes | None = None) -> bytes:
        stored = read_present(self.storage, kind, oid, 0, FIRST_READ) if start is None else start
        limit = record_length(kind, oid, stored)
        if len(stored) == FIRST_READ and limit > FIRST_READ:
            # One byte more than may follow, so that an overlong object is noticed and never held whole.
            stored += read_present(self.storage, kind, oid, FIRST_READ, limit + 1)
        return decode_record(kind, oid, stored)

    def _past_cache(self, kind: str, oid: str, read: Callable[[], _T]) -> _T:
        """Read; if the bytes are corrupt and came from a local cache, read once more from behind it."""
        try:
            return read()
        except CorruptionError:
            if not self.storage.evict(object_key(kind, oid)):
                raise
        return read()


def _cut(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Regroup chunks of any sizes into pieces of `size` bytes and a shorter last one."""
    pending = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), size):
            pending += view[start : start + size]
            while len(pending) >= size:
                yield bytes(pending[:size])
                del pending[:size]
    if pending:
        yield bytes(pending)


def _read_chunks(path: Path) -> Iterator[bytes]:
    with refusals("read", path), path.open("rb") as file:
        while chunk := file.read(BLOB_SEGMENT):
            yield chunk
