"""Inner products of what variants change of their base's quantised weights, dequantised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erestore.arrays import Array, as_array
from erestore.checkpoint.quantised_weights import QuantisedWeight, find_quantised
from erestore.objects.structure import quantisation_of
from erestore.variant.variant import Variant

_BLOCK = 1 << 20
"""Values that are multiplied at a time."""


def quantised_products(variants: Sequence[Variant]) -> Array:
    """Return the Gram matrix of ``variant - base`` over dequantised weights, float64 ``(N, N)``.

    Weights that a variant does not have as the base does, or that cannot be dequantised, count for nothing.

    Parameters
    ----------
    variants : sequence of Variant
        Of one base.
    """
    total = np.zeros((len(variants), len(variants)))
    if not variants or not variants[0].quantised_keys:
        return total
    for weight in find_quantised(variants[0].base, quantisation_of(variants[0].objects, variants[0].layout)):
        changed = [index for index, variant in enumerate(variants) if _changes(variant, weight)]
        before = weight.dequantise(variants[0].base_tensor) if changed else None
        if before is None:
            continue
        differences = np.zeros((len(variants), before.size), dtype=np.float32)
        for index in changed:
            value = _value(variants[index], weight)
            if value is not None and value.shape == before.shape:
                differences[index] = (value - before).reshape(-1)
        for start in range(0, before.size, _BLOCK):
            block = differences[:, start : start + _BLOCK].astype(np.float64)
            total += block @ block.T
    return total


def _changes(variant: Variant, weight: QuantisedWeight) -> bool:
    touched = {key for _, residual in variant.residuals for key in residual.tensors}
    return not (touched | variant.manifest.dense.keys()).isdisjoint(weight.members)


def _value(variant: Variant, weight: QuantisedWeight) -> Array | None:
    names = {tensor.key: name for name, tensor in variant.layout.tensors.items()}
    if not names.keys() >= set(weight.members):
        return None
    return weight.dequantise(lambda key: as_array(variant.tensor(names[key])))
