"""Normal random numbers that belong to a tensor, whatever else is looked at and in whatever order.

Philox is keyed much as in :mod:`erestore.merge.masks`: by the first 16 bytes of the BLAKE3 hash of ``seed NUL tensor`` in
UTF-8, as two little-endian integers, the seed in decimal. How normal numbers are made of it is for numpy to say
(``Generator.standard_normal``): one version of it gives the same on every machine.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from erestore.arrays import Array


class NormalNoise:
    """Standard normal numbers of one tensor, in the order of its entries.

    Parameters
    ----------
    seed : int
    tensor : str
    """

    def __init__(self, seed: int, tensor: str) -> None:
        key = np.frombuffer(blake3(f"{seed}\0{tensor}".encode()).digest(length=16), "<u8")
        self._generator = np.random.Generator(np.random.Philox(key=key.astype(np.uint64)))

    def rows(self, count: int, columns: int) -> Array:
        """Return the numbers of the next rows, float32 ``(count, columns)``."""
        numbers: Array = self._generator.standard_normal((count, columns), dtype=np.float32)
        return numbers
