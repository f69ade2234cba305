"""How two sides differ, tensor by tensor, with the spectrum of every difference.

Variants of one base differ by ``sum (beta - alpha) * R`` over the residuals whose coefficients are not equal: shared ones
cancel and are never evaluated, and a tensor that no other residual touches is unchanged without a byte of it being read.
Everything else (exact remainders, whole tensors, other bases, checkpoints) is compared by the values that a checkout gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import torch

from erestore.analysis.diff.base_spectra import BaseSpectra
from erestore.analysis.diff.measurement import Measurement, Sides
from erestore.analysis.diff.net_terms import Net
from erestore.analysis.diff.side import Side, VariantSide
from erestore.arrays import as_tensor, matrix_shape, row_blocks, same_bits, widen
from erestore.checkpoint.dtypes import is_floating
from erestore.checkpoint.names import fits, match_names
from erestore.objects.residual import Residual
from erestore.records import LayoutTensor, Term, normal_terms
from erestore.residual.spectrum import singular_values_of_product
from erestore.variant.variant import Variant


class Pair(NamedTuple):
    """One tensor by its own name on each side, None where a side has no such tensor."""

    before: str | None
    after: str | None

    @property
    def name(self) -> str:
        """The name on the second side, if it is there."""
        return self.after or self.before or ""


@dataclass(frozen=True)
class Change:
    """How one tensor differs.

    Attributes
    ----------
    status : str
        ``unchanged``; ``changed``; ``resized`` (other rows, compared where both have them); ``retyped`` (the values agree, the
        dtypes do not); ``replaced`` (not numbers, scales of codes, or not finite); ``reshaped``; ``added``; ``removed``.
    computed_from : str
        ``scale`` (a multiple of the base), ``factors``, ``residuals`` (evaluated), ``dequantised``, ``values``; empty where
        nothing was.
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
            matches = {name: names[tensor.key] for name, tensor in after.items() if tensor.key in names}
        else:
            matches = dict(match_names(after, before).keys)
            matched = set(matches.values())
            # Equal names of different shapes are one tensor that was reshaped.
            matches |= {name: name for name in after if name in before and name not in matches and name not in matched}
        matched = set(matches.values())
        pairs = [Pair(matches.get(name), name) for name in after]
        return pairs + [Pair(name, None) for name in before if name not in matched]

    def base_spectrum(self, pair: Pair) -> torch.Tensor | None:
        """Return the singular values of the tensor in the base that a side has, the first side's if both have one."""
        for side, name in ((self.a, pair.before), (self.b, pair.after)):
            if isinstance(side, VariantSide) and name is not None and name not in side.quantised:
                values = self.spectra.of(side.variant, side.tensors[name].key)
                if values is not None:
                    return values
        return None

    def change(self, pair: Pair) -> Change:
        """Compare one tensor."""
        if pair.before is None:
            return Change("added")
        if pair.after is None:
            return Change("removed")
        before, after = self.a.tensors[pair.before], self.b.tensors[pair.after]
        if pair.before in self.a.quantised or pair.after in self.b.quantised:
            return self._quantised(pair.before, pair.after)
        if before.shape == after.shape:
            shared = matrix_shape(after.shape)[0]
        elif fits(after, before) and not (self.a.is_whole(pair.before) and self.b.is_whole(pair.after)):
            shared = min(matrix_shape(after.shape)[0], matrix_shape(before.shape)[0])
        else:
            return Change("reshaped")
        change = self._from_terms(before, after, shared) or self._from_values(pair, shared)
        if change.status in ("unchanged", "changed") and before.shape != after.shape:
            return replace(change, status="resized")
        if change.status == "unchanged" and before.dtype != after.dtype:
            return Change("retyped")
        return change

    def _quantised(self, before: str, after: str) -> Change:
        """Compare codes by the weights that they stand for; what scales them has no difference of its own."""
        ours, theirs = self.a.quantised.get(before), self.b.quantised.get(after)
        if ours and theirs:
            is_codes = before == ours.codes and after == theirs.codes
            members = zip(ours.members, theirs.members, strict=False) if is_codes else [(before, after)]
            if ours.parts.keys() == theirs.parts.keys() and all(self._is_same(*pair) for pair in members):
                return Change("unchanged")
            if not is_codes:
                return Change("replaced", "values")
        one, two = self.a.dequantised(before), self.b.dequantised(after)
        if one is None or two is None or one.shape != two.shape:
            return Change("replaced", "values")
        shape = matrix_shape(one.shape)
        measured = Measurement(shape)
        one, two = one.reshape(shape), two.reshape(shape)
        for start, stop in row_blocks(*shape):
            value = as_tensor(widen(one[start:stop]))
            measured.add(start, as_tensor(widen(two[start:stop])) - value, value)
        if not math.isfinite(measured.norm):
            return Change("replaced", "values")
        return _measured(measured, "dequantised", measured.norm_before)

    def _is_same(self, before: str, after: str) -> bool:
        """Return whether two tensors are the same, by what is recorded of them where that says so."""
        one, two = self.a.tensors[before], self.b.tensors[after]
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return False
        if self.variants is not None and one.key == two.key:
            a, b = self.variants
            dense, net = (a.manifest.dense.get(one.key), b.manifest.dense.get(one.key)), self.net
            is_changed = any(one.key in residual.tensors for _, residual in net)
            if dense[0] == dense[1] and not is_changed and _patch_of(a, one.key) == _patch_of(b, one.key):
                return True
        return same_bits(self.a.stored(before).reshape(-1), self.b.stored(after).reshape(-1))

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
        return self._from_net(net, key, (min(shared, rows), matrix_shape(a.base[key].shape)[1]))

    def _from_net(self, left: Sequence[tuple[float, Residual]], key: str, shape: tuple[int, int]) -> Change:
        """Compare by residuals, from their factors where they are few enough."""
        assert self.variants is not None
        variant = self.variants[0]
        net = Net(shape, tuple((coefficient, residual.streamed(key)) for coefficient, residual in left))
        before = self._known_norm(key, shape)
        scale = net.scale()
        spectrum = self.spectra.of(variant, key) if scale is not None and _is_all(variant, key, shape) else None
        factors = net.factors() if spectrum is None else None
        if spectrum is None and factors is None:
            return self._evaluated(left, key, shape, before)
        if before is None:
            before = self._evaluated((), key, shape, None).before or 0.0
        if factors is not None:
            return _changed("factors", singular_values_of_product(*factors), before, _sides_of_product(*factors))
        assert spectrum is not None
        return _changed("scale", spectrum * abs(scale or 0.0), before)

    def _evaluated(
        self, left: Sequence[tuple[float, Residual]], key: str, shape: tuple[int, int], before: float | None
    ) -> Change:
        """Evaluate what is left of the terms, and the first side's value unless its norm is known `before`, in blocks."""
        assert self.variants is not None
        variant = self.variants[0]
        terms = {r.oid: (c, r) for c, r in variant.residuals if key in r.tensors} if before is None else {}
        change = {residual.oid: coefficient for coefficient, residual in left}
        residuals = {residual.oid: residual for residual in (*(r for _, r in left), *(r for _, r in terms.values()))}
        net = Net(
            shape,
            tuple((change.get(oid, 0.0), residual.streamed(key)) for oid, residual in residuals.items()),
            tuple(terms[oid][0] if oid in terms else 0.0 for oid in residuals),
        )
        base = variant.base_rows(key) if before is None or net.needs_base else None
        measured = Measurement(shape)
        for start, stop in row_blocks(*shape):
            moved, first = net.both(start, stop, base(start, stop) if base else None)
            measured.add(start, moved, first if before is None else None)
        return _measured(measured, "residuals", measured.norm_before if before is None else before)

    def _known_norm(self, key: str, shape: tuple[int, int]) -> float | None:
        """Return the norm of the first side's linear value, if the base's spectrum tells it."""
        assert self.variants is not None
        variant = self.variants[0]
        if any(key in residual.tensors for _, residual in variant.residuals) or not _is_all(variant, key, shape):
            return None
        spectrum = self.spectra.of(variant, key)
        return None if spectrum is None else float(torch.linalg.vector_norm(spectrum))

    def _from_values(self, pair: Pair, shared: int) -> Change:
        """Compare what checkouts of both sides give, block by block."""
        assert pair.before is not None
        assert pair.after is not None
        before, after = self.a.tensors[pair.before], self.b.tensors[pair.after]
        is_alike = (before.dtype, before.shape) == (after.dtype, after.shape)
        if not (is_floating(before.dtype) and is_floating(after.dtype)):
            one, two = self.a.stored(pair.before), self.b.stored(pair.after)
            is_same = is_alike and same_bits(one.reshape(-1), two.reshape(-1))
            return Change("unchanged") if is_same else Change("replaced", "values")
        shape = shared, matrix_shape(after.shape)[1]
        measured, is_same = Measurement(shape), is_alike
        ones, twos = self.a.blocks(pair.before), self.b.blocks(pair.after)
        for (start, stop), one, two in zip(row_blocks(*shape), ones, twos, strict=False):
            is_same = is_same and same_bits(one, two)
            value = one[: stop - start].to(torch.float64)
            measured.add(start, two[: stop - start].to(torch.float64) - value, value)
        for _ in chain(ones, twos):  # what is left of them, for the digests at their ends
            pass
        if is_same:
            return Change("unchanged")
        if not math.isfinite(measured.norm):
            return Change("replaced", "values")
        return _measured(measured, "values", measured.norm_before)


def _patch_of(variant: Variant, key: str) -> str | None:
    """Return the exact remainder that holds a tensor, if one does."""
    return variant.manifest.patch if variant.patch and key in variant.patch.tensors else None


def _is_all(variant: Variant, key: str, shape: tuple[int, int]) -> bool:
    return matrix_shape(variant.base[key].shape) == shape


def _changed(computed_from: str, values: torch.Tensor, before: float, sides: Sides | None = None) -> Change:
    norm = float(torch.linalg.vector_norm(values))
    return Change("changed", computed_from, norm, before, values, sides) if norm else Change("unchanged", computed_from)


def _measured(measured: Measurement, computed_from: str, before: float) -> Change:
    norm = measured.norm
    if not norm:
        return Change("unchanged", computed_from, norm, before)
    return Change("changed", computed_from, norm, before, measured.singular_values(), measured.sides())


def _sides_of_product(left: torch.Tensor, right: torch.Tensor) -> Sides:
    """Return the norms of rows and columns of ``left @ right.T``, which is not formed."""
    rows = (left @ (right.T @ right) * left).sum(dim=1)
    columns = (right @ (left.T @ left) * right).sum(dim=1)
    return Sides(*(squares.clamp_(min=0).sqrt_() for squares in (rows, columns)))
