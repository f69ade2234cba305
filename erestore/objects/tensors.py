"""Raw tensors in ``tensors`` objects: bases and whole tensors of variants.

A tensor is a run of consecutive segments of at most 8 MiB; segments start on 4096-byte boundaries in bases, so that a
checkout can clone ranges of an object's file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Self

import numpy as np
from blake3 import blake3

from erestore.arrays import Array, raw_bytes
from erestore.checkpoint.dtypes import DTYPES, array_dtype, tensor_bytes, torch_shape
from erestore.errors import CorruptionError
from erestore.objects.index import check_index
from erestore.records import TensorRef
from erestore.residual import entropy, words
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult, SegmentedObject

SEGMENT = 8 << 20
"""Largest segment, in bytes."""
BASE_ALIGNMENT = 4096


def content_digest(dtype: str, shape: tuple[int, ...], content: memoryview) -> str:
    """Return the BLAKE3 of a tensor with its dtype and shape, in hex."""
    hasher = blake3(f"{dtype} {list(shape)}\0".encode())
    hasher.update(content)
    return str(hasher.hexdigest())


VALUE_DIGEST_BYTES = 16


def value_digest(value: Array) -> str:
    """Return the digest that manifests and patches record of a value: 16 bytes of the BLAKE3 of its bytes, in hex."""
    return str(blake3(raw_bytes(value)).hexdigest(length=VALUE_DIGEST_BYTES))


class TensorWriter:
    """Collects raw tensors into one ``tensors`` object. A context manager.

    Parameters
    ----------
    objects : ObjectStore
    align : int
        4096 for bases (stored raw), 1 for what variants hold whole (compressed where that is smaller).
    """

    def __init__(self, objects: ObjectStore, *, align: int) -> None:
        self._writer = objects.writer("tensors", align)
        self._raw = align > 1
        self._segments = 0
        self._words: set[str] = set()

    def add(self, content: memoryview, dtype: str) -> tuple[int, int]:
        """Take one tensor's bytes; return its first segment and their number."""
        first = self._segments
        for start in range(0, len(content), SEGMENT):
            piece = content[start : start + SEGMENT]
            stage, stored = (entropy.RAW, piece) if self._raw else self._compress(bytes(piece), DTYPES[dtype].bits // 8)
            self._writer.add(stored, raw_length=len(piece), stage=stage)
            self._segments += 1
        return first, self._segments - first

    def _compress(self, piece: bytes, word: int) -> tuple[str, bytes]:
        """Return the stage that stores a piece in the fewest bytes, and those bytes."""
        stage, stored = entropy.encode(piece, level=3)
        for name, size in words.STAGES.items():
            if size == word and len(coded := words.encode(piece, word)) < len(stored):
                stage, stored = name, coded
                self._words.add(name)
        return stage, stored

    def finish(self) -> PutResult:
        """Write the object."""
        return self._writer.finish({"features": [*entropy.PLAIN, *sorted(self._words)]})

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._writer.__exit__(*details)


class TensorReader:
    """Reads raw tensors; keeps the indexes of the objects it has opened."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._opened: dict[str, SegmentedObject] = {}

    def _segments(self, data: TensorRef) -> tuple[SegmentedObject, range]:
        """Return the object that holds a tensor and the numbers of the tensor's segments, having checked their sizes."""
        if data.oid not in self._opened:
            opened = self._objects.open("tensors", data.oid)
            check_index("tensors", data.oid, opened.index, set(), {*entropy.PLAIN, *words.STAGES})
            self._opened[data.oid] = opened
        stored = self._opened[data.oid]
        if data.first + data.segments > len(stored.segments):
            raise CorruptionError(f"The tensors object {data.oid[:12]} has fewer segments than are referred to.")
        numbers = range(data.first, data.first + data.segments)
        if any(stored.segments[number].raw_length > SEGMENT for number in numbers):
            raise CorruptionError(f"The tensors object {data.oid[:12]} declares an oversized segment.")
        return stored, numbers

    def pieces(self, data: TensorRef) -> Iterator[bytes]:
        """Yield a tensor's bytes, a verified segment at a time."""
        stored_object, numbers = self._segments(data)
        for number, stored in zip(numbers, stored_object.read_many(numbers), strict=True):
            segment = stored_object.segments[number]
            yield entropy.decode(segment.stage, stored, segment.raw_length)

    def _check_size(self, data: TensorRef, dtype: str, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor, having made sure that its segments hold as many."""
        size, (opened, numbers) = tensor_bytes(dtype, shape), self._segments(data)
        is_halved = dtype == "F4" and (not shape or shape[-1] % 2)
        if is_halved or sum(opened.segments[number].raw_length for number in numbers) != size:
            raise CorruptionError(f"A tensor in the object {data.oid[:12]} does not have its recorded size.")
        return size

    def read(self, data: TensorRef, dtype: str, shape: tuple[int, ...]) -> Array:
        """Return one tensor; nothing is allocated for a shape that its segments do not fill.

        Raises
        ------
        CorruptionError
            If dtype, shape and segments do not agree.
        """
        content, position = np.empty(self._check_size(data, dtype, shape), dtype=np.uint8), 0
        for piece in self.pieces(data):
            content[position : position + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
            position += len(piece)
        return content.view(array_dtype(dtype)).reshape(torch_shape(dtype, shape))

    def rows(self, data: TensorRef, dtype: str, shape: tuple[int, int]) -> MatrixRows:
        """Return what reads rows of a matrix.

        Raises
        ------
        CorruptionError
            If dtype, shape and segments do not agree.
        """
        self._check_size(data, dtype, shape)
        return MatrixRows(*self._segments(data), array_dtype(dtype), shape)

    def row_blocks(
        self, data: TensorRef, dtype: str, shape: tuple[int, int], elements: int
    ) -> Iterator[tuple[int, Array]]:
        """Yield a matrix in blocks of whole rows of about `elements`, with the number of the first row.

        A block is not to be written to, and good until the next is asked for.

        Raises
        ------
        CorruptionError
            If dtype, shape and segments do not agree.
        """
        size, (rows, columns) = self._check_size(data, dtype, shape), shape
        if not size:
            return
        width = columns * array_dtype(dtype).itemsize
        height = min(rows, max(1, elements // columns))
        border: list[Array] = []  # of the row that goes over the border of pieces
        missing = row = 0
        for piece in self.pieces(data):
            content = np.frombuffer(piece, dtype=np.uint8)
            if missing:
                border.append(content[:missing])
                missing, content = missing - len(border[-1]), content[len(border[-1]) :]
                if missing:
                    continue
                yield row, np.concatenate(border).view(array_dtype(dtype)).reshape(1, columns)
                row += 1
            full_rows = content[: len(content) // width * width]
            border = [content[len(full_rows) :]]
            missing = -len(border[0]) % width
            matrix = full_rows.view(array_dtype(dtype)).reshape(-1, columns)
            for start in range(0, len(matrix), height):
                yield row + start, matrix[start : start + height]
            row += len(matrix)


class MatrixRows:
    """Reads rows of a raw matrix in any order; of the matrix one segment is kept, for whoever asks for what follows.

    Parameters
    ----------
    stored : SegmentedObject
    numbers : range
        Of its segments.
    dtype : dtype
    shape : tuple of int
        ``(m, n)``.
    """

    def __init__(self, stored: SegmentedObject, numbers: range, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
        self._stored, self._numbers, self._dtype, self.shape = stored, numbers, dtype, shape
        lengths = (stored.segments[number].raw_length for number in numbers)
        self._edges = list(accumulate(lengths, initial=0))
        self._last: tuple[int, bytes] = (-1, b"")

    def __call__(self, start: int, stop: int) -> Array:
        """Return rows ``start:stop`` in their own dtype; not to be written to."""
        rows, columns = self.shape
        width = columns * self._dtype.itemsize
        first, last = min(start, rows) * width, min(stop, rows) * width
        parts = []
        for index in range(bisect_right(self._edges, first) - 1, len(self._numbers)):
            begin = self._edges[index]
            if begin >= last:
                break
            parts.append(memoryview(self._piece(index))[max(0, first - begin) : last - begin])
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(content, self._dtype).reshape(-1, columns) if width else np.empty((stop - start, 0))

    def _piece(self, index: int) -> bytes:
        if self._last[0] != index:
            number = self._numbers[index]
            segment = self._stored.segments[number]
            self._last = index, entropy.decode(segment.stage, self._stored.read(number), segment.raw_length)
        return self._last[1]
