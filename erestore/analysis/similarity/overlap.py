"""How two variants of one base meet, tensor by tensor: what a merge of them has to expect."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from erestore.analysis.similarity.inner_products import base_rows
from erestore.arrays import Array, matrix_shape, without_warnings
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.progress import Progress, silent
from erestore.residual.products import Matrix, gram
from erestore.residual.subspaces import Subspaces, energy_within, leading_subspaces, principal_angles
from erestore.variant.variant import Variant

LEADING = 0.9
"""Share of the squared norm of a change that the leading components hold whose spaces are compared."""


@dataclass(frozen=True)
class TensorOverlap:
    """How the changes of one tensor, ``a - base`` and ``b - base``, meet; the fields are those of JSON.

    Attributes
    ----------
    name : str
        The base's.
    shape : tuple of int
        As a matrix.
    norm_a, norm_b : float
        Of the changes.
    cosine : float or None
        Between them; negative where a merge cancels. None where one is zero.
    rank_a, rank_b : int or None
        Leading components that hold :data:`LEADING` of each change's squared norm; None for vectors, and where there is no
        change.
    column_angles, row_angles : tuple of float
        Principal angles between the column spaces, and the row spaces, of these components, in radians, ascending; empty where
        there are none.
    column_overlap, row_overlap : float or None
        Mean squared cosine of the angles: 1 where the smaller space lies in the larger.
    column_chance, row_chance : float or None
        What spaces of these dimensions that know nothing of each other would have: the larger rank over the number of
        dimensions.
    a_in_b, b_in_a : float or None
        Predicted interference: the share of the squared norm of one whole change that lies both in the column space and
        in the row space of the other's leading components.
    """

    name: str
    shape: tuple[int, int]
    norm_a: float
    norm_b: float
    cosine: float | None
    rank_a: int | None
    rank_b: int | None
    column_angles: tuple[float, ...]
    row_angles: tuple[float, ...]
    column_overlap: float | None
    row_overlap: float | None
    column_chance: float | None
    row_chance: float | None
    a_in_b: float | None
    b_in_a: float | None


def overlaps(
    a: Variant, b: Variant, progress: Progress = silent, *, among: Collection[str] | None = None
) -> tuple[TensorOverlap, ...]:
    """Compare the changes of every tensor that both variants, of one base, have changed; `among` these, if it is given."""
    both = _touched(a) & _touched(b)
    keys = sorted(both if among is None else both.intersection(among))
    result = []
    for variant in (a, b):
        variant.open_parts()
    with tensor_threads() as executor:
        for done, overlap in enumerate(
            bounded_map(executor, lambda key: _overlap(a, b, key), keys, in_flight=worker_count()), 1
        ):
            result.append(overlap)
            progress("subspaces", done, len(keys))
    return tuple(result)


def _touched(variant: Variant) -> set[str]:
    return {key for _, residual in variant.residuals for key in residual.tensors} - variant.quantised_keys


def changes(variant: Variant, key: str) -> list[tuple[float, Matrix]]:
    """Return the terms of one tensor: coefficients and what their residuals hold."""
    return [(coefficient, Matrix.of(sections)) for coefficient, sections in variant.terms(key)]


def _overlap(a: Variant, b: Variant, key: str) -> TensorOverlap:
    with without_warnings():
        ones, twos = changes(a, key), changes(b, key)
        base = base_rows(a, key)
        products = gram([matrix for _, matrix in (*ones, *twos)], base)
        weights = np.zeros((2, len(ones) + len(twos)))
        weights[0, : len(ones)] = [coefficient for coefficient, _ in ones]
        weights[1, len(ones) :] = [coefficient for coefficient, _ in twos]
        (aa, ab), (_, bb) = (weights @ products @ weights.T).tolist()
        shape = matrix_shape(a.base[key].shape)
        first, second = (
            leading_subspaces(change, LEADING, base) if min(shape) > 1 else None for change in (ones, twos)
        )
        columns, rows = _angles(first, second)
        return TensorOverlap(
            name=key,
            shape=shape,
            norm_a=math.sqrt(max(0.0, aa)),
            norm_b=math.sqrt(max(0.0, bb)),
            cosine=ab / math.sqrt(aa * bb) if aa > 0 and bb > 0 else None,
            rank_a=first.rank if first else None,
            rank_b=second.rank if second else None,
            column_angles=tuple(columns.tolist()),
            row_angles=tuple(rows.tolist()),
            column_overlap=_mean(columns),
            row_overlap=_mean(rows),
            column_chance=max(first.rank, second.rank) / shape[0] if first and second else None,
            row_chance=max(first.rank, second.rank) / shape[1] if first and second else None,
            a_in_b=energy_within(ones, second, base) / aa if second and aa > 0 else None,
            b_in_a=energy_within(twos, first, base) / bb if first and bb > 0 else None,
        )


def _angles(one: Subspaces | None, two: Subspaces | None) -> tuple[Array, Array]:
    if one is None or two is None:
        return np.zeros(0), np.zeros(0)
    return principal_angles(one.left, two.left), principal_angles(one.right, two.right)


def _mean(angles: Array) -> float | None:
    return float((np.cos(angles) ** 2).mean()) if len(angles) else None


def weighted_shares(coefficients: Sequence[float], products: Array) -> tuple[Array, Array, float]:
    """Return of terms ``c_k R_k`` the squared norms, the cross terms with all others, and the squared norm of the sum."""
    scaled = products * np.outer(coefficients, coefficients)
    squares: Array = np.diag(scaled).copy()
    return squares, scaled.sum(axis=1) - squares, float(scaled.sum())
