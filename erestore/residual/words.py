"""Entropy stages of raw numbers: words of 2, 4 or 8 bytes, less the low bits that are zero in all of them, by pcodec.

For tensors that are held whole: the exponents of weights have a skew that compressors of bytes do not see, since they cross
the border of two bytes.
"""

from __future__ import annotations

import numpy as np

from erestore.errors import CorruptionError
from erestore.residual import pco

STAGES = {"words2": 2, "words4": 4, "words8": 8}
"""Bytes of a word, by stage."""


def encode(content: bytes | memoryview, size: int) -> bytes:
    """Return content of whole words of `size` bytes, not empty, as one byte and a chunk."""
    values = np.frombuffer(content, dtype=f"<i{size}")
    union = int(np.bitwise_or.reduce(values))
    shift = (union & -union).bit_length() - 1 if union else 0
    return bytes([shift]) + pco.compress(values >> shift)


def decode(stage: str, stored: bytes, size: int) -> bytes:
    """Undo :func:`encode`; the caller has made sure that `size` bytes may be allocated.

    Raises
    ------
    CorruptionError
        If `stored` does not hold as many words as take `size` bytes.
    """
    word = STAGES[stage]
    if not stored or size % word or not size or stored[0] >= 8 * word:
        raise CorruptionError("A segment of words is damaged.")
    values = pco.decompress(memoryview(stored)[1:], size // word, np.dtype(f"<i{word}"))
    return (values << stored[0]).tobytes()
