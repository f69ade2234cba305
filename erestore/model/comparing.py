"""How two sides differ, tensor by tensor, with the spectrum of every difference.

Variants of one base differ by ``sum (beta - alpha) * R`` over the residuals whose coefficients are not equal: shared ones
cancel and are never evaluated, and a tensor that no other residual touches is unchanged without a byte of it being read.
Everything else (exact remainders, whole tensors, other bases, checkpoints) is compared by the values that a checkout gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from erestore.arrays import Array, as_tensor
from erestore.checkpoint.dtypes import is_floating
from erestore.checkpoint.naming import fits, match_names
from erestore.model.base_spectra import BaseSpectra
from erestore.model.net import Net
from erestore.model.residuals import Residual, matrix_shape
from erestore.model.sides import Side, VariantSide
from erestore.model.targets import same_bits
from erestore.model.variant import LinearTensor, Variant, row_blocks
from erestore.records import LayoutTensor, Term, normal_terms
from erestore.residual.spectrum import singular_values, singular_values_of_product, singular_values_of_rows

Rows = Callable[[int, int], torch.Tensor]
"""Float64 rows ``start:stop`` of a matrix."""


class Pair(NamedTuple):
    """One tensor by its own name on each side, None where a side has no such tensor."""

    before: str | None
    after: str | None

    @property
    def name(self) -> str:
        """The name on the second side, if it is there."""
        return self.after or self.before or ""


class Sides(NamedTuple):
    """Norms of the rows, ``(m,)``, and of the columns, ``(n,)``, of a matrix, float64."""

    rows: torch.Tensor
    columns: torch.Tensor


@dataclass(frozen=True)
class Change:
    """How one tensor differs.

    Attributes
    ----------
    status : str
        ``unchanged``; ``changed``; ``resized`` (other rows, compared where both have them); ``retyped`` (the values agree, the
        dtypes do not); ``replaced`` (not numbers, or not finite); ``reshaped``; ``added``; ``removed``.
    computed_from : str
        ``scale`` (a multiple of the base), ``factors``, ``residuals`` (evaluated), ``values``; empty where nothing was.
    norm, before : float or None
        Norms of the difference and of the first side's value; None where there are none.
    singular_values : torch.Tensor or None
        Of the difference, float64, descending; None for vectors and where there is no difference.
    sides : Sides or None
        Norms of the rows and of the columns of the difference; None where `singular_values` is, and for a multiple of the
        base, of which no value is read.
    """

    status: str
    computed_from: str = ""
    norm: float | None = None
    before: float | None = None
    singular_values: torch.Tensor | None = None
    sides: Sides | None = None


@dataclass(frozen=True)
class Comparison:
    """Two sides and what is known about them.

    Attributes
    ----------
    a, b : Side
    spectra : BaseSpectra
    """

    a: Side
    b: Side
    spectra: BaseSpectra

    @cached_property
    def variants(self) -> tuple[Variant, Variant] | None:
        """Both variants, if they have one base."""
        if not (isinstance(self.a, VariantSide) and isinstance(self.b, VariantSide)):
            return None
        a, b = self.a.variant, self.b.variant
        return (a, b) if a.manifest.base == b.manifest.base else None

    @cached_property
    def net(self) -> tuple[tuple[float, Residual], ...]:
        """What is left of the terms of variants of one base: coefficient and residual, none of coefficient 0."""
        if self.variants is None:
            return ()
        a, b = (variant.manifest for variant in self.variants)
        left = normal_terms((*b.terms, *(Term(oid, -coefficient) for oid, coefficient in a.terms)))
        opened = {residual.oid: residual for _, residual in self.variants[0].residuals} if left else {}
        objects = self.variants[0].objects
        return tuple((float(c), opened.get(oid) or Residual.open(objects, oid)) for oid, c in left)

    def pairs(self) -> list[Pair]:
        """Match the tensors of both sides: by the base's names where they have one base, else by their own."""
        before, after = self.a.tensors, self.b.tensors
        if self.variants:
            names = {tensor.key: name for name, tensor in before.items()}
            found = {name: names[tensor.key] for name, tensor in after.items() if tensor.key in names}
        else:
            found = dict(match_names(after, before).keys)
            taken = set(found.values())
            # Equal names of different shapes are one tensor that was reshaped.
            found |= {name: name for name in after if name in before and name not in found and name not in taken}
        taken = set(found.values())
        pairs = [Pair(found.get(name), name) for name in after]
        return pairs + [Pair(name, None) for name in before if name not in taken]

    def base_spectrum(self, pair: Pair) -> torch.Tensor | None:
        """Return the singular values of the tensor in the base that a side has, the first side's if both have one."""
        for side, name in ((self.a, pair.before), (self.b, pair.after)):
            if isinstance(side, VariantSide) and name is not None:
                found = self.spectra.of(side.variant, side.tensors[name].key)
                if found is not None:
                    return found
        return None

    def change(self, pair: Pair) -> Change:
        """Compare one tensor."""
        if pair.before is None:
            return Change("added")
        if pair.after is None:
            return Change("removed")
        before, after = self.a.tensors[pair.before], self.b.tensors[pair.after]
        if before.shape == after.shape:
            shared = matrix_shape(after.shape)[0]
        elif fits(after, before) and not (self.a.is_whole(pair.before) and self.b.is_whole(pair.after)):
            shared = min(matrix_shape(after.shape)[0], matrix_shape(before.shape)[0])
        else:
            return Change("reshaped")
        found = self._from_terms(before, after, shared) or self._from_values(pair, shared)
        if found.status in ("unchanged", "changed") and before.shape != after.shape:
            return replace(found, status="resized")
        if found.status == "unchanged" and before.dtype != after.dtype:
            return Change("retyped")
        return found

    def _from_terms(self, before: LayoutTensor, after: LayoutTensor, shared: int) -> Change | None:
        """Compare by what is left of the terms; None where values beyond them count."""
        if self.variants is None:
            return None
        (a, b), key = self.variants, after.key
        if key in a.manifest.dense or key in b.manifest.dense:
            is_same = a.manifest.dense.get(key) == b.manifest.dense.get(key) and before == after
            return Change("unchanged") if is_same else None
        if key not in a.base or not (is_floating(before.dtype) and is_floating(after.dtype)):
            return None
        net = [(coefficient, residual) for coefficient, residual in self.net if key in residual.tensors]
        rows = matrix_shape(a.base[key].shape)[0]
        if shared > rows and a.manifest.rows.get(key) != b.manifest.rows.get(key):
            return None
        if _patch_of(a, key) != _patch_of(b, key) or (net and _patch_of(a, key)):
            return None
        if not net:
            return Change("unchanged")
        columns = matrix_shape(a.base[key].shape)[1]
        parts = tuple((coefficient, residual.sections(key)) for coefficient, residual in net)
        return self._from_net(Net((min(shared, rows), columns), parts), key)

    def _from_net(self, net: Net, key: str) -> Change:
        """Compare by residuals, from their factors where they are few enough."""
        assert self.variants is not None
        variant, shape = self.variants[0], net.shape
        before = self._norm_before(key, shape)
        scale = net.scale()
        spectrum = self.spectra.of(variant, key) if scale is not None and _is_all(variant, key, shape) else None
        if scale is not None and spectrum is not None:
            return _changed("scale", spectrum * abs(scale), before)
        factors = net.factors()
        if factors is not None:
            return _changed("factors", singular_values_of_product(*factors), before, _sides_of_product(*factors))
        base = _base_matrix(variant, key) if net.needs_base else None

        def rows(start: int, stop: int) -> torch.Tensor:
            return net.rows(start, stop, base)

        return _measured(rows, shape, "residuals", before)

    def _norm_before(self, key: str, shape: tuple[int, int]) -> float:
        """Return the norm of the first side's linear value, from the base's spectrum where that is all of it."""
        assert self.variants is not None
        variant = self.variants[0]
        terms = [(c, sections) for c, residual in variant.residuals if (sections := residual.sections(key))]
        if not terms and _is_all(variant, key, shape):
            spectrum = self.spectra.of(variant, key)
            if spectrum is not None:
                return float(torch.linalg.vector_norm(spectrum))
        linear = LinearTensor(_base_matrix(variant, key), tuple(terms))
        return _norm(lambda start, stop: as_tensor(linear.rows(start, stop)), shape)

    def _from_values(self, pair: Pair, shared: int) -> Change:
        """Compare what checkouts of both sides give."""
        assert pair.before is not None
        assert pair.after is not None
        before, after = self.a.tensors[pair.before], self.b.tensors[pair.after]
        one, two = self.a.stored(pair.before), self.b.stored(pair.after)
        if before.dtype == after.dtype and before.shape == after.shape and same_bits(one.reshape(-1), two.reshape(-1)):
            return Change("unchanged")
        if not (is_floating(before.dtype) and is_floating(after.dtype)):
            return Change("replaced", "values")
        shape = shared, matrix_shape(after.shape)[1]
        one, two = one.reshape(matrix_shape(before.shape)), two.reshape(matrix_shape(after.shape))

        def value(start: int, stop: int) -> torch.Tensor:
            return one[start:stop].to(torch.float64)

        def rows(start: int, stop: int) -> torch.Tensor:
            return two[start:stop].to(torch.float64) - value(start, stop)

        if not math.isfinite(_norm(rows, shape)):
            return Change("replaced", "values")
        return _measured(rows, shape, "values", _norm(value, shape))


