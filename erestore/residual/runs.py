"""The entropy stage ``runs``: segments of integer codes that come in runs of like size.

A segment's raw bytes are cut into runs: bytes, or integers of two or four bytes. A run of integers belongs to a class, and
all integers of a class are one chunk (:mod:`erestore.residual.pco`) with a table of its own. The writer is free to choose
classes; runs of about the same magnitude belong together, since that is what their distributions depend on. A run of zeros
belongs to class 0 and takes no bytes beyond that.

Stored: uint32 raw length of the directory, uint32 stored length, the directory as a zstandard frame, then the chunks. The
directory: uint32 number of groups, uint32 number of chunks; for every group uint8 width, uint32 runs, uint32 elements a
run; for every chunk uint8 width, uint32 stored length; for every run one uint8, the number of its chunk, from 1. Runs of
bytes have no class: all together they are the last chunk, a zstandard frame, of width 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from erestore import compression
from erestore.errors import CorruptionError
from erestore.residual import pco
from erestore.residual.code_tables import clusters

_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}
_HEAD = struct.Struct("<II")
_GROUP = np.dtype([("width", "u1"), ("runs", "<u4"), ("length", "<u4")])
_CHUNK = np.dtype([("width", "u1"), ("stored", "<u4")])
_LEVEL = 19
"""zstandard level of directories and heads, which are small."""
CLASSES = 255
_CHUNKS = CLASSES + 1
GROUPS = 1 << 16
"""Most groups in a segment."""


class RunGroup(NamedTuple):
    """Runs that follow each other in a segment.

    Attributes
    ----------
    width : int
        Bytes an element: 1 for bytes as they are, 2 or 4 for little-endian signed integers.
    runs, length : int
        Number of runs, and elements of each.
    """

    width: int
    runs: int
    length: int

    @property
    def size(self) -> int:
        """Bytes of all its runs."""
        return self.width * self.runs * self.length


def encode(content: bytes, layout: Sequence[RunGroup]) -> bytes:
    """Return the stored form of a segment whose bytes `layout` describes from first to last."""
    groups = [group for group in layout if group.size]
    pieces = list(_pieces(content, groups))
    numbers: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)] * len(groups)
    chunks: list[tuple[int, bytes]] = []
    for width, dtype in _TYPES.items():
        indices = [index for index, group in enumerate(groups) if group.width == width]
        matrices = [pieces[index].view(dtype).reshape(groups[index].runs, groups[index].length) for index in indices]
        for index, levels in zip(indices, clusters(matrices), strict=True):
            numbers[index] = np.where(levels, levels + len(chunks), 0).astype(np.uint8)
        highest = max((int(numbers[index].max()) for index in indices), default=0)
        for number in range(len(chunks) + 1, highest + 1):
            members = [m[numbers[p] == number].reshape(-1) for p, m in zip(indices, matrices, strict=True)]
            chunks.append((width, pco.compress(np.concatenate(members))))
    plain = b"".join(piece.tobytes() for piece, group in zip(pieces, groups, strict=True) if group.width == 1)
    if plain:
        chunks.append((1, compression.compress(plain, _LEVEL)))
    directory = b"".join(
        (
            _HEAD.pack(len(groups), len(chunks)),
            np.array([tuple(group) for group in groups], dtype=_GROUP).tobytes(),
            np.array([(width, len(stored)) for width, stored in chunks], dtype=_CHUNK).tobytes(),
            *(levels.tobytes() for levels in numbers),
        )
    )
    packed = compression.compress(directory, _LEVEL)
    return b"".join((_HEAD.pack(len(directory), len(packed)), packed, *(stored for _, stored in chunks)))


def _pieces(content: bytes, groups: Sequence[RunGroup]) -> Iterator[NDArray[np.uint8]]:
    """Cut a segment's bytes at its groups."""
    position, data = 0, np.frombuffer(content, dtype=np.uint8)
    for group in groups:
        yield data[position : position + group.size]
        position += group.size
    assert position == len(content)


