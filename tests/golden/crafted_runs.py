"""Sections in runs that the encoder writes rarely: integers of both widths, several groups and bands, extreme multipliers."""

from __future__ import annotations

import numpy as np
import torch
import weights

from erestore.arrays import Array, as_array
from erestore.residual.codecs import gamma, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.lowrank import Codes
from erestore.residual.dyadic import Dyadic
from erestore.residual.quantisation import quantise_matrix


def integers(shape: tuple[int, ...], seed: int, bound: int) -> Array:
    """Int64 between ``-bound`` and ``bound``."""
    return as_array((weights.numbers(shape, seed, 31) * (bound + 1)).to(torch.int64))


def codes(m: int, n: int, dtype: type[np.integer]) -> Codes:
    """Twenty-one components of falling size in three groups and three bands; some columns are zeros."""
    largest = 300_000 if dtype == np.int32 else 3_000
    bounds = [max(1, largest >> k) if k % 7 != 5 else 0 for k in range(21)]
    left = np.stack([integers((m,), 200 + k, bound) for k, bound in enumerate(bounds)], axis=1)
    right = np.stack([integers((n,), 300 + k, min(bound, 500) or 1) for k, bound in enumerate(bounds)], axis=1)
    mantissas = np.array([255, 63, 32, 1, *(33 + k for k in range(17))])
    shifts = np.array([0, 3, 9, 1, 0, 48, 2, *([0, 1] * 7)])
    return Codes(left.astype(dtype), right.astype(dtype), mantissas, shifts, ((5, -42), (2, -60), (14, -11)))


def quantised(values: torch.Tensor, step: Dyadic) -> EncodedSection:
    """Write values as a remainder."""
    rows = values.reshape(len(values) if values.ndim > 1 else 1, -1)
    return remainder.encode(quantise_matrix(rows, step), step, tuple(rows.shape))


def sections(base: weights.Tensors) -> dict[str, tuple[EncodedSection, ...]]:
    """Return the crafted sections by key."""
    shapes = {name: tuple(tensor.shape) for name, tensor in base.items()}
    return {
        "dense.bias": (
            quantised(weights.numbers(shapes["dense.bias"], 63, 20) * 3e6, Dyadic(13_421_773, -27)),
            quantised(weights.numbers(shapes["dense.bias"], 64, 20), Dyadic(-3, -9)),
        ),
        "dense.weight": (
            gamma.encode(Dyadic(3, -7)),
            lowrank2.encode(codes(*shapes["dense.weight"], np.int16)),
            quantised(weights.numbers(shapes["dense.weight"], 65, 20), Dyadic(11_184_811, -30)),
        ),
        "double.weight": (quantised(weights.numbers(shapes["double.weight"], 66, 30), Dyadic(1, -29)),),
        "embed.weight": (lowrank2.encode(codes(*shapes["embed.weight"], np.int32)),),
        "scale": (quantised(torch.tensor([0.5], dtype=torch.float64), Dyadic(1, -3)),),
    }
