"""Codes of quantised weights and their scales where they are floats: a residual that gives every bit back after rounding.

Both are kept exact whatever a commit may lose: an error of codes is none of weights, and codes of one scale mean nothing under
another. As a section like any other, what variants share of them cancels in combinations; where more changed than pays, a
tensor is kept whole. Nothing of a tensor's size is held between the passes of an encoder.
"""

from __future__ import annotations

import numpy as np

from erestore.arrays import Array, raw_bytes, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype
from erestore.checkpoint.roles import Role
from erestore.encoding.profile import Profiled
from erestore.encoding.statistics import SLACK, profile_statistic
from erestore.encoding.target import OpenTarget
from erestore.residual.codecs import dense
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.rounding import round_to

_PRECISIONS = (np.float16, np.float32, np.float64)


def profile_exact(opened: OpenTarget) -> Profiled:
    """Look at a target that is kept exact whatever else may be lost."""
    return _profile_codes(opened) if opened.target.role is Role.QUANTISED else profile_statistic(opened)


def _profile_codes(opened: OpenTarget) -> Profiled:
    """Look at what changed; ``extreme`` where no residual gives the original back, or the original itself takes less."""
    if _is_unchanged(opened):
        return Profiled("unchanged")
    delta = _delta(opened)
    if delta is None or _bits(delta) >= _bits(_own(opened)):
        return Profiled("extreme")
    with without_warnings():
        return Profiled("changed", outside=float((widen(delta) ** 2).sum()))


def encode_codes(opened: OpenTarget) -> EncodedSection:
    """Encode what :func:`profile_exact` says changed."""
    delta = _delta(opened)
    assert delta is not None
    return dense.encode(delta)


def _is_unchanged(opened: OpenTarget) -> bool:
    """Return whether nothing changed; what holds NaN is not known by its value, which float64 may give other bits."""
    dtype = array_dtype(opened.target.info.dtype)
    with without_warnings():
        return all(
            np.isfinite(block.original).all()
            and raw_bytes(round_to(block.original, dtype)) == raw_bytes(round_to(block.parent, dtype))
            for block in opened.blocks()
        )


def _delta(opened: OpenTarget) -> Array | None:
    """Return the residual in the narrowest type that gives every bit back; None where there is none."""
    for precision in _PRECISIONS:
        delta = np.empty(opened.shape, dtype=precision)
        if all(
            _fill(delta[block.start : block.stop], block.original, block.parent, opened) for block in opened.blocks()
        ):
            return delta
    return None


def _fill(delta: Array, original: Array, parent: Array, opened: OpenTarget) -> bool:
    """Fill in some rows; tell whether they give the original, whatever the order in which a variant's terms are summed."""
    dtype = array_dtype(opened.target.info.dtype)
    if not (np.isfinite(original).all() and np.isfinite(parent).all()):
        return False
    with without_warnings():
        delta[:] = original - parent
        delta[(original == 0) & np.signbit(original) & (parent == 0)] = -0.0  # a sum with zero would lose the sign
        total = parent + widen(delta)
        slack = SLACK * (np.abs(parent) + np.abs(widen(delta)))
        bits, wanted = (raw_bytes(round_to(value, dtype)) for value in (total, original))
        return bits == wanted and all(
            np.array_equal(widen(round_to(total + off, dtype)), original) for off in (-slack, slack)
        )


def _own(opened: OpenTarget) -> Array:
    dtype = array_dtype(opened.target.info.dtype)
    with without_warnings():
        blocks = [round_to(block.original, dtype) for block in opened.blocks()]
    return np.concatenate(blocks)


def _bits(values: Array) -> float:
    """Estimate the bits that an entropy coder of byte planes takes."""
    planes = values.reshape(-1).view(np.uint8).reshape(values.size, -1).T
    counts = [np.bincount(plane, minlength=256) for plane in planes]
    return float(
        sum(-(nonzero * np.log2(nonzero / values.size)).sum() for count in counts for nonzero in [count[count > 0]])
    )
