"""Signs of entries elected by the variants, and the merge of those that agree (the last two steps of TIES)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from erestore.arrays import Array, without_warnings
from erestore.errors import UsageError

ELECT = ("mass", "frequency")
"""A sign is elected by the sum of the weighted entries, or by how many variants have it."""
COMBINE = ("mean", "sum")
"""Agreeing entries are averaged by weight, or added."""


def merge_agreeing(tiles: Iterator[Array], weights: Sequence[float], elect: str, combine: str) -> Array:
    """Merge one tile of the variants entry by entry.

    The sign of an entry is that of ``sum(w_i d_i)`` (`mass`) or of ``sum(sign(d_i))`` (`frequency`), and positive where that
    is 0, as in PEFT and mergekit. The entries that have it are averaged, ``sum(w_i d_i) / sum(w_i)`` over them, or added.

    Parameters
    ----------
    tiles : iterator of ndarray
        Of each variant, float64, one at a time.
    weights : sequence of float
        Positive.
    elect, combine : str
        Of :data:`ELECT` and :data:`COMBINE`.

    Notes
    -----
    Source: Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708, algorithm 1, steps 2 and 3.
    """
    with without_warnings():
        votes, sides, shares = _count(tiles, weights, elect)
    side = (votes < 0).astype(np.intp)  # 0 is positive
    agreeing: Array = np.take_along_axis(sides, side[None], axis=0)[0]
    if combine == "sum":
        return agreeing
    share = np.take_along_axis(shares, side[None], axis=0)[0]
    merged: Array = np.divide(agreeing, share, out=np.zeros_like(agreeing), where=share > 0)
    return merged


def _count(tiles: Iterator[Array], weights: Sequence[float], elect: str) -> tuple[Array, Array, Array]:
    """Return the votes, and of positive and of negative entries the weighted sums and the sums of weights."""
    votes, sides, shares = np.zeros(0), np.zeros(0), np.zeros(0)
    for number, (tile, weight) in enumerate(zip(tiles, weights, strict=True)):
        if not number:
            votes, sides, shares = np.zeros(tile.shape), np.zeros((2, *tile.shape)), np.zeros((2, *tile.shape))
        weighted = weight * tile
        votes += weighted if elect == "mass" else np.sign(tile)
        for side, mask in enumerate((tile > 0, tile < 0)):
            sides[side] += np.where(mask, weighted, 0.0)
            shares[side] += weight * mask
        # NaN has no sign; it must not vanish all the same.
        lost = np.isnan(tile)
        if lost.any():
            sides[:, lost], shares[:, lost] = np.nan, 1.0
    return votes, sides, shares


def require_shares(weights: Sequence[Fraction]) -> None:
    """Make sure that weights can be those of votes.

    Raises
    ------
    UsageError
        If one is negative, or all are 0.
    """
    if any(weight < 0 for weight in weights):
        raise UsageError(
            "Variants elect signs by their weights, so that none can be negative.",
            hint="Merge with positive weights, or use the strategy task-arithmetic.",
        )
    if not any(weights):
        raise UsageError("All weights are 0, so there is nothing to merge.", hint="Give a weight to some variant.")
