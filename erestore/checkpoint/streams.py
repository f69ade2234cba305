"""Writing blocks of bytes to an unbuffered file, without a copy."""

from __future__ import annotations

from collections.abc import Iterable
from io import FileIO

from erestore.errors import CorruptionError

Block = bytes | bytearray | memoryview
"""Contiguous memory of any element type; ``memoryview(tensor.numpy())`` serves."""


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


def write_blocks(file: FileIO, name: str, blocks: Iterable[Block], size: int) -> None:
    """Write the blocks of the tensor `name`, which must come to `size` bytes.

    Raises
    ------
    CorruptionError
        If they do not; a file with another amount of data would be misread from there on.
    """
    written = sum(write_exactly(file, block) for block in blocks)
    if written != size:
        raise CorruptionError(f"The tensor '{name}' came to {written} bytes where {size} are recorded.")
