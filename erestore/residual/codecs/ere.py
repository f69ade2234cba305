"""``ere``: the paper's encoding, ``Δ ≈ U D Vᵀ`` with U and V in a few bits an entry; the yardstick for the others.

"Rank-wise vector quantisation", round to nearest (§4.2, after LLM.int8 and ZeroQuant), is read as: every singular
vector is quantised by itself, symmetrically, on the grid ``-q .. q`` with ``q = 2^(bits-1) - 1`` scaled to its
largest magnitude, which is stored in half precision (it lies between ``1/√length`` and 1, so half precision always
holds it). D is stored in half precision times one power of two per tensor, chosen so that ``σ₁`` is near the upper
end of its range: nothing overflows, and nothing that the spectrum resolves underflows. Decoding projects the
dequantised U and V to the nearest Stiefel matrices (§4.2, appendix B.2) and evaluates ``U D Vᵀ`` in float64. The
projection depends on the BLAS in use: not reproducible.

The one part of a section, little-endian, with r the rank and q = 2^(bits-1) - 1:

* float16 ``(r,)``: largest magnitude of each column of U, then the same of V;
* int16: exponent e; float16 ``(r,)``: ``D / 2^e``;
* U's codes plus q, column after column, ``bits`` bits each, most significant bit first, padded with zeros to whole
  bytes; then V's.

A section of rank 0 has no bytes. Parameters: ``rank``, ``bits``.

Source: Ryu, Seo & Yoo, "Efficient Storage of Fine-Tuned Models via Low-Rank Approximation of Weight Residuals" (ERE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erestore.arrays import Array, as_array
from erestore.errors import CorruptionError
from erestore.residual.codecs.abc import ALL_ROWS, Codec, EncodedPart, EncodedSection, Parameters, Section
from erestore.residual.spectrum import Decomposition, decompose
from erestore.residual.stiefel import project_stiefel

BITS = range(2, 9)
"""Bits a code that are supported."""

Half = NDArray[np.float16]

_HALF_EXPONENT = 15
"""Half precision holds everything below ``2^16``; σ₁ is put between ``2^14`` and ``2^15``."""
_CODES_AT_ONCE = 1 << 20
"""Codes packed at a time; a multiple of 8, so that each batch ends on a byte."""


@dataclass(frozen=True, eq=False)
class EreCodes:
    """Quantised singular vectors and values of one ``m × n`` matrix.

    Attributes
    ----------
    u_codes, v_codes : Tensor, int8, shapes (m, r) and (n, r)
        In ``-q .. q``.
    u_scales, v_scales : ndarray, float16, (r,)
        Largest magnitude of each column, which the code ``q`` stands for.
    d : ndarray, float16, (r,)
        Singular values divided by ``2^exponent``.
    exponent : int
    bits : int
    """

    u_codes: Tensor
    v_codes: Tensor
    u_scales: Half
    v_scales: Half
    d: Half
    exponent: int
    bits: int

    @property
    def rank(self) -> int:
        """Number of components."""
        return len(self.d)


def quantise_columns(x: Tensor, bits: int) -> tuple[Tensor, Half]:
    """Quantise each column symmetrically, round to nearest, ties to even.

    Parameters
    ----------
    x : Tensor, shape (m, r), magnitudes in the range of half precision
    bits : int

    Returns
    -------
    codes : Tensor, int8, (m, r)
    scales : ndarray, float16, (r,)
        Largest magnitudes, rounded to half precision before they are used.
    """
    top = (1 << (bits - 1)) - 1
    columns = x.double()
    peaks = columns.abs().amax(dim=0) if len(columns) else columns.new_zeros(columns.shape[1])
    # numpy rounds float64 to half precision once; torch rounds twice, by way of float32.
    scales = peaks.cpu().numpy().astype(np.float16)
    steps = torch.from_numpy(scales.astype(np.float64)).to(columns.device) / top
    codes = torch.where(steps > 0, columns / steps, 0).round().clamp(-top, top)
    return codes.to(torch.int8), scales


def dequantise(codes: Tensor, scales: Half, bits: int) -> Tensor:
    """Undo :func:`quantise_columns`: float64 ``(m, r)``."""
    top = (1 << (bits - 1)) - 1
    return codes.double() * (torch.from_numpy(scales.astype(np.float64)).to(codes.device) / top)


def encode(delta: Tensor, rank: int, bits: int = 4, decomposition: Decomposition | None = None) -> EreCodes:
    """Quantise the best approximation of a matrix.

    Parameters
    ----------
    delta : Tensor, shape (m, n), finite
    rank : int
        Clamped to the numerical rank: components with ``σ = 0`` are not stored.
    bits : int
        Bits an entry of U and V, 2 to 8.
    decomposition : Decomposition, optional
        Of `delta`, where it is known already.
    """
    assert bits in BITS
    left, values, right = (decomposition or decompose(delta)).vectors(rank)
    u_codes, u_scales = quantise_columns(left, bits)
    v_codes, v_scales = quantise_columns(right, bits)
    values = values.double().cpu()
    exponent = math.frexp(float(values.max()))[1] - _HALF_EXPONENT if len(values) else 0
    d = np.ldexp(values.numpy(), -exponent).astype(np.float16)
    return EreCodes(u_codes.cpu(), v_codes.cpu(), u_scales, v_scales, d, exponent, bits)


def decode(codes: EreCodes, *, project: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Return float64 ``U (m, r)``, ``D (r,)`` and ``V (n, r)``, with U and V projected to orthonormal columns.

    Parameters
    ----------
    codes : EreCodes
    project : bool
        False leaves U and V as they were dequantised: what the projection is worth (appendix B.2) is measured against that.
    """
    left = dequantise(codes.u_codes, codes.u_scales, codes.bits)
    right = dequantise(codes.v_codes, codes.v_scales, codes.bits)
    if project:
        left, right = project_stiefel(left), project_stiefel(right)
    return left, torch.from_numpy(np.ldexp(codes.d.astype(np.float64), codes.exponent)), right