def decode(stored: bytes, size: int) -> bytes:
    """Undo :func:`encode`; `size` is the recorded length of the content.

    Raises
    ------
    CorruptionError
        If the stored form is inconsistent or does not hold exactly `size` bytes.
    """
    groups, chunks, classes, position = _read_directory(stored, size)
    result = np.zeros(size, dtype=np.uint8)
    streams: list[_Stream] = []
    counts = _counts(groups, classes, len(chunks))
    for number, (width, length) in enumerate(chunks, 1):
        part = memoryview(stored)[position : position + length]
        position += length
        streams.append(_Stream(_read_chunk(bytes(part), width, counts[number])))
    if position != len(stored):
        raise CorruptionError("A segment of runs has a wrong length.")
    start = run = 0
    for group in groups:
        target = result[start : start + group.size]
        start += group.size
        if group.width == 1:
            target[:] = streams[-1].take(group.size)
            continue
        matrix = target.view(_TYPES[group.width]).reshape(group.runs, group.length)
        levels = classes[run : run + group.runs]
        run += group.runs
        for number in np.unique(levels):
            if number:
                mask = levels == number
                matrix[mask] = streams[number - 1].take(int(mask.sum()) * group.length).reshape(-1, group.length)
    return result.tobytes()


class _Stream:
    """Elements of one chunk, taken from the front."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values
        self._position = 0

    def take(self, count: int) -> NDArray[Any]:
        """Return the next `count` elements, which the caller has counted."""
        self._position += count
        return self._values[self._position - count : self._position]


def _read_directory(stored: bytes, size: int) -> tuple[list[RunGroup], list[tuple[int, int]], NDArray[np.uint8], int]:
    """Return groups, chunks as width and stored length, classes of the runs of integers, and where chunks begin."""
    if len(stored) < _HEAD.size:
        raise CorruptionError("A segment of runs is truncated.")
    raw, packed = _HEAD.unpack_from(stored)
    # A run that has a class takes at least two bytes of the content.
    if raw > _HEAD.size + GROUPS * _GROUP.itemsize + _CHUNKS * _CHUNK.itemsize + size // 2:
        raise CorruptionError("A segment of runs declares too long a directory.")
    directory = compression.decompress(stored[_HEAD.size : _HEAD.size + packed], raw)
    if raw < _HEAD.size:
        raise CorruptionError("A directory of runs is truncated.")
    count, chunk_count = _HEAD.unpack_from(directory)
    position = _HEAD.size + count * _GROUP.itemsize
    if count > GROUPS or chunk_count > _CHUNKS or position + chunk_count * _CHUNK.itemsize > raw:
        raise CorruptionError("A directory of runs is truncated, or has too many groups or chunks.")
    groups = [RunGroup(*map(int, row)) for row in np.frombuffer(directory, _GROUP, count, _HEAD.size)]
    chunks = [(int(row[0]), int(row[1])) for row in np.frombuffer(directory, _CHUNK, chunk_count, position)]
    position += chunk_count * _CHUNK.itemsize
    classes = np.frombuffer(directory, np.uint8, offset=position)
    runs = sum(group.runs for group in groups if group.width != 1)
    if (
        any(group.width not in (1, 2, 4) or not group.size for group in groups)
        or sum(group.size for group in groups) != size
        or len(classes) != runs
    ):
        raise CorruptionError("A directory of runs does not describe its segment.")
    return groups, chunks, classes, _HEAD.size + packed


def _counts(groups: Sequence[RunGroup], classes: NDArray[np.uint8], chunks: int) -> dict[int, tuple[int, int]]:
    """Return width and number of elements of every chunk, by its number."""
    counts = dict.fromkeys(range(1, chunks + 1), (0, 0))
    run = 0
    for group in groups:
        if group.width == 1:
            chunk_numbers, members = [chunks], [group.runs]
        else:
            numbers, sizes = np.unique(classes[run : run + group.runs], return_counts=True)
            run += group.runs
            chunk_numbers, members = numbers.tolist(), sizes.tolist()
        for number, runs in zip(chunk_numbers, members, strict=True):
            if number == 0 and group.width != 1:
                continue
            width, count = counts.get(number, (-1, 0))
            if width not in (0, group.width):
                raise CorruptionError("A run belongs to a chunk that does not exist, or is of another width.")
            counts[number] = group.width, count + runs * group.length
    return counts


def _read_chunk(stored: bytes, width: int, expected: tuple[int, int]) -> NDArray[Any]:
    if expected != (width, expected[1]) or not expected[1]:
        raise CorruptionError("A chunk belongs to no run, or to runs of another width.")
    if width == 1:
        return np.frombuffer(compression.decompress(stored, expected[1]), dtype=np.uint8)
    return pco.decompress(stored, expected[1], _TYPES[width])
