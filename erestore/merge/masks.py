"""Random masks that are the same for ever, whatever tiles they are asked for in.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 5: Philox4x64 of 10 rounds) computes the
``i``-th number from ``i`` and a key. The key is the first 16 bytes of the BLAKE3 hash of ``seed NUL label NUL tensor`` in
UTF-8, as two little-endian integers, the seed in decimal. Entry ``i`` of a tensor, row after row, has the number ``i mod 4``
of block ``1 + i div 4``, and is kept if that is below ``density * 2**64``, rounded down.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from blake3 import blake3

from erestore.arrays import Array

_BLOCK = 4
"""Numbers of 64 bits that one value of the counter gives."""


def kept(seed: int, label: str, tensor: str, density: Fraction, first: int, count: int) -> Array:
    """Return which of the entries ``first : first + count`` of a tensor are kept, each with probability `density`.

    Parameters
    ----------
    seed : int
    label : str
        Of the variant; see :class:`Operands`.
    tensor : str
    density : Fraction
    first, count : int

    Returns
    -------
    ndarray
        Bool ``(count,)``.
    """
    limit = math.floor(density * (1 << 64))
    if limit >> 64:
        return np.ones(count, bool)
    key = np.frombuffer(blake3(f"{seed}\0{label}\0{tensor}".encode()).digest(length=16), "<u8")
    # numpy counts on before it takes a block, so that the first is that of counter 1.
    generator = np.random.Philox(key=key.astype(np.uint64), counter=first // _BLOCK)
    skipped = first % _BLOCK
    numbers: Array = generator.random_raw(skipped + count)[skipped:]
    mask: Array = numbers < np.uint64(limit)
    return mask
