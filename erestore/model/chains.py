"""How much a chain of residuals costs whoever checks it out."""

from __future__ import annotations

from erestore.model.variant import Variant

DENSE_RANK = 16
"""Rank whose evaluation takes about as long as that of a section without factors."""


def chain_rank(variant: Variant) -> int:
    """Return the largest total rank that the terms of a variant have in one tensor: what a checkout of that costs.

    What is no factors (a remainder, a vector) counts as :data:`DENSE_RANK`.
    """
    ranks: dict[str, int] = {}
    for _, residual in variant.residuals:
        for key, tensor in residual.tensors.items():
            for section in tensor.sections:
                rank = section.parameters.get("rank")
                ranks[key] = ranks.get(key, 0) + (rank if isinstance(rank, int) else DENSE_RANK)
    return max(ranks.values(), default=0)
