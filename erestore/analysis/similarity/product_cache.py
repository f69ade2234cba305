"""Inner products of pairs of residuals, kept between runs in one packed table per store.

A residual never changes, so neither does an inner product of two. The table is a copy that may be removed at any time; what is
damaged, or not a table, is the same as none. It is replaced as a whole: of two writers at once one's additions may be lost.

A file holds a line that says what it is, the BLAKE3-256 of the rest, the number of residuals (8 bytes, little-endian), their
oids (32 bytes each), and the lower triangle of the matrix row by row in float64, NaN where nothing is known.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from erestore.arrays import Array

_HEAD = b"erestore products 1\n"
"""Changes when what is kept is computed in another way."""
_DIGEST_BYTES = _OID_BYTES = 32
MOST = 4096
"""Residuals that a table is kept for; where there would be more, only those asked for last stay."""


class _Held(NamedTuple):
    places: dict[str, int]
    triangle: Array


@dataclass(frozen=True)
class ProductTable:
    """Where inner products are kept.

    Attributes
    ----------
    directory : Path or None
        Shared by any number of processes and stores; None to keep nothing.
    store : str
        The id of the store.
    """

    directory: Path | None = None
    store: str = ""

    def known(self, oids: Sequence[str]) -> Array:
        """Return what is known of residuals, float64 ``(K, K)``, NaN elsewhere."""
        products = np.full((len(oids), len(oids)), np.nan)
        cache = self._read()
        there = [number for number, oid in enumerate(oids) if oid in cache.places]
        places = np.array([cache.places[oids[number]] for number in there], dtype=np.int64)
        if there:
            products[np.ix_(there, there)] = cache.triangle[_position(places[:, None], places[None, :])]
        return products

    def keep(self, oids: Sequence[str], products: Array) -> None:
        """Add what is finite in `products` ``(K, K)`` to the table, as far as it can be written."""
        path = self._path()
        if path is None:
            return
        cache = self._read()
        names = list(dict.fromkeys((*cache.places, *oids)))
        if len(names) > MOST:
            names, cache = list(oids), _Held({}, np.zeros(0))
        order = {oid: index for index, oid in enumerate(names)}
        triangle = np.full(len(names) * (len(names) + 1) // 2, np.nan)
        triangle[: len(cache.triangle)] = cache.triangle  # in front, and in the same order
        places = np.array([order[oid] for oid in oids], dtype=np.int64)
        is_known = np.isfinite(products)
        triangle[_position(places[:, None], places[None, :])[is_known]] = products[is_known]
        content = len(names).to_bytes(8, "little") + bytes.fromhex("".join(names)) + triangle.astype("<f8").tobytes()
        temporary = path.with_name(f"new-{secrets.token_hex(8)}")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_HEAD + blake3(content).digest() + content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _path(self) -> Path | None:
        return self.directory / blake3(self.store.encode()).hexdigest() if self.directory else None

    def _read(self) -> _Held:
        path = self._path()
        content = b""
        with suppress(OSError):
            content = path.read_bytes() if path else b""
        start = len(_HEAD) + _DIGEST_BYTES
        body = memoryview(content)[start:]
        if not content.startswith(_HEAD) or blake3(body).digest() != content[len(_HEAD) : start]:
            return _Held({}, np.zeros(0))
        count = int.from_bytes(body[:8], "little")
        oids = bytes(body[8 : 8 + count * _OID_BYTES]).hex()
        triangle = np.frombuffer(body, "<f8", offset=8 + count * _OID_BYTES)
        width = 2 * _OID_BYTES
        return _Held({oids[width * index : width * (index + 1)]: index for index in range(count)}, triangle)


def _position(one: Array, two: Array) -> Array:
    """Return where in the triangle an unordered pair of places is."""
    row, column = np.maximum(one, two), np.minimum(one, two)
    position: Array = row * (row + 1) // 2 + column
    return position
