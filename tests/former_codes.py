"""The encoders of codes that erestore first had, codecs ``lowrank`` and ``vector``: what they wrote must be read for ever."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from erestore.arrays import Array
from erestore.residual import dyadic
from erestore.residual.code_packing import WIDTHS
from erestore.residual.codecs.abc import EncodedPart, EncodedSection
from erestore.residual.codecs.lowrank import Codes, LowRank, bands, largest_codes
from erestore.residual.codecs.vector import CHUNK, CODE_LIMIT, STEP_BITS, Vector


def width_of(largest: ArrayLike) -> Array:
    """Return the smallest width that holds codes of absolute value up to `largest`, elementwise."""
    held = np.asarray(largest)
    widths = np.zeros(held.shape, dtype=np.int64)
    for narrow, wide in pairwise(WIDTHS):
        widths[held > (2 ** (narrow - 1) - 1 if narrow else 0)] = wide
    return widths


def pack(codes: ArrayLike, width: int) -> bytes:
    """Pack integer codes ``(columns, length)`` of absolute values below ``2 ** (width - 1)``, each column by itself."""
    held = np.asarray(codes).astype(np.int64)
    columns, length = held.shape
    if width == 0 or held.size == 0:
        return b""
    offset = held + (1 << (width - 1))
    if width > 8:
        planes = np.stack([(offset >> shift) & 0xFF for shift in range(0, width, 8)], axis=1)
        return planes.astype(np.uint8).tobytes()
    each = 8 // width
    padded = np.pad(offset, ((0, 0), (0, -length % each))).reshape(columns, -1, each)
    return (padded << (width * np.arange(each))).sum(axis=2).astype(np.uint8).tobytes()


def encode_lowrank(codes: Codes) -> EncodedSection:
    """Write integer factors as a section ``lowrank``."""
    parts = []
    for band, (start, stop) in enumerate(bands(codes.rank)):
        mantissas, shifts = codes.mantissas[start:stop], codes.shifts[start:stop]
        sides = [side[:, start:stop].T for side in (codes.left, codes.right)]
        widths = [width_of(largest_codes(side.T)) for side in sides]
        indices = [np.array([WIDTHS.index(w) for w in width.tolist()], dtype=np.int64) for width in widths]
        head = np.stack([mantissas & 0xFF, mantissas >> 8, shifts, indices[0] | (indices[1] << 4)])
        content = [head.astype(np.uint8).tobytes()]
        for side, width in zip(sides, widths, strict=True):
            content += [pack(side[width == w], w) for w in WIDTHS]
        parts.append(EncodedPart(band, b"".join(content)))
    parameters = {"rank": codes.rank, "groups": [list(group) for group in codes.groups]}
    return EncodedSection(LowRank.name, parameters, tuple(parts))


def encode_vector(values: ArrayLike, step: float, chunk: int = CHUNK) -> EncodedSection:
    """Quantise values of any shape with about `step`, as a section ``vector``."""
    flat = np.asarray(values).reshape(-1).astype(np.float64)
    largest = float(abs(flat).max()) if flat.size else 0.0
    size = dyadic.nearest(max(step, largest / (CODE_LIMIT - 32)), STEP_BITS)
    parts = []
    for start in range(0, flat.size, chunk):
        codes = np.rint(flat[start : start + chunk] / size.value).astype(np.int32)
        width = int(width_of(abs(codes).max()))
        parts.append(EncodedPart(0, bytes([WIDTHS.index(width)]) + pack(codes[None], width)))
    return EncodedSection(Vector.name, {"step": list(size)}, tuple(parts))
