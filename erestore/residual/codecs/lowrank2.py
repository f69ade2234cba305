"""``lowrank2``: integer factors whose products are summed exactly, stored as runs of codes.

Value, groups and their proof are those of :mod:`erestore.residual.codecs.lowrank`; multipliers ``c_k = a_k * 2**s_k`` have a
mantissa of one byte, and the bands are columns 0-3, 4-15, 16-63, 64-255, ... A part holds one byte, the bytes of a code (2
or 4), ``a`` and ``s`` (uint8 each), then the columns of P, then those of Q. A column is a run.

Parameters: ``rank``, ``groups`` as ``[[components, exponent], ...]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from erestore.errors import CorruptionError
from erestore.residual.codecs.abc import Codec, EncodedPart, EncodedSection, Parameters
from erestore.residual.codecs.lowrank import (
    SHIFT_LIMIT,
    Codes,
    LowRankSection,
    count_bands,
    cut_groups,
    largest_codes,
    leading_groups,
    read_parameters,
)
from erestore.residual.quantisation import round_codes
from erestore.residual.runs import Group
from erestore.residual.spectrum import squared_norm

MULTIPLIER_BITS = 6
"""Of a mantissa when encoding: the other side is fitted to the rounded multiplier, so that only its step varies a little."""
_FIRST_BAND = 4
_BLOCK = 1 << 22
"""Elements of the residual that are projected at a time."""
_WIDTHS: dict[int, np.dtype[Any]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}


def bands(rank: int) -> Iterator[tuple[int, int]]:
    """Yield the column range of every band: 0-3, 4-15, 16-63, ... cut at `rank`."""
    start, stop = 0, _FIRST_BAND
    while start < rank:
        yield start, min(stop, rank)
        start, stop = stop, 4 * stop


def quantise(delta: torch.Tensor, basis: torch.Tensor, singular_values: torch.Tensor, side: str, step: float) -> Codes:
    """Quantise ``U S`` and ``V S`` uniformly with one step (reverse water-filling over components).

    The short side is quantised first; the long side is then fitted to it (least squares), so that it makes up for what
    rounding did to the short side and to the multipliers.

    Parameters
    ----------
    delta : torch.Tensor
        ``(m, n)``, the residual.
    basis : torch.Tensor
        Singular vectors of the short side as columns, largest singular value first.
    singular_values : torch.Tensor
        ``(r,)``, positive, for the leading `r` columns of `basis`.
    side : str
        ``right`` if `basis` spans rows (``V``), ``left`` if it spans columns (``U``).
    step : float

    Returns
    -------
    Codes
        Components whose codes all vanish on one side are dropped.
    """
    rank = len(singular_values)
    sigma = singular_values.to(device=delta.device, dtype=torch.float64)
    # Float32 products lose about 1e-6 of sigma_1, which matters only against a step of that size.
    dtype = torch.float64 if rank and step < 1e-4 * float(sigma[0]) else torch.float32
    short = round_codes((basis[:, :rank].to(torch.float64) * (sigma / step)).T.to(dtype)).T
    alive = largest_codes(short) > 0
    short, sigma = short[:, alive.to(short.device)], sigma.cpu()[alive]
    mantissas, exponents = _multipliers([step * step / float(value) for value in sigma])
    weights = torch.tensor([math.ldexp(a, e) for a, e in zip(mantissas, exponents, strict=True)], dtype=torch.float64)
    tall = delta if side == "right" else delta.T
    long = round_codes(_fit(tall, short.to(torch.float64) * weights.to(short.device), dtype).T).T
    used = largest_codes(long) > 0
    long, short = long[:, used.to(long.device)], short[:, used.to(short.device)]
    kept = used.nonzero().flatten().tolist()
    bounds = [int(a) * int(b) for a, b in zip(largest_codes(long), largest_codes(short), strict=True)]
    groups, shifts = cut_groups([mantissas[k] for k in kept], [exponents[k] for k in kept], bounds)
    left, right = (long, short) if side == "right" else (short, long)
    integers = [torch.tensor(values, dtype=torch.int64) for values in ([mantissas[k] for k in kept], shifts)]
    return Codes(left, right, integers[0], integers[1], groups)


def prefix_errors(codes: Codes, rest: torch.Tensor) -> dict[int, float]:
    """Return, by band, the squared error where that band and those after it are missing.

    Parameters
    ----------
    codes : Codes
    rest : torch.Tensor
        ``(m, n)``: what all bands together leave of the residual.
    """
    left, right = (side.to(rest.dtype) for side in codes.sides())
    inner = (left * (rest @ right)).sum(dim=0, dtype=torch.float64)
    gram = ((left.T @ left) * (right.T @ right)).to(torch.float64)
    whole = squared_norm(rest)
    return {
        band: whole + float(2 * inner[start:].sum() + gram[start:, start:].sum())
        for band, (start, _) in enumerate(bands(codes.rank))
    }


def _multipliers(weights: Sequence[float]) -> tuple[list[int], list[int]]:
    """Return mantissas and exponents of the nearest multipliers."""
    pairs = [math.frexp(weight) for weight in weights]
    rounded = [min(round(math.ldexp(fraction, MULTIPLIER_BITS)), (1 << MULTIPLIER_BITS) - 1) for fraction, _ in pairs]
    return rounded, [exponent - MULTIPLIER_BITS for _, exponent in pairs]


def _fit(tall: torch.Tensor, short: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return ``X`` that minimises ``|tall - X short^T|``, ``(rows, r)``, with products in `dtype`."""
    if not short.shape[1]:
        return torch.zeros((tall.shape[0], 0), dtype=dtype, device=tall.device)
    scale = torch.linalg.vector_norm(short, dim=0)
    unit = short / scale
    gram = unit.T @ unit
    gram.diagonal().add_(1e-10)
    solved = torch.cholesky_solve(unit.T, torch.linalg.cholesky(gram)).T.div_(scale).to(dtype)
    height = max(1, _BLOCK // max(1, tall.shape[1]))
    return torch.cat([rows.to(dtype) @ solved for rows in torch.split(tall, height)])


def encode(codes: Codes) -> EncodedSection:
    """Write integer factors as a section."""
    parts = []
    for band, (start, stop) in enumerate(bands(codes.rank)):
        sides = [side[:, start:stop].T.contiguous().cpu() for side in (codes.left, codes.right)]
        width = max(2 if side.dtype in (torch.int8, torch.int16) else 4 for side in sides)
        head = torch.stack([codes.mantissas[start:stop], codes.shifts[start:stop]]).to(torch.uint8).numpy().tobytes()
        columns = [side.numpy().astype(_WIDTHS[width]).tobytes() for side in sides]
        layout = (Group(1, 1, 1 + len(head)), *(Group(width, len(side), side.shape[1]) for side in sides))
        parts.append(EncodedPart(band, b"".join((bytes([width]), head, *columns)), layout))
    parameters = {"rank": codes.rank, "groups": [list(group) for group in codes.groups]}
    return EncodedSection(LowRank2.name, parameters, tuple(parts))


class LowRank2(Codec):
    """See the module's docstring."""

    name = "lowrank2"
    progressive = True

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> LowRankSection:
        """Read a section; with fewer parts than bands, the section of lower rank that they hold."""
        rank, groups = read_parameters(parameters, shape)
        ranges = list(bands(rank))[: len(parts)]
        if len(parts) > len(ranges):
            raise CorruptionError("A low-rank section has more parts than bands.")
        bands_held = [_read_band(part, stop - start, shape) for part, (start, stop) in zip(parts, ranges, strict=True)]
        sides = []
        for place in range(2):
            columns = [held[place] for held in bands_held] or [np.zeros((0, shape[place]), dtype=np.int16)]
            sides.append(torch.from_numpy(np.concatenate(columns)).T)
        head = [np.concatenate([held[2][row] for held in bands_held] or [np.zeros(0, np.uint8)]) for row in range(2)]
        mantissas, shifts = (torch.from_numpy(row.astype(np.int64)) for row in head)
        if rank and parts and (int(shifts.max()) > SHIFT_LIMIT or int(mantissas.min()) < 1):
            raise CorruptionError("A low-rank multiplier is out of range.")
        held = ranges[-1][1] if ranges else 0
        return LowRankSection(shape, Codes(sides[0], sides[1], mantissas, shifts, leading_groups(groups, held)))

    @classmethod
    def leading_parts(cls, parameters: Parameters, parts: int, shape: tuple[int, int], rank: int) -> tuple[int, int]:
        """See :meth:`Codec.leading_parts`."""
        full, used = count_bands(bands(read_parameters(parameters, shape)[0]), rank)
        return min(full, parts), min(used, parts)


def _read_band(content: bytes, columns: int, shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return P^T and Q^T (columns, length), and mantissas and shifts (2, columns) of one band."""
    width = content[0] if content else 0
    if width not in _WIDTHS or len(content) != 1 + columns * (2 + width * sum(shape)):
        raise CorruptionError("A low-rank band has a wrong length.")
    head = np.frombuffer(content, np.uint8, 2 * columns, 1).reshape(2, columns)
    start = 1 + 2 * columns
    sides = []
    for length in shape:
        sides.append(np.frombuffer(content, _WIDTHS[width], columns * length, start).reshape(columns, length))
        start += width * columns * length
    return sides[0], sides[1], head
