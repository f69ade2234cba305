"""Writing a segmented object: its segments gather in a spool, then it is created in one piece."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from erestore.errors import UsageError
from erestore.storage.abc import Storage
from erestore.storage.access import refusals
from erestore.storage.canonical import dump_canonical
from erestore.storage.frames import digest, encode_head, segmented_oid
from erestore.storage.segments import SEGMENT_LIMIT, PutResult, create_object, place

SPOOL_MEMORY = 64 << 20
"""Bytes of unfinished segments that are held in memory before they go to a temporary file."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Spooled:
    position: int
    stored_length: int
    entry: list[Any]


class SegmentWriter:
    """Collects segments, then writes them as one object. A context manager; leaving it drops what is not finished.

    Parameters
    ----------
    storage : Storage
    kind : str
    align : int
        A power of two up to 65536; every segment starts at a multiple of it.
    """

    def __init__(self, storage: Storage, kind: str, align: int) -> None:
        assert align.bit_count() == 1
        assert align <= 1 << 16
        self._storage = storage
        self._kind = kind
        self._align = align
        self._spooled: list[_Spooled] = []
        self._length = 0
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY)  # noqa: SIM115 - closed by __exit__

    def add(self, stored: bytes | bytearray | memoryview, *, raw_length: int, stage: str) -> int:
        """Take one segment as it is to be stored, and return its number.

        Raises
        ------
        AccessError
            If the directory of temporary files has no space left.
        UsageError
            If it is larger than :data:`~erestore.storage.segments.SEGMENT_LIMIT`.
        """
        view = memoryview(stored).cast("B")
        if max(raw_length, len(view)) > SEGMENT_LIMIT:
            raise UsageError(f"A segment of {raw_length} bytes is larger than one may be ({SEGMENT_LIMIT}).")
        with refusals("write", tempfile.gettempdir()):
            self._spool.write(view)
        self._spooled.append(_Spooled(self._length, len(view), [len(view), raw_length, stage, digest(view)]))
        self._length += len(view)
        return len(self._spooled) - 1

    def finish(self, index: Mapping[str, Any], order: Sequence[int] | None = None) -> PutResult:
        """Write the object.

        Parameters
        ----------
        index : Mapping[str, Any]
            What the object's index says beside ``segments``, which is added here. Where it names segments, it uses
            their final numbers: the n-th of `order` has number n.
        order : sequence of int, optional
            Numbers that :meth:`add` returned, each once, in the order of the object; by default as added.
        """
        segments, content = self._arrange(index, order)
        head = encode_head(self._kind, content, self._align)
        oid = segmented_oid(self._kind, self._align, content)
        offsets, length = place([segment.stored_length for segment in segments], len(head), self._align)
        created = create_object(self._storage, self._kind, oid, self._stream(head, segments, offsets))
        return PutResult(oid, length if created else 0)

    def size(self, index: Mapping[str, Any], order: Sequence[int] | None = None) -> int:
        """Return the bytes of the object that :meth:`finish` would write."""
        segments, content = self._arrange(index, order)
        head = encode_head(self._kind, content, self._align)
        return place([segment.stored_length for segment in segments], len(head), self._align)[1]

    def _arrange(self, index: Mapping[str, Any], order: Sequence[int] | None) -> tuple[list[_Spooled], bytes]:
        """Return the segments in their order, and the content of the index."""
        assert "segments" not in index
        numbers = range(len(self._spooled)) if order is None else order
        assert sorted(numbers) == list(range(len(self._spooled)))
        segments = [self._spooled[number] for number in numbers]
        return segments, dump_canonical({**index, "segments": [segment.entry for segment in segments]})

    def _stream(self, head: bytes, segments: Iterable[_Spooled], offsets: Iterable[int]) -> Iterator[bytes]:
        yield head
        position = len(head)
        for segment, offset in zip(segments, offsets, strict=True):
            if offset > position:
                yield bytes(offset - position)
            self._spool.seek(segment.position)
            for start in range(0, segment.stored_length, _CHUNK):
                with refusals("read", tempfile.gettempdir()):
                    chunk = self._spool.read(min(_CHUNK, segment.stored_length - start))
                yield chunk
            position = offset + segment.stored_length

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()
