"""Total rank: what evaluating a variant's terms costs, in components of factors for every element of the base."""

from __future__ import annotations

import math
from collections.abc import Mapping

from erestore.checkpoint.dtypes import is_floating
from erestore.objects.residual import Residual
from erestore.records import WholeTensor
from erestore.variant.variant import Variant

WITHOUT_FACTORS = 48
"""Components that take about as long to evaluate as a section without factors, entropy stage included."""


def total_rank(variant: Variant) -> float:
    """Return the sum of :func:`rank_of` over all terms."""
    return math.fsum(term_ranks(variant))


def term_ranks(variant: Variant) -> list[float]:
    """Return what :func:`rank_of` says of every term."""
    return [rank_of(residual, variant.base) for _, residual in variant.residuals]


def rank_of(residual: Residual, base: Mapping[str, WholeTensor]) -> float:
    """Return a residual's mean rank over the base's matrices, each weighted by its elements.

    A section without factors counts as :data:`WITHOUT_FACTORS` components. Nothing but the index is read.
    """
    elements = sum(
        math.prod(matrix.shape) for matrix in base.values() if len(matrix.shape) > 1 and is_floating(matrix.dtype)
    )
    weighted = 0.0
    for tensor in residual.tensors.values():
        rows, columns = tensor.matrix
        if rows > 1:
            ranks = (section.parameters.get("rank", WITHOUT_FACTORS) for section in tensor.sections)
            weighted += rows * columns * sum(rank if type(rank) is int else WITHOUT_FACTORS for rank in ranks)
    return weighted / elements if elements else 0.0


def past_limit(variant: Variant, limit: int) -> float | None:
    """Return a variant's total rank if it is past a limit and no term alone makes up half of it; else None.

    The second condition keeps what flattening writes in proportion: once the change since the base is itself past the
    limit, it is encoded anew only when the chain on top of it has grown as much again.
    """
    ranks = term_ranks(variant) if limit else []
    total = math.fsum(ranks)
    return total if limit and total > limit and total >= 2 * max(ranks) else None
