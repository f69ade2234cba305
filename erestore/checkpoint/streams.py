"""Writing blocks of bytes to an unbuffered file, without a copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from erestore.errors import CorruptionError

_BLOCK = 1 << 20
Block = bytes | bytearray | memoryview
"""Contiguous memory of any element type; ``memoryview(tensor.numpy())`` serves."""


def file_blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's content in blocks."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def write_exactly(file: FileIO, content: Block) -> int:
    """Write all of `content`, which one call on an unbuffered file need not do; return its size in bytes."""
    view = memoryview(content)
    size = view.nbytes
    if not size:  # empty and many-dimensional views cannot be cast
        return 0
    view = view.cast("B")
    while view:
        view = view[file.write(view) :]
    return size


@dataclass(frozen=True)
class FileExtent:
    """Where a tensor's bytes go in a file."""

    name: str
    offset: int
    size: int


Work = Callable[[Callable[[FileExtent], None], Iterable[FileExtent]], Iterable[None]]
"""``map`` in its simplest form."""


def write_tensors(
    file: FileIO, places: Iterable[FileExtent], read: Callable[[str], Iterable[Block]], work: Work = map
) -> None:
    """Write tensors into one file, each at its place.

    Parameters
    ----------
    file : FileIO
    places : iterable of FileExtent
    read : Callable
        Gives a tensor's bytes by name, as blocks in order.
    work : Callable
        ``map``, or what does several at a time and gives results in order.

    Raises
    ------
    CorruptionError
        If a tensor's blocks do not come to its size; a file with another amount of data would be misread from there on.
    """

    def write(extent: FileExtent) -> None:
        _write_at(file.fileno(), extent, read(extent.name))

    results = iter(work(write, places))
    try:
        for _ in results:
            pass
    finally:  # an interrupt too must find nothing writing any more: the file is closed next
        if isinstance(results, Generator):
            results.close()


def _write_at(descriptor: int, extent: FileExtent, blocks: Iterable[Block]) -> None:
    position, stop = extent.offset, extent.offset + extent.size
    for block in blocks:
        size = memoryview(block).nbytes
        if position + size > stop:
            raise _wrong_size(extent, position - extent.offset + size)
        view = memoryview(block).cast("B") if size else memoryview(b"")  # empty many-dimensional views cannot be cast
        while view:
            count = os.pwrite(descriptor, view, position)
            position, view = position + count, view[count:]
    if position != stop:
        raise _wrong_size(extent, position - extent.offset)


def _wrong_size(extent: FileExtent, size: int) -> CorruptionError:
    return CorruptionError(f"The tensor '{extent.name}' came to {size} bytes where {extent.size} are recorded.")
