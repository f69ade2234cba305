"""What erestore is compared with: other ways to store a residual, as pure functions of two state dicts.

Each takes a :class:`Residual` and returns an :class:`Encoded`: what a reader would have, rounded to the original's dtype,
and how many bytes that takes. No function charges for names, shapes, new tensors or any container.

A yardstick gets its best settings: factors that would be larger than the values themselves give way to the values, numbers
in half precision are scaled by a power of two per tensor, and what did not change costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erestore.residual import allocation
from erestore.residual.codecs import ere as ere_codec
from erestore.residual.spectrum import Decomposition, as_matrix, decompose

MIN_SIDE, MIN_ELEMENTS = 4, 1024
"""Below these a tensor is no matrix: its factors cannot be smaller than its values. ``erestore commit`` has the same rule."""
HALF, RAW = 2, 4
"""Bytes of a number in half precision, and of one that is kept as it is."""
BITS = 4
"""Of the codes of ``ere`` and BITQ."""


class Residual:
    """A fine-tune minus its base, over the floating tensors that both have in one shape.

    Parameters
    ----------
    base, tuned : Mapping[str, Tensor]
        Under the same names; what only one of them has is left out.
    """

    def __init__(self, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
        shared = [
            name
            for name, own in tuned.items()
            if name in base and own.is_floating_point() and base[name].shape == own.shape
        ]
        self.base = {name: base[name] for name in shared}
        self.tuned = {name: tuned[name] for name in shared}
        deltas = {name: tuned[name].double() - base[name].double() for name in shared}
        changed = {name: delta for name, delta in deltas.items() if delta.any()}
        self.matrices = {name: as_matrix(delta) for name, delta in changed.items() if _is_matrix(delta)}
        self.vectors = {name: delta for name, delta in changed.items() if name not in self.matrices}

    @property
    def vector_bytes(self) -> int:
        """Bytes of the changed biases, norms and tiny matrices, raw."""
        return sum(RAW * delta.numel() for delta in self.vectors.values())

    @property
    def elements(self) -> int:
        """Number of values in changed tensors."""
        return sum(delta.numel() for part in (self.matrices, self.vectors) for delta in part.values())

    @cached_property
    def decompositions(self) -> dict[str, Decomposition]:
        """Spectra of the matrices."""
        return {name: decompose(delta) for name, delta in self.matrices.items()}

    @cached_property
    def squared_norm(self) -> float:
        """Squared Frobenius norm."""
        return sum(float(delta.square().sum()) for part in (self.matrices, self.vectors) for delta in part.values())

    def values(self, approximations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return base plus approximated residual, rounded to the original's dtype; the original where none is given."""
        found = dict(self.tuned)
        for name, delta in approximations.items():
            own = self.tuned[name]
            found[name] = (self.base[name].double() + delta.reshape(own.shape)).to(own.dtype)
        return found

    def relative_error(self, values: Mapping[str, Tensor]) -> float:
        """Return ``‖value - original‖² / ‖original - base‖²``."""
        lost = sum(float((values[name].double() - own.double()).square().sum()) for name, own in self.tuned.items())
        return lost / self.squared_norm


@dataclass(frozen=True)
class Encoded:
    """One way to store a residual.

    Attributes
    ----------
    method : str
    setting : int
        Rank, or 0 where there is nothing to set.
    values : dict of str to Tensor
    matrix_bytes, vector_bytes : int
        For what became codes or factors, and for what is kept raw.
    """

    method: str
    setting: int
    values: dict[str, Tensor]
    matrix_bytes: int
    vector_bytes: int