def _patch_of(variant: Variant, key: str) -> str | None:
    """Return the exact remainder that holds a tensor, if one does."""
    return variant.manifest.patch if variant.patch and key in variant.patch.tensors else None


def _base_matrix(variant: Variant, key: str) -> Array:
    return variant.base_tensor(key).reshape(matrix_shape(variant.base[key].shape))


def _is_all(variant: Variant, key: str, shape: tuple[int, int]) -> bool:
    return matrix_shape(variant.base[key].shape) == shape


def _changed(computed_from: str, values: torch.Tensor, before: float, sides: Sides | None = None) -> Change:
    norm = float(torch.linalg.vector_norm(values))
    return Change("changed", computed_from, norm, before, values, sides) if norm else Change("unchanged", computed_from)


def _measured(rows: Rows, shape: tuple[int, int], computed_from: str, before: float) -> Change:
    norm, values, sides = _measure(rows, shape)
    if not norm:
        return Change("unchanged", computed_from, norm, before)
    return Change("changed", computed_from, norm, before, values, sides)


def _sides_of_product(left: torch.Tensor, right: torch.Tensor) -> Sides:
    """Return the norms of rows and columns of ``left @ right.T``, which is not formed."""
    rows = (left @ (right.T @ right) * left).sum(dim=1)
    columns = (right @ (left.T @ left) * right).sum(dim=1)
    return Sides(*(each.clamp_(min=0).sqrt_() for each in (rows, columns)))