def encode_section(
    delta: Tensor, rank: int, bits: int = 4, decomposition: Decomposition | None = None
) -> EncodedSection:
    """Encode a matrix as a section of one part; see :func:`encode`."""
    codes = encode(delta, rank, bits, decomposition)
    parameters = {"rank": codes.rank, "bits": bits}
    return EncodedSection(Ere.name, parameters, (EncodedPart(0, to_bytes(codes)),))


def size(shape: tuple[int, int], rank: int, bits: int) -> int:
    """Return the bytes that an ``m × n`` matrix takes: codes, scales and D."""
    m, n = shape
    return 2 + 6 * rank + (m * rank * bits + 7) // 8 + (n * rank * bits + 7) // 8 if rank else 0


def to_bytes(codes: EreCodes) -> bytes:
    """Write codes in the form that the module's docstring gives."""
    if not codes.rank:
        return b""
    head = [half.astype("<f2").tobytes() for half in (codes.u_scales, codes.v_scales)]
    singular = codes.exponent.to_bytes(2, "little", signed=True) + codes.d.astype("<f2").tobytes()
    return b"".join([*head, singular, _pack(codes.u_codes, codes.bits), _pack(codes.v_codes, codes.bits)])


def from_bytes(content: bytes, shape: tuple[int, int], rank: int, bits: int) -> EreCodes:
    """Undo :func:`to_bytes`.

    Raises
    ------
    CorruptionError
        If the length does not fit, or a number is none that an encoder writes.
    """
    if bits not in BITS or not 0 <= rank <= min(shape) or len(content) != size(shape, rank, bits):
        raise CorruptionError(
            f"{len(content)} bytes are not an ere section of rank {rank} for {shape[0]} x {shape[1]}."
        )
    m, n = shape
    if not rank:
        empty = np.zeros(0, np.float16)
        sides = [torch.zeros(length, 0, dtype=torch.int8) for length in shape]
        return EreCodes(sides[0], sides[1], empty, empty, empty, 0, bits)
    halves = np.frombuffer(content, "<f2", 2 * rank)
    d = np.frombuffer(content, "<f2", rank, 4 * rank + 2)
    exponent = int.from_bytes(content[4 * rank : 4 * rank + 2], "little", signed=True)
    if not (np.isfinite(halves).all() and np.isfinite(d).all() and math.isfinite(_largest(d, exponent))):
        raise CorruptionError("An ere section holds a number that is not finite.")
    start = 2 + 6 * rank
    middle = start + (m * rank * bits + 7) // 8
    u_codes = _unpack(content[start:middle], m, rank, bits)
    v_codes = _unpack(content[middle:], n, rank, bits)
    return EreCodes(u_codes, v_codes, halves[:rank], halves[rank:], d, exponent, bits)


