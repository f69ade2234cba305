"""Merges that are not linear: computed tensor by tensor from the variants' differences from the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import Array, as_tensor, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype, is_floating, torch_dtype
from erestore.merge.elementwise import ElementwiseStrategy
from erestore.merge.spectral import SpectralStrategy, require_two
from erestore.model.residuals import matrix_shape
from erestore.model.variant import LinearTensor, Variant, row_blocks
from erestore.residual.rounding import round_to

if TYPE_CHECKING:
    import torch


class NonlinearMerge:
    """Computes the tensors of a merge, in the dtypes and shapes of a layout; one at a time is in memory.

    Parameters
    ----------
    strategy : ElementwiseStrategy or SpectralStrategy
    variants : sequence of Variant
        Of one base; their exact remainders are not looked at.
    weights : sequence of float
    result : Variant
        Gives the layout, and all tensors that are held whole.

    Raises
    ------
    UsageError
        If the strategy is of two variants or more.
    """

    def __init__(
        self,
        strategy: ElementwiseStrategy | SpectralStrategy,
        variants: Sequence[Variant],
        weights: Sequence[float],
        result: Variant,
    ) -> None:
        require_two(len(variants), strategy.name)
        self._strategy, self._variants, self._weights = strategy, variants, weights
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
        merged = self._matrix(key, linear, rows, is_vector=len(held.shape) < 2)
        dtype = array_dtype(held.dtype)
        found = np.empty((matrix_shape(held.shape)[0], base.shape[1]), dtype)
        for start, stop in row_blocks(rows, base.shape[1]):
            found[start:stop] = round_to(widen(base[start:stop]) + merged[start:stop], dtype)
        if rows < len(found):  # rows of a grown vocabulary, which are combined linearly
            own = self._result.rounded(key, held.dtype, held.shape).reshape(found.shape)
            found[rows:] = own[rows:]
        return as_tensor(found.reshape(held.shape), torch_dtype(held.dtype))

    def _matrix(self, key: str, linear: Sequence[LinearTensor], rows: int, *, is_vector: bool) -> Array:
        if isinstance(self._strategy, ElementwiseStrategy):
            return self._elementwise(self._strategy, key, linear, rows)
        weighted = [weight * _delta(tensor, 0, rows) for weight, tensor in zip(self._weights, linear, strict=True)]
        if is_vector or min(weighted[0].shape) < 2:
            found: Array = np.sum(weighted, axis=0) / (sum(self._weights) or 1.0)
            return found
        with without_warnings():
            return self._strategy.merge(weighted)

    def _elementwise(self, strategy: ElementwiseStrategy, key: str, linear: Sequence[LinearTensor], rows: int) -> Array:
        prepared = [strategy.prepare(_delta(tensor, 0, rows)) for tensor in linear]
        masks = strategy.masks(key, len(linear))
        columns = linear[0].base.shape[1]
        found = np.empty((rows, columns))
        for start, stop in row_blocks(rows, columns):
            kept = [mask.next(stop - start, columns) for mask in masks]
            tiles = [_delta(tensor, start, stop) for tensor in linear]
            found[start:stop] = strategy.merge(tiles, self._weights, prepared, kept)
        return found


def _delta(tensor: LinearTensor, start: int, stop: int) -> Array:
    """Return rows of what a variant adds to the base, float64."""
    return tensor.rows(start, stop) - widen(tensor.base[start:stop])
