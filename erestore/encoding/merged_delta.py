"""Merges that are not linear: computed tensor by tensor from the variants' differences from the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import Array, as_array, as_tensor, matrix_shape, without_warnings
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import is_floating, torch_dtype
from erestore.checkpoint.quantised_weights import find_quantised
from erestore.encoding.computed_tensor import ComputedTarget
from erestore.encoding.delta import Difference, Differences, evaluated, side_by_side
from erestore.encoding.target import Target
from erestore.merge.abc import ElementwiseStrategy, FactorStrategy, MergeStrategy
from erestore.merge.linear import Average, LinearStrategy
from erestore.merge.operands import FactoredOperands, MatrixFactors, Rows, TiledOperands
from erestore.merge.tiles import combination
from erestore.objects.structure import quantisation_of
from erestore.residual.operators import Operator, Product, Tiled
from erestore.residual.products import Matrix
from erestore.variant.variant import Terms, Variant

if TYPE_CHECKING:
    import torch

Statistics = Callable[[str, tuple[int, int]], Array]
"""Key and matrix shape of a tensor to what a strategy needs to know of a variant besides its values."""


class NonlinearMerge(Differences):
    """Computes what a merge adds to the base, tensor by tensor: as factors, or in tiles of rows.

    Parameters
    ----------
    strategy : MergeStrategy
        That is not linear.
    variants : sequence of Variant
        Of one base; their exact remainders are not looked at.
    labels : sequence of str
        What tells them apart; see :class:`erestore.merge.operands.Operands`.
    weights : sequence of Fraction
    result : Variant
        Gives the layout, and all tensors that are held whole.
    statistics : sequence of Statistics, optional
        One a variant, where the strategy needs them.
    """

    def __init__(
        self,
        strategy: MergeStrategy,
        variants: Sequence[Variant],
        labels: Sequence[str],
        weights: Sequence[Fraction],
        result: Variant,
        statistics: Sequence[Statistics] | None = None,
    ) -> None:
        self._strategy, self._variants = strategy, variants
        self._labels, self._weights = tuple(labels), tuple(weights)
        self._statistics = statistics
        self._whole = set(result.manifest.dense) | {
            key for key, tensor in result.base.items() if not is_floating(tensor.dtype)
        }
        self._result = result
        self._layout = {tensor.key: tensor for tensor in result.layout.tensors.values()}
        names, quantisation = result.layout.tensors, quantisation_of(result.objects, result.layout)
        self._codes = {names[name].key for weight in find_quantised(names, quantisation) for name in weight.members}

    def of(self, target: Target) -> Difference | None:
        """Return what is added to one tensor; None for what no variant changed, and for what is held whole."""
        key, terms = target.key, [variant.terms(target.key) for variant in self._variants]
        if key in self._whole or not any(terms):
            return None
        base = self._result.base_rows(key)
        shape = target.shared, base.shape[1]
        with without_warnings():
            return Difference(self._merged(key, terms, base, shape, is_matrix=len(target.shape) > 1))

    def tensor(self, key: str) -> torch.Tensor | None:
        """See :meth:`Differences.tensor`."""
        if key in self._whole or key not in self._result.base:
            return None
        entry, base_shape = self._layout[key], matrix_shape(self._result.base[key].shape)
        info = TensorInfo(key, entry.dtype, entry.shape)
        target = Target(key, key, info, min(matrix_shape(entry.shape)[0], base_shape[0]))
        difference = self.of(target)
        if difference is None:
            return None
        # Rows of a grown vocabulary stay as they are.
        merged = self._result.rounded(key, entry.dtype, entry.shape).copy()
        matrix = merged.reshape(matrix_shape(entry.shape))
        for block, _ in ComputedTarget(target, self._result.base_rows(key), difference).changes():
            matrix[block.start : block.stop] = block.original
        return as_tensor(merged, torch_dtype(entry.dtype))

    def _merged(
        self, key: str, terms: Sequence[Terms], base: Rows, shape: tuple[int, int], *, is_matrix: bool
    ) -> Operator:
        """Return the merged difference."""
        # Codes and scales that can be combined at all are the same in all variants.
        strategy = Average() if key in self._codes else self._strategy
        if strategy.kind == "factors" and not is_matrix:
            assert isinstance(strategy, FactorStrategy)
            strategy = strategy.fallback()
        if strategy.kind == "factors":
            assert isinstance(strategy, FactorStrategy)
            return Product.of(*strategy.merge(self._factored(strategy, key, terms, base, shape)))
        operands = self._tiled(strategy, key, [evaluated(added, shape[1], base) for added in terms], shape)
        if isinstance(strategy, LinearStrategy):
            tiles = combination(operands, [float(share) for share in strategy.coefficients(self._weights, list)])
        else:
            assert isinstance(strategy, ElementwiseStrategy)
            tiles = strategy.prepare(operands)
        return Tiled.of(shape, tiles)

    def _tiled(self, strategy: MergeStrategy, key: str, rows: Sequence[Rows], shape: tuple[int, int]) -> TiledOperands:
        return TiledOperands(
            tensor=key,
            shape=shape,
            labels=self._labels,
            weights=self._weights,
            statistics=self._known(strategy, key, shape),
            rows=rows,
        )

    def _factored(
        self, strategy: MergeStrategy, key: str, terms: Sequence[Terms], base: Rows, shape: tuple[int, int]
    ) -> FactoredOperands:
        return FactoredOperands(
            tensor=key,
            shape=shape,
            labels=self._labels,
            weights=self._weights,
            statistics=self._known(strategy, key, shape),
            factors=[_factors(variant_terms, base, shape) for variant_terms in terms],
        )

    def _known(self, strategy: MergeStrategy, key: str, shape: tuple[int, int]) -> list[Array] | None:
        if not strategy.needs or self._statistics is None:
            return None
        return [statistic(key, shape) for statistic in self._statistics]


def _factors(terms: Terms, base: Rows, shape: tuple[int, int]) -> MatrixFactors:
    """Return what a variant adds to the base as factors; where some of it has none, the matrix itself is one of them."""
    rows, columns = shape
    parts = [(coefficient, Matrix.of(sections)) for coefficient, sections in terms]
    if any(matrix.others for _, matrix in parts):
        delta = evaluated(terms, columns, base)(0, rows)
        return MatrixFactors(delta, np.eye(columns)) if columns <= rows else MatrixFactors(np.eye(rows), delta.T)
    product = side_by_side(parts, shape)
    return MatrixFactors(as_array(product.left), as_array(product.right))