def _largest(d: Half, exponent: int) -> float:
    with np.errstate(over="ignore"):
        return float(np.ldexp(np.abs(d).max().astype(np.float64), exponent))


def _pack(codes: Tensor, bits: int) -> bytes:
    """Pack codes column by column."""
    offset = (codes.T.contiguous().numpy().reshape(-1) + ((1 << (bits - 1)) - 1)).astype(np.uint8)
    packed = []
    for start in range(0, len(offset), _CODES_AT_ONCE):
        batch = np.unpackbits(offset[start : start + _CODES_AT_ONCE, None], axis=1)[:, 8 - bits :]
        packed.append(np.packbits(batch.reshape(-1)).tobytes())
    return b"".join(packed)


def _unpack(content: bytes, length: int, rank: int, bits: int) -> Tensor:
    """Undo :func:`_pack`: int8 ``(length, rank)``."""
    stored, number, top = np.frombuffer(content, np.uint8), length * rank, (1 << (bits - 1)) - 1
    offset = np.empty(number, np.uint8)
    per_batch = _CODES_AT_ONCE * bits // 8
    for batch, start in enumerate(range(0, number, _CODES_AT_ONCE)):
        stop = min(start + _CODES_AT_ONCE, number)
        spread = np.unpackbits(stored[batch * per_batch : (batch + 1) * per_batch])
        wide = np.zeros((stop - start, 8), np.uint8)
        wide[:, 8 - bits :] = spread[: (stop - start) * bits].reshape(-1, bits)
        offset[start:stop] = np.packbits(wide, axis=1)[:, 0]
        if spread[(stop - start) * bits :].any():
            raise CorruptionError("An ere section's padding is not zero.")
    if number and int(offset.max()) > 2 * top:
        raise CorruptionError("An ere section holds a code outside its grid.")
    return torch.from_numpy(offset.astype(np.int16) - top).to(torch.int8).view(rank, length).T


@dataclass(frozen=True, eq=False)
class EreSection(Section):
    """A decoded section.

    Attributes
    ----------
    shape : tuple of int
    codes : EreCodes
    rank : int or None
        How many of the components count; all by default.
    """

    shape: tuple[int, int]
    codes: EreCodes

    rank: int | None = None

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        left, values, right = decode(self.codes)
        return (left * values)[:, : self.rank], right[:, : self.rank]

    def rows(self, start: int, stop: int, base: Array) -> Array:  # noqa: ARG002
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        left, right = self._factors
        return as_array(left[start:stop] @ right.T)

    @property
    def components(self) -> int:
        """How many components count."""
        return self.codes.rank if self.rank is None else min(self.rank, self.codes.rank)

    def factors(self, rows: slice = ALL_ROWS) -> tuple[Array, Array]:
        """Return float64 ``U D`` and ``V``; see :meth:`Section.factors`."""
        left, right = self._factors
        return as_array(left[rows]), as_array(right)

    def leading(self, rank: int) -> EreSection:
        """Return the section of the first components; see :meth:`Section.leading`."""
        return replace(self, rank=rank)


class Ere(Codec):
    """See the module's docstring."""

    name = "ere"
    reproducible = False

    @classmethod
    def decode(cls, parameters: Parameters, parts: Sequence[bytes], shape: tuple[int, int]) -> EreSection:
        """Read a section; see :meth:`Codec.decode`."""
        rank, bits = parameters.get("rank"), parameters.get("bits")
        if set(parameters) != {"rank", "bits"} or type(rank) is not int or type(bits) is not int or len(parts) != 1:
            raise CorruptionError("An ere section's parameters are malformed.")
        return EreSection(shape, from_bytes(parts[0], shape, rank, bits))

    @classmethod
    def leading_parts(
        cls,
        parameters: Parameters,
        parts: int,
        shape: tuple[int, int],  # noqa: ARG003 - the parameters decide
        rank: int,
    ) -> tuple[int, int]:
        """See :meth:`Codec.leading_parts`."""
        full_rank = parameters.get("rank")
        return (parts if type(full_rank) is int and full_rank <= rank else 0), parts
