"""Quantised weights of a combination: one variant's codes and scales, or a conflict.

``base + sum(c_i * (variant_i - base))`` of dequantised weights is in general no value that the scheme has a code for, and of
codes and scales apart it means nothing. It is known without arithmetic where all but one of the values cancel: then that
one has weight 1, and its codes and scales are taken together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from erestore.algebra.chosen_tensors import ChosenTensors
from erestore.algebra.conflicts import QUANTISED, Conflicts
from erestore.algebra.operands import Combined, Operand
from erestore.algebra.sums import Parts
from erestore.arrays import matrix_shape
from erestore.checkpoint.quantised_weights import QuantisedWeight, find_quantised
from erestore.objects.structure import quantisation_of
from erestore.variant.variant import Variant

Members = Mapping[str, str]
"""Role of a quantised weight's tensors to their keys."""
_BASE = -1


class _Value(NamedTuple):
    """A value of a quantised weight: the sum of the coefficients of the operands that have it (-1 for the base)."""

    weight: Fraction
    places: tuple[int, ...]


class QuantisedValues:
    """Combines quantised weights, each as a whole; conflicts are noted, and decided as chosen.

    Parameters
    ----------
    combined : Combined
    conflicts : Conflicts
    selection : ChosenTensors
        Is told what is taken from one variant, where the sum of residuals is another value.
    """

    def __init__(self, combined: Combined, conflicts: Conflicts, selection: ChosenTensors) -> None:
        self.combined = combined
        self.conflicts = conflicts
        self.selection = selection
        self._weights = [self._of(operand) for operand in combined.operands]

    @property
    def keys(self) -> frozenset[str]:
        """Keys of all tensors that are decided here."""
        return frozenset(
            key for weights in self._weights for _, members in weights.values() for key in members.values()
        )

    def parts(self) -> dict[str, Parts]:
        """Return what the result holds whole of these tensors."""
        dense: dict[str, Parts] = {}
        for codes in sorted(set().union(*self._weights)):
            sides = {index: weights[codes] for index, weights in enumerate(self._weights) if codes in weights}
            weight, members = sides[min(sides)]
            left = [value for value in self._values(codes, sides) if value.weight]
            index = left[0].places[0]
            if reason := self._reason(weight.scheme.name, sides, left):
                keys = {key for _, roles in sides.values() for key in roles.values()}
                decided = self.conflicts.decide_operand(QUANTISED, weight.name, keys, reason, list(sides))
                if decided is None:
                    continue
                index = decided
            members = sides.get(index, (weight, members))[1]
            for key in members.values():
                if parts := self.selection.take(index, key) if reason else self._parts(index, key):
                    dense[key] = parts
        return dense

    def _of(self, operand: Operand) -> dict[str, tuple[QuantisedWeight, Members]]:
        """Return an operand's quantised weights and the keys of their tensors, by the key of the codes."""
        layout = self.combined.layout(operand)
        weights = find_quantised(layout.tensors, quantisation_of(self.combined.objects, layout))
        return {
            layout.tensors[weight.codes].key: (
                weight,
                {role: layout.tensors[name].key for role, name in weight.parts.items()},
            )
            for weight in weights
        }

    def _reason(self, scheme: str, sides: Mapping[int, tuple[QuantisedWeight, Members]], left: Sequence[_Value]) -> str:
        """Say why a weight cannot be combined; empty where one value is left, and the sum of residuals is that."""
        if len(left) == 1:
            index = left[0].places[0]
            keys = sides[index][1].values() if index in sides else ()
            is_patched = any(self.selection.is_patched(index, key) for key in keys)
            return (
                f"its {scheme} codes are in an exact remainder, of which a combination has nothing"
                if is_patched
                else ""
            )
        if len(sides) < len(self.combined.operands):
            return f"only {self.combined.listed(sides)} of the variants hold it in {scheme} codes"
        return f"its {scheme} codes or scales differ, and codes and scales are not averaged"

    def _values(self, codes: str, sides: Mapping[int, tuple[QuantisedWeight, Members]]) -> list[_Value]:
        """Return the values that operands have, and the base's, of which the coefficients leave ``1 - sum``."""
        total: dict[Hashable, _Value] = {}

        def add(identity: Hashable, weight: Fraction, index: int) -> None:
            before = total.get(identity, _Value(Fraction(0), ()))
            total[identity] = _Value(before.weight + weight, (*before.places, index))

        for index, operand in enumerate(self.combined.operands):
            members = sides[index][1] if index in sides else {"codes": codes}
            identity = tuple((role, *self._identity(index, key)) for role, key in sorted(members.items()))
            add(identity, operand.coefficient, index)
        members, base = sides[min(sides)][1], self.combined.base
        if rest := 1 - self.combined.weight(range(len(self.combined.operands))):
            add(tuple((role, base[key].digest) for role, key in sorted(members.items()) if key in base), rest, _BASE)
        return list(total.values())

    def _identity(self, index: int, key: str) -> Iterator[Hashable]:
        """Yield what tells an operand's tensor apart: where two are equal, so are the values."""
        operand = self.combined.operands[index]
        manifest = operand.manifest
        if key in manifest.dense:
            parts = manifest.dense[key]
            is_plain = len(parts) == 1 and parts[0].coefficient == 1
            yield parts[0].tensor.digest if is_plain else parts
        elif self.combined.touches(operand, key):
            yield manifest.digests.get(key) or self._linear_digest(operand, key)
        elif key in self.combined.base:
            yield self.combined.base[key].digest
        if (patch := self.selection.patch(manifest.patch)) is not None and key in patch.tensors:
            yield patch.tensors[key].digest

    def _linear_digest(self, operand: Operand, key: str) -> str:
        """Evaluate a tensor of a combination, which records no digests."""
        tensor = self.combined.tensor(operand, key)
        rows = min(matrix_shape(shape)[0] for shape in (tensor.shape, self.combined.base[key].shape))
        variant = Variant(self.combined.objects, operand.manifest, layout=self.combined.layout(operand), lossy=True)
        return variant.linear_digest(key, tensor.dtype, rows)

    def _parts(self, index: int, key: str) -> Parts:
        """Return what the result holds whole of the one value that is left: an operand's, or the base's."""
        if index != _BASE:
            return () if self.selection.is_computed(index, key) else self.selection.take(index, key)
        return self.selection.base_parts(key)