def _norm(rows: Rows, shape: tuple[int, int]) -> float:
    return math.sqrt(math.fsum(float(rows(*block).square().sum()) for block in row_blocks(*shape)))


def _measure(rows: Rows, shape: tuple[int, int]) -> tuple[float, torch.Tensor | None, Sides | None]:
    """Return the norm of a finite matrix that comes in rows; unless it is a vector, its spectrum and its sides too."""
    if min(shape) < 2:
        return _norm(rows, shape), None, None
    of_rows, of_columns = (torch.zeros(length, dtype=torch.float64) for length in shape)

    def blocks() -> Iterator[torch.Tensor]:
        for start, stop in row_blocks(*shape):
            found = rows(start, stop)
            squares = found.square()
            of_rows[start:stop] = squares.sum(dim=1)
            of_columns.add_(squares.sum(dim=0))
            yield found

    if shape[0] < shape[1]:
        matrix = torch.empty(shape, dtype=torch.float64)
        for (start, stop), found in zip(row_blocks(*shape), blocks(), strict=True):
            matrix[start:stop] = found
        values = singular_values(matrix)
    else:
        values = singular_values_of_rows(blocks(), shape[1])
    return math.sqrt(math.fsum(of_rows.tolist())), values, Sides(of_rows.sqrt_(), of_columns.sqrt_())
