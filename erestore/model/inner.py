"""Inner products of residuals and variants, from factors wherever there are any.

``<A1 B1^T, A2 B2^T> = sum((A1^T A2) o (B1^T B2))``: no matrix of the tensor's size. What is no factors (remainders, vectors,
multiples of the base) is evaluated in row tiles. Only tensors of the base count: heads and added rows have nothing to be a
difference from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from erestore.arrays import Array, widen
from erestore.model.residuals import Residual
from erestore.model.variant import BLOCK, Variant, evaluate
from erestore.residual.codecs.abc import Section


@dataclass(frozen=True)
class _Held:
    """What a residual holds of one tensor: factors ``(m, r)`` and ``(n, r)`` of all sections that have them, and others."""

    place: int
    left: Array
    right: Array
    others: tuple[Section, ...]

    @classmethod
    def of(cls, place: int, sections: tuple[Section, ...]) -> _Held:
        pairs = [(section, section.factors()) for section in sections]
        found = [pair for _, pair in pairs if pair is not None]
        rows, columns = sections[0].shape
        left = np.concatenate([np.zeros((rows, 0)), *(pair[0] for pair in found)], axis=1)
        right = np.concatenate([np.zeros((columns, 0)), *(pair[1] for pair in found)], axis=1)
        return cls(place, left, right, tuple(section for section, pair in pairs if pair is None))


def variant_products(variants: Sequence[Variant]) -> Array:
    """Return the Gram matrix of ``variant - base``, ``(N, N)``.

    Parameters
    ----------
    variants : sequence of Variant
        Of one base.
    """
    residuals: dict[str, Residual] = {}
    for variant in variants:
        residuals |= {residual.oid: residual for _, residual in variant.residuals}
    order = {oid: place for place, oid in enumerate(residuals)}
    weights = np.zeros((len(variants), len(order)))
    for row, variant in enumerate(variants):
        for coefficient, residual in variant.residuals:
            weights[row, order[residual.oid]] = coefficient
    products = residual_products(variants[0], list(residuals.values()))
    found: Array = weights @ products @ weights.T
    return found


def residual_products(variant: Variant, residuals: Sequence[Residual]) -> Array:
    """Return the inner products of residuals, ``(K, K)``.

    Parameters
    ----------
    variant : Variant
        Any on their base, which multiples of it are read from.
    residuals : sequence of Residual
    """
    total = np.zeros((len(residuals), len(residuals)))
    for key in sorted({key for residual in residuals for key in residual.tensors}):
        held = [
            _Held.of(place, sections)
            for place, residual in enumerate(residuals)
            if (sections := residual.sections(key))
        ]
        if held:
            places = [each.place for each in held]
            total[np.ix_(places, places)] += _tensor_products(variant, key, held)
    return total


def _tensor_products(variant: Variant, key: str, held: Sequence[_Held]) -> Array:
    """Return the inner products of what residuals hold of one tensor."""
    rows = min(len(each.left) for each in held)
    if any(len(each.left) != rows for each in held):  # where a vocabulary shrank, what is beyond it is nothing
        return _uneven(variant, key, held)
    total = _factor_products(held)
    dense = [place for place, each in enumerate(held) if each.others]
    if dense:
        for start, stop, tiles in _tiles(variant, key, held, dense):
            for place, tile in zip(dense, tiles, strict=True):
                for other, each in enumerate(held):  # of others' factors
                    value = float(((tile @ each.right) * each.left[start:stop]).sum())
                    total[place, other] += value
                    total[other, place] += value
            flat = tiles.reshape(len(dense), -1)
            total[np.ix_(dense, dense)] += flat @ flat.T
    return total


def _factor_products(held: Sequence[_Held]) -> Array:
    ranks = [each.left.shape[1] for each in held]
    starts = np.cumsum([0, *ranks])
    left = np.concatenate([each.left for each in held], axis=1)
    right = np.concatenate([each.right for each in held], axis=1)
    found = np.zeros((len(held), len(held)))
    for one in range(len(held)):
        mine = slice(starts[one], starts[one + 1])
        products = (left[:, mine].T @ left) * (right[:, mine].T @ right)
        sums = products.sum(axis=0)
        found[one] = [sums[starts[two] : starts[two + 1]].sum() for two in range(len(held))]
    return found


def _tiles(variant: Variant, key: str, held: Sequence[_Held], dense: Sequence[int]) -> Iterator[tuple[int, int, Array]]:
    """Yield row ranges, and what sections without factors are there, ``(len(dense), rows, columns)``."""
    base = variant.linear(key).base
    rows, columns = len(held[0].left), base.shape[1]
    step = max(1, BLOCK // max(1, columns * len(dense)))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        own = widen(base[start:stop])
        yield start, stop, np.stack([evaluate(held[place].others, start, stop, own) for place in dense])


def _uneven(variant: Variant, key: str, held: Sequence[_Held]) -> Array:
    """Return inner products of residuals that cover different numbers of rows, pair by pair over the rows that both do."""
    found = np.zeros((len(held), len(held)))
    for one, mine in enumerate(held):
        for two, other in enumerate(held[: one + 1]):
            rows = min(len(mine.left), len(other.left))
            pair = [mine] if one == two else [mine, other]
            cut = [_Held(each.place, each.left[:rows], each.right, each.others) for each in pair]
            found[one, two] = found[two, one] = _tensor_products(variant, key, cut)[0, -1]
    return found
