"""The encoders of codes that erestore first had, codecs ``lowrank`` and ``vector``: what they wrote must be read for ever."""

from __future__ import annotations

from itertools import pairwise

import torch

from erestore.residual import dyadic
from erestore.residual.codecs.abc import EncodedPart, EncodedSection
from erestore.residual.codecs.lowrank import Codes, LowRank, bands, largest_codes
from erestore.residual.codecs.vector import CHUNK, CODE_LIMIT, STEP_BITS, Vector
from erestore.residual.packing import WIDTHS


def width_of(largest: torch.Tensor) -> torch.Tensor:
    """Return the smallest width that holds codes of absolute value up to `largest`, elementwise."""
    widths = torch.zeros_like(largest)
    for narrow, wide in pairwise(WIDTHS):
        widths = torch.where(largest > (2 ** (narrow - 1) - 1 if narrow else 0), wide, widths)
    return widths


def pack(codes: torch.Tensor, width: int) -> bytes:
    """Pack integer codes ``(columns, length)`` of absolute values below ``2 ** (width - 1)``, each column by itself."""
    columns, length = codes.shape
    if width == 0 or codes.numel() == 0:
        return b""
    offset = codes.to(torch.int64) + (1 << (width - 1))
    if width > 8:
        planes = torch.stack([(offset >> shift) & 0xFF for shift in range(0, width, 8)], dim=1)
        return planes.to(torch.uint8).numpy().tobytes()
    each = 8 // width
    padded = torch.nn.functional.pad(offset, (0, -length % each)).view(columns, -1, each)
    return (padded << (width * torch.arange(each))).sum(dim=2).to(torch.uint8).numpy().tobytes()


def encode_lowrank(codes: Codes) -> EncodedSection:
    """Write integer factors as a section ``lowrank``."""
    parts = []
    for band, (start, stop) in enumerate(bands(codes.rank)):
        mantissas, shifts = codes.mantissas[start:stop], codes.shifts[start:stop]
        sides = [side[:, start:stop].T.contiguous() for side in (codes.left, codes.right)]
        widths = [width_of(largest_codes(side.T)) for side in sides]
        indices = [torch.tensor([WIDTHS.index(int(w)) for w in width]) for width in widths]
        head = torch.stack([mantissas & 0xFF, mantissas >> 8, shifts, indices[0] | (indices[1] << 4)])
        content = [head.to(torch.uint8).numpy().tobytes()]
        for side, width in zip(sides, widths, strict=True):
            content += [pack(side[width == w], w) for w in WIDTHS]
        parts.append(EncodedPart(band, b"".join(content)))
    parameters = {"rank": codes.rank, "groups": [list(group) for group in codes.groups]}
    return EncodedSection(LowRank.name, parameters, tuple(parts))


def encode_vector(values: torch.Tensor, step: float, chunk: int = CHUNK) -> EncodedSection:
    """Quantise values of any shape with about `step`, as a section ``vector``."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    size = dyadic.nearest(max(step, largest / (CODE_LIMIT - 32)), STEP_BITS)
    parts = []
    for piece in torch.split(values.reshape(-1), chunk) if values.numel() else ():
        codes = torch.round(piece.to(torch.float64) / size.value).to(torch.int32)
        width = int(width_of(codes.abs().amax()))
        parts.append(EncodedPart(0, bytes([WIDTHS.index(width)]) + pack(codes.unsqueeze(0), width)))
    return EncodedSection(Vector.name, {"step": list(size)}, tuple(parts))
