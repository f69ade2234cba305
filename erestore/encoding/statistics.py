"""Floats that no optimizer moves: their residual is kept as it is, in a type that gives every bit back after rounding.

It is a section like any other, so that merges average statistics as they do weights, but no bound is over it: what the index
says of errors leaves it out (:class:`erestore.objects.residual.Errors`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from erestore.arrays import Array, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype
from erestore.encoding.profile import Profiled
from erestore.encoding.target import OpenTarget
from erestore.residual.codecs import dense
from erestore.residual.rounding import round_to

SLACK = 2.0**-50
"""Share of a value by which float64 sums of many terms may differ."""


def profile_statistic(opened: OpenTarget) -> Profiled:
    """Look at a statistic's residual, and encode it.

    Returns
    -------
    Profiled
        ``extreme`` where no residual gives the original back, as where a value is much smaller than what it replaces.
    """
    dtype = array_dtype(opened.target.info.dtype)
    blocks = list(opened.blocks())
    if not blocks:
        return Profiled("unchanged")
    original = np.concatenate([block.original for block in blocks])
    parent = np.concatenate([block.parent for block in blocks])
    with without_warnings():
        before = widen(round_to(parent, dtype))
        if np.array_equal(original, before):
            return Profiled("unchanged")
        if not (np.isfinite(original).all() and np.isfinite(parent).all()):
            return Profiled("not finite")
        norm = float(((original - before) ** 2).sum())
        if math.isfinite(norm):
            for precision in (np.float32, np.float64):
                delta = (original - parent).astype(precision)
                if _gives(original, parent, widen(delta), dtype):
                    return Profiled("changed", outside=norm, exact=dense.encode(delta))
    return Profiled("extreme")


def _gives(original: Array, parent: Array, delta: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether a residual gives the original's values, in whatever order a variant's terms are summed."""
    slack = SLACK * (np.abs(parent) + np.abs(delta))
    return all(np.array_equal(widen(round_to(parent + delta + off, dtype)), original) for off in (-slack, slack))