def ere(residual: Residual, rank: int, alpha: float = 0.5, *, spread: str = "ere") -> Encoded:
    """The paper's encoding at prior rank `rank`: 4-bit codes, D in half precision; column scales are not charged.

    `spread` is a key of :data:`erestore.residual.allocation.ALLOCATIONS`: ``ere`` as the paper does, ``greedy`` at its best.
    """
    names, found = list(residual.decompositions), list(residual.decompositions.values())
    spectra = [each.singular_values.numpy() for each in found]
    shapes = [(each.matrix.shape[0], each.matrix.shape[1]) for each in found]
    approximations, bits = {}, 0
    for name, each, own_rank in zip(
        names, found, allocation.ALLOCATIONS[spread](spectra, shapes, rank, alpha), strict=True
    ):
        left, values, right = ere_codec.decode(ere_codec.encode(each.matrix, own_rank, BITS, each))
        approximations[name] = (left * values) @ right.T
        bits += len(values) * (BITS * sum(each.matrix.shape) + 8 * HALF)
    method = "ere" if spread == "ere" else f"ere-{spread}"
    return Encoded(method, rank, residual.values(approximations), math.ceil(bits / 8), residual.vector_bytes)


def lowrank_fp16(residual: Residual, rank: int) -> Encoded:
    """LoRA extraction: every matrix cut to `rank` by SVD, in half precision, the singular values shared by both factors."""
    approximations, size = {}, 0
    for name, each in residual.decompositions.items():
        left, values, right = each.vectors(rank)
        factors, whole = len(values) * sum(each.matrix.shape), each.matrix.numel()
        size += HALF * min(factors, whole)
        root = values.sqrt()
        approximations[name] = half(left * root) @ half(right * root).T if factors < whole else half(each.matrix)
    return Encoded("lowrank-fp16", rank, residual.values(approximations), size, residual.vector_bytes)


def bitq(residual: Residual) -> Encoded:
    """The paper's BITQ: every value rounded to nearest in 4 bits, one scale per tensor (its largest magnitude)."""
    deltas = residual.matrices | residual.vectors
    approximations = {name: _round_to_nearest(delta, delta.abs().max()) for name, delta in deltas.items()}
    return Encoded("bitq", 0, residual.values(approximations), residual.elements * BITS // 8 + HALF * len(deltas), 0)


def bitq_rows(residual: Residual) -> Encoded:
    """BITQ with one scale per row of a matrix; everything else raw."""
    return _of_rows(residual, "bitq-rows", BITS, lambda rows: _round_to_nearest(rows, rows.abs().amax(1, keepdim=True)))


def sign(residual: Residual) -> Encoded:
    """BitDelta: the sign of every value in a matrix, times the mean magnitude; everything else raw."""
    approximations = {name: _signs(delta) * half(delta.abs().mean()) for name, delta in residual.matrices.items()}
    size = sum(delta.numel() / 8 + HALF for delta in residual.matrices.values())
    return Encoded("sign", 0, residual.values(approximations), math.ceil(size), residual.vector_bytes)


def sign_rows(residual: Residual) -> Encoded:
    """BitDelta with one scale per row of a matrix."""
    return _of_rows(residual, "sign-rows", 1, lambda rows: _signs(rows) * half(rows.abs().mean(1, keepdim=True)))


def half(numbers: Tensor) -> Tensor:
    """Round to half precision times one power of two, so that the largest magnitude is between ``2^14`` and ``2^15``."""
    peak = float(numbers.abs().max())
    shift = 15 - math.frexp(peak)[1] if peak else 0
    return (numbers * 2.0**shift).half().double() * 2.0**-shift


def _is_matrix(delta: Tensor) -> bool:
    if delta.ndim < 2 or delta.numel() < MIN_ELEMENTS:
        return False
    return min(as_matrix(delta).shape) >= MIN_SIDE


def _round_to_nearest(delta: Tensor, peaks: Tensor) -> Tensor:
    top = (1 << (BITS - 1)) - 1
    steps = half(peaks) / top
    return torch.where(steps > 0, delta / steps, 0).round().clamp(-top, top) * steps


def _signs(delta: Tensor) -> Tensor:
    return torch.where(delta < 0, -1.0, 1.0).double()


def _of_rows(residual: Residual, method: str, bits: int, approximate: Callable[[Tensor], Tensor]) -> Encoded:
    approximations = {name: approximate(delta) for name, delta in residual.matrices.items()}
    size = sum(delta.numel() * bits / 8 + HALF * len(delta) for delta in residual.matrices.values())
    return Encoded(method, 0, residual.values(approximations), math.ceil(size), residual.vector_bytes)
