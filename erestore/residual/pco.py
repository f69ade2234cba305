"""Entropy coding of integers by pcodec: one chunk is a table of bins and the numbers, ANS-coded against it.

A chunk is what pcodec calls its wrapped format: the two bytes of a header, the metadata of one chunk, one page. How many
numbers it holds and of which type is known from outside. Tables are of integers, so decoding is the same everywhere; a
chunk comes within about one per cent of the numbers' zero-order entropy, plus some 20 to 60 bytes.

Of what pcodec's format has, only the plainest is accepted: version 4 of the format, its mode "classic", no deltas. All that
could make a reader allocate more than the numbers take, or that a later version may add, is outside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, wrapped

from erestore.errors import CorruptionError

LEVEL = 8
"""pcodec's level: how finely the bins are cut."""
DTYPES = {"i2": "i16", "i4": "i32", "i8": "i64", "u2": "u16", "u4": "u32", "u8": "u64"}
"""Names of integer types, numpy's and pcodec's."""
LARGEST = 1 << 24
"""Most numbers of a chunk."""
_VERSION, _HEADER = 4, 2
"""Of pcodec's format: the first byte of a header, and the length of one; the second byte counts additions to the version."""


def compress(values: NDArray[Any]) -> bytes:
    """Return one chunk.

    Parameters
    ----------
    values : ndarray
        Flat, not empty, of a type in :data:`DTYPES`.
    """
    values = np.ascontiguousarray(values)
    config = ChunkConfig(
        compression_level=LEVEL,
        mode_spec=ModeSpec.classic(),
        delta_spec=DeltaSpec.no_op(),
        paging_spec=PagingSpec.exact_page_sizes([len(values)]),
    )
    file = wrapped.FileCompressor()
    chunk = file.chunk_compressor(values, config)
    return b"".join((file.write_header(), chunk.write_meta(), chunk.write_page(0)))


def decompress(content: bytes | memoryview, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo :func:`compress`; the caller has made sure that `count` numbers may be allocated.

    Raises
    ------
    CorruptionError
        If `content` is not exactly one chunk of `count` numbers.
    """
    content = bytes(content)
    # The byte after the header is mode and delta encoding: zero for none of either.
    if len(content) <= _HEADER or content[0] != _VERSION or content[_HEADER]:
        raise CorruptionError("An entropy-coded chunk is of an unknown kind.")
    result = np.empty(count, dtype=dtype)
    try:
        file, position = wrapped.FileDecompressor.new(content)
        chunk, length = file.chunk_decompressor(content[position:], DTYPES[result.dtype.str[1:]])
        position += length
        progress, length = chunk.read_page_into(content[position:], count, result)
    except RuntimeError as error:
        raise CorruptionError(f"An entropy-coded chunk is damaged: {error}.") from error
    if progress.n_processed != count or not progress.finished or position + length != len(content):
        raise CorruptionError(f"An entropy-coded chunk does not hold {count} numbers.")
    return result
