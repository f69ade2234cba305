"""Values of adapted weights: a parent's value or a trained tensor, with factors added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from erestore.arrays import Array, as_array, matrix_shape, raw_bytes, row_blocks, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype
from erestore.checkpoint.peft import AdapterMatch, PeftCheckpoint
from erestore.checkpoint.peft_tensors import BiasChange, LoraFactors
from erestore.errors import CheckpointError
from erestore.records import LayoutTensor
from erestore.residual.codecs import dense, factors
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.rounding import round_to
from erestore.variant.variant import Variant


@dataclass(frozen=True)
class AdaptedWeight:
    """What an adapter makes of one weight.

    Attributes
    ----------
    whole : str or None
        Tensor of the adapter that stands in for the parent's value.
    is_original : bool
        Whether `whole` was saved with the adapter, not trained.
    factors : LoraFactors or None
        Added to that.
    bias : BiasChange or None
        Likewise.
    """

    whole: str | None = None
    is_original: bool = False
    factors: LoraFactors | None = None
    bias: BiasChange | None = None


def adapted_weights(match: AdapterMatch) -> dict[str, AdaptedWeight]:
    """Return what an adapter makes of each weight of the base; new weights are not among them."""
    keys = {*match.factors, *match.biases, *match.replacements}
    return {
        key: AdaptedWeight(
            match.replacements.get(key), key in match.originals, match.factors.get(key), match.biases.get(key)
        )
        for key in sorted(keys)
    }


@dataclass
class AdapterValues:
    """Computes adapted weights.

    Attributes
    ----------
    checkpoint : PeftCheckpoint
    parent : Variant
    """

    checkpoint: PeftCheckpoint
    parent: Variant

    @cached_property
    def shapes(self) -> Mapping[str, LayoutTensor]:
        """The parent's tensors by key, as its layout has them."""
        return {tensor.key: tensor for tensor in self.parent.layout.tensors.values()}

    def without_unchanged(
        self, weights: Mapping[str, AdaptedWeight], ties: Mapping[str, str]
    ) -> dict[str, AdaptedWeight]:
        """Return weights without whole tensors that are the parent's own, bit for bit, as PEFT saves embeddings."""
        changed = {}
        for key, weight in weights.items():
            if weight.whole is not None and self._is_parents(ties.get(key, key), weight.whole):
                weight = replace(weight, whole=None, is_original=False)  # noqa: PLW2901 - the same weight
            if weight != AdaptedWeight():
                changed[key] = weight
        return changed

    def _is_parents(self, key: str, name: str) -> bool:
        info, tensor = self.checkpoint.tensors[name], self.shapes.get(key)
        if tensor is None or (info.dtype, info.shape) != (tensor.dtype, tensor.shape):
            return False
        return raw_bytes(as_array(self.checkpoint.read(name))) == raw_bytes(
            self.parent.stored(key, tensor.dtype, tensor.shape)
        )

    def matrices(self, pair: LoraFactors) -> tuple[Array, Array]:
        """Return up and down as matrices, ``(outputs, r)`` and ``(r, inputs)``.

        Raises
        ------
        CheckpointError
            If they are of an unsupported type, or hold NaN or infinity.
        """
        up, down = self.checkpoint.read(pair.up), self.checkpoint.read(pair.down)
        for name, side in ((pair.up, up), (pair.down, down)):
            if as_array(side).dtype not in factors.STORED:
                raise CheckpointError(f"The factor '{name}' is of type {side.dtype}, which is not supported.")
            _require_finite(name, side)
        return as_array(up.reshape(up.shape[0], -1)), as_array(down.reshape(down.shape[0], -1))

    def encode(self, pair: LoraFactors, rows: int) -> EncodedSection:
        """Return the factors of the first `rows` rows as they are."""
        up, down = self.matrices(pair)
        if pair.transpose:
            down = down[:, :rows]
        else:
            up = up[:rows]
        return factors.encode(up, np.ascontiguousarray(down), float(pair.scaling), transpose=pair.transpose)

    def encode_bias(self, change: BiasChange) -> EncodedSection:
        """Return what is added to a bias."""
        bias = self.checkpoint.read(change.name)
        _require_finite(change.name, bias)
        return dense.encode(np.array(widen(as_array(bias))).reshape(1, -1) * float(change.scaling))

    def squared_norm(self, weight: AdaptedWeight) -> float:
        """Return the squared norm of what factors and bias add."""
        total = 0.0
        if weight.factors is not None:
            up, down = (torch.from_numpy(np.array(widen(side))) for side in self.matrices(weight.factors))
            total += float(weight.factors.scaling) ** 2 * float(((up.T @ up) * (down @ down.T)).sum())
        if weight.bias is not None:
            bias = self.checkpoint.read(weight.bias.name).to(torch.float64)
            total += float(weight.bias.scaling) ** 2 * float((bias * bias).sum())
        return total

    def difference(self, key: str, name: str, rows: int) -> EncodedSection | None:
        """Return what a whole tensor adds to the first `rows` rows of the parent; None if these are the parent's bits."""
        tensor = self.shapes[key]
        value = widen(as_array(self.checkpoint.read(name))).reshape(matrix_shape(self.checkpoint.tensors[name].shape))[
            :rows
        ]
        stored = widen(self.parent.stored(key, tensor.dtype, tensor.shape)).reshape(matrix_shape(tensor.shape))[:rows]
        if np.array_equal(value, stored, equal_nan=True):
            return None
        difference, linear = np.array(value), self.parent.linear(key)
        with without_warnings():
            for start, stop in row_blocks(*difference.shape):
                difference[start:stop] -= linear.rows(start, stop)
        return dense.encode(difference)

    def rounded(self, key: str, weight: AdaptedWeight, dtype: str, start: int = 0) -> Array:
        """Return the value of a weight from row `start` on, rounded to `dtype`, in the shape that it has.

        Raises
        ------
        CheckpointError
            If it has rows that neither the parent nor the adapter has a value for.
        """
        shape = self.shape(key, weight)
        rows, columns = matrix_shape(shape)
        before = self._before(key, weight)
        if len(before) < rows:
            raise CheckpointError(
                f"The adapter changes {rows} rows of '{key}'; the base has {len(before)}, and the adapter lacks the others.",
                hint="Save it again with PEFT: save_pretrained(directory, save_embedding_layers=True).",
            )
        result = np.empty((rows - start, columns), dtype=array_dtype(dtype))
        added = None
        if weight.factors is not None:
            up, down = self.matrices(weight.factors)
            left, right = (down.T, up.T) if weight.factors.transpose else (up, down)
            added = factors.FactorsSection((rows, columns), left, right, float(weight.factors.scaling))
        for first, last in row_blocks(rows - start, columns):
            block = np.array(widen(before[start + first : start + last]))
            if added is not None:
                block += added.rows(start + first, start + last, block)
            result[first:last] = round_to(block, array_dtype(dtype))
        return result.reshape((rows - start, *shape[1:])) if shape else result.reshape(shape)

    def shape(self, key: str, weight: AdaptedWeight) -> tuple[int, ...]:
        """Return the shape that a weight has."""
        if weight.factors is not None:
            return weight.factors.shape
        return self.checkpoint.tensors[weight.whole].shape if weight.whole is not None else self.shapes[key].shape

    def _before(self, key: str, weight: AdaptedWeight) -> Array:
        """Return what factors are added to, as a matrix."""
        if weight.whole is not None:
            value = as_array(self.checkpoint.read(weight.whole))
        else:
            tensor = self.shapes[key]
            value = self.parent.stored(key, tensor.dtype, tensor.shape)
        return value.reshape(matrix_shape(value.shape))


def _require_finite(name: str, tensor: torch.Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"The adapter's '{name}' holds NaN or infinity.",
            hint="Training has diverged; commit an earlier checkpoint.",
        )
