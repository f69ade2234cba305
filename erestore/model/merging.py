"""Merges that are not linear: computed tensor by tensor from the variants' differences from the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import Array, as_tensor, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype, is_floating, torch_dtype
from erestore.merge.abc import ElementwiseStrategy, FactorStrategy, MergeStrategy
from erestore.merge.linear import LinearStrategy
from erestore.merge.operands import FactoredOperands, Factors, Rows, TiledOperands
from erestore.merge.tiles import combination
from erestore.model.residuals import matrix_shape
from erestore.model.variant import LinearTensor, Variant, row_blocks
from erestore.residual.rounding import round_to

if TYPE_CHECKING:
    import torch

Statistics = Callable[[str, tuple[int, int]], Array]
"""Key and matrix shape of a tensor to what a strategy needs to know of a variant besides its values."""


class NonlinearMerge:
    """Computes the tensors of a merge, in the dtypes and shapes of a layout, one at a time.

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

    def __call__(self, key: str) -> torch.Tensor | None:
        """Return one tensor; None where the linear result stands: what is held whole, and what no variant changed."""
        if key in self._whole or key not in self._result.base or not any(v.terms(key) for v in self._variants):
            return None
        held = self._layout[key]
        base = self._result.linear(key).base
        rows = min(matrix_shape(held.shape)[0], len(base))
        linear = [LinearTensor(base, variant.terms(key)) for variant in self._variants]
        with without_warnings():
            merged = self._merged(key, linear, (rows, base.shape[1]), is_matrix=len(held.shape) > 1)
            dtype = array_dtype(held.dtype)
            found = np.empty((matrix_shape(held.shape)[0], base.shape[1]), dtype)
            for start, stop in row_blocks(rows, base.shape[1]):
                found[start:stop] = round_to(widen(base[start:stop]) + merged(start, stop), dtype)
        if rows < len(found):  # rows of a grown vocabulary, which are combined linearly
            found[rows:] = self._result.rounded(key, held.dtype, held.shape).reshape(found.shape)[rows:]
        return as_tensor(found.reshape(held.shape), torch_dtype(held.dtype))

    def _merged(self, key: str, linear: Sequence[LinearTensor], shape: tuple[int, int], *, is_matrix: bool) -> Rows:
        """Return what evaluates rows of the merged difference."""
        strategy = self._strategy
        if strategy.kind == "factors" and not is_matrix:
            assert isinstance(strategy, FactorStrategy)
            strategy = strategy.elsewhere()
        if strategy.kind == "factors":
            assert isinstance(strategy, FactorStrategy)
            left, right = strategy.merge(self._factored(strategy, key, linear, shape))
            return lambda start, stop: left[start:stop] @ right.T
        operands = self._tiled(strategy, key, linear, shape)
        if isinstance(strategy, LinearStrategy):
            return combination(operands, [float(each) for each in strategy.coefficients(self._weights, list)])
        assert isinstance(strategy, ElementwiseStrategy)
        return strategy.prepare(operands)

    def _tiled(
        self, strategy: MergeStrategy, key: str, linear: Sequence[LinearTensor], shape: tuple[int, int]
    ) -> TiledOperands:
        return TiledOperands(
            tensor=key,
            shape=shape,
            labels=self._labels,
            weights=self._weights,
            statistics=self._known(strategy, key, shape),
            rows=[_delta(tensor) for tensor in linear],
        )

    def _factored(
        self, strategy: MergeStrategy, key: str, linear: Sequence[LinearTensor], shape: tuple[int, int]
    ) -> FactoredOperands:
        return FactoredOperands(
            tensor=key,
            shape=shape,
            labels=self._labels,
            weights=self._weights,
            statistics=self._known(strategy, key, shape),
            factors=[_factors(tensor, shape) for tensor in linear],
        )

    def _known(self, strategy: MergeStrategy, key: str, shape: tuple[int, int]) -> list[Array] | None:
        if not strategy.needs or self._statistics is None:
            return None
        return [known(key, shape) for known in self._statistics]


def _delta(tensor: LinearTensor) -> Rows:
    """Return what evaluates rows of what a variant adds to the base."""
    nothing = replace(tensor, terms=())
    return lambda start, stop: tensor.rows(start, stop) - nothing.rows(start, stop)


def _factors(tensor: LinearTensor, shape: tuple[int, int]) -> Factors:
    """Return what a variant adds to the base as factors; where some of it has none, the matrix itself is one of them."""
    rows, columns = shape
    sides: list[tuple[Array, Array]] = [(np.zeros((rows, 0)), np.zeros((columns, 0)))]
    for coefficient, sections in tensor.terms:
        for section in sections:
            found = section.factors()
            if found is None:
                delta = _delta(tensor)(0, rows)
                return Factors(delta, np.eye(columns)) if columns <= rows else Factors(np.eye(rows), delta.T)
            left = np.zeros((rows, found[0].shape[1]))
            left[: len(found[0])] = coefficient * found[0][:rows]
            sides.append((left, found[1]))
    return Factors(*(np.concatenate(side, axis=1) for side in zip(*sides, strict=True)))
