"""Profile and encoding of a tensor whose difference from its parent is known as an operator, in tiles of rows.

The same two passes as for a tensor of a checkpoint, with the same plan, codes and measurements; see
:mod:`erestore.encoding.profile` and :mod:`erestore.encoding.tensor_encoder`. Nothing here is of the tensor's size but the
codes of a remainder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from erestore.arrays import Array, as_array, as_tensor, row_blocks, same_bits, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype
from erestore.encoding.delta import Difference, Rows
from erestore.encoding.profile import Profiled, describe_rows, has_factors, sample_places
from erestore.encoding.target import OpenTarget, Target, TargetRows
from erestore.encoding.tensor_encoder import EncodedTensor, TensorEncoder
from erestore.objects.calibration import Calibration
from erestore.residual import dyadic, factorise, quantisation, step_plan
from erestore.residual.codecs import gamma, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.gamma import GAMMA_BITS
from erestore.residual.codecs.lowrank import Codes
from erestore.residual.objectives import ANSWERS, Objective
from erestore.residual.rounding import round_to
from erestore.residual.spectrum import RowGram
from erestore.variant.variant import Terms, add_terms

_RANGE = torch.finfo(torch.float32)
"""What the largest change of an element has to lie in, as of those that are read from a checkpoint."""


@dataclass(frozen=True)
class ComputedTarget(OpenTarget):
    """One target whose original is its parent plus a difference, rounded.

    Attributes
    ----------
    target : Target
    base : Rows
    difference : Difference or None
        None where there is none.
    terms : Terms
        What the parent is but for the base.
    """

    target: Target
    base: Rows
    difference: Difference | None
    terms: Terms = ()

    def blocks(self) -> Iterator[TargetRows]:
        """See :meth:`OpenTarget.blocks`."""
        for block, _ in self.changes():
            yield block._replace(original=widen(block.original))

    def changes(self) -> Iterator[tuple[TargetRows, Array]]:
        """Yield all rows, the original in its own dtype, with those of the difference but for its multiple of the base."""
        dtype = array_dtype(self.target.info.dtype)
        for start, stop in row_blocks(*self.shape):
            base = self.base(start, stop)
            parent = add_terms(self.terms, start, base)
            if self.difference is None:
                yield TargetRows(start, stop, round_to(parent, dtype), parent, base), np.zeros(parent.shape)
                continue
            with without_warnings():
                rest = self.difference.rest.rows(start, stop)
                value = parent + (
                    rest + widen(base) * self.difference.base_multiple if self.difference.base_multiple else rest
                )
            yield TargetRows(start, stop, round_to(value, dtype), parent, base), rest


class RowStatistics:
    """What one pass over a difference's rows gathers."""

    def __init__(self, opened: ComputedTarget) -> None:
        rows, self._columns = opened.shape
        self._dtype = array_dtype(opened.target.info.dtype)
        self._has_base_multiple = opened.difference is not None and opened.difference.base_multiple != 0
        self.norm = self.parent_norm = self.base_norm = self.energy = self.peak = 0.0
        self.is_finite = self.is_same = True
        self._squares = np.zeros(rows)
        self._places = sample_places(math.prod(opened.shape)).sort().values.numpy()
        self._sample = np.zeros(len(self._places))

    def add(self, block: TargetRows, rest: Array) -> None:
        """Take some rows."""
        before = round_to(block.parent, self._dtype)
        self.is_same = self.is_same and same_bits(as_tensor(block.original), as_tensor(before))
        original = widen(block.original)
        if not (self.is_finite and np.isfinite(original).all() and np.isfinite(block.parent).all()):
            self.is_finite = False
            return
        self.parent_norm += float((block.parent * block.parent).sum())
        if self._has_base_multiple:
            base = widen(block.base)
            self.base_norm += float((base * base).sum())
        self.norm += float(((original - widen(before)) ** 2).sum())
        squares = (rest * rest).sum(axis=1)
        self._squares[block.start : block.stop] = squares
        self.energy += float(squares.sum())
        self.peak = max(self.peak, float(np.abs(rest).max(initial=0.0)))
        first, last = np.searchsorted(self._places, [block.start * self._columns, block.stop * self._columns])
        self._sample[first:last] = rest.reshape(-1)[self._places[first:last] - block.start * self._columns]

    def rows(self) -> tuple[torch.Tensor, torch.Tensor, step_plan.RateCurve]:
        """Describe the rows of the difference; see :func:`erestore.encoding.profile.describe_rows`."""
        scales = as_tensor(np.sqrt(self._squares / max(1, self._columns)))
        return describe_rows(scales, as_tensor(self._places // max(1, self._columns)), as_tensor(self._sample))


def profile(opened: ComputedTarget, objective: Objective = ANSWERS) -> Profiled:
    """Look at one tensor's difference from its parent, in one pass over it.

    Parameters
    ----------
    opened : ComputedTarget
    objective : Objective
    """
    difference, shape = opened.difference, opened.shape
    rest = None if difference is None or not has_factors(shape) else difference.rest
    gram = RowGram(shape[1]) if rest is not None and rest.wants_gram else None
    statistics = RowStatistics(opened)
    with without_warnings():
        for block, rows in opened.changes():
            statistics.add(block, rows)
            if gram is not None and statistics.is_finite:
                gram.add(as_tensor(rows))
    if statistics.is_same or (statistics.is_finite and statistics.norm == 0):
        return Profiled("unchanged", base_norm=statistics.parent_norm if statistics.is_finite else 0.0)
    if not statistics.is_finite:
        return Profiled("not finite")
    assert difference is not None
    factor = dyadic.nearest(difference.base_multiple, GAMMA_BITS) if difference.base_multiple else None
    factor = factor if factor is not None and factor.mantissa else None
    in_range = _RANGE.tiny <= statistics.peak <= _RANGE.max or (statistics.peak == 0 and factor is not None)
    if not (in_range and math.isfinite(statistics.norm) and math.isfinite(statistics.parent_norm)):
        return Profiled("extreme")
    scales, counts, curve = statistics.rows()
    multiple_energy = factor.value**2 * statistics.base_norm if factor else 0.0
    weight = objective.vector_weight if len(opened.target.shape) == 1 else 1.0
    short = rest.decompose(gram) if rest is not None and statistics.peak else None
    values = None if short is None else short.singular_values
    tensor_profile = step_plan.Profile(
        shape, statistics.energy, curve, scales, counts, values, factor, multiple_energy, weight, objective
    )
    if short is None:
        return Profiled("changed", statistics.norm, statistics.parent_norm, profile=tensor_profile)
    basis = short.basis.to(torch.float32)
    return Profiled(
        "changed", statistics.norm, statistics.parent_norm, profile=tensor_profile, basis=basis, side=short.side
    )


def squared_change(opened: ComputedTarget) -> float:
    """Return the squared norm of what one tensor differs by from its parent, 0 where that is not finite."""
    with without_warnings():
        squared = math.fsum(float(((block.original - block.parent) ** 2).sum()) for block in opened.blocks())
    return squared if math.isfinite(squared) else 0.0


@dataclass(frozen=True)
class ComputedEncoder(TensorEncoder):
    """One tensor of the second pass that is computed.

    Attributes
    ----------
    computed : ComputedTarget
    """

    computed: ComputedTarget

    @property
    def opened(self) -> ComputedTarget:
        """See :attr:`TensorEncoder.opened`."""
        return self.computed

    def encode_at(self, step: float, calibration: Calibration | None) -> EncodedTensor:  # noqa: ARG002 - has no inputs to serve
        """See :meth:`TensorEncoder.encode_at`."""
        profile, plan = self.profile, step_plan.plan(self.profile, step)
        own_step = profile.own_step(step)
        sections: list[EncodedSection] = []
        lost: dict[int, float] = {}
        if profile.base_multiple is not None and profile.takes_base_multiple(own_step):
            sections.append(gamma.encode(profile.base_multiple))
        codes = self._codes(plan, own_step) if plan.rank else None
        if codes is not None and codes.rank:
            sections.append(lowrank2.encode(codes))
            lost |= factorise.leading_errors(codes, self._difference.rest, profile.energy)
        if plan.remainder:
            section, left = self._remainder(codes, plan, own_step)
            if section is not None:
                sections.append(section)
                lost[remainder.band_of(profile.shape)] = left
        return EncodedTensor(tuple(sections), lost)

    @property
    def _difference(self) -> Difference:
        assert self.computed.difference is not None
        return self.computed.difference

    def _codes(self, plan: step_plan.Plan, step: float) -> Codes:
        assert self.basis is not None
        assert self.profile.singular_values is not None
        sigma, basis = self.profile.singular_values[: plan.rank], self.basis[:, : plan.rank]
        side, rounding, gain = self.profiled.side, self.profile.objective.rounding, self.profile.gain(plan)
        return factorise.quantise(self._difference.rest, basis, sigma, side, step, rounding, gain)

    def _remainder(self, codes: Codes | None, plan: step_plan.Plan, step: float) -> tuple[EncodedSection | None, float]:
        """Quantise what factors leave; None where that is nothing but zeros. Return its squared norm too."""
        shape, rest, gain = self.profile.shape, self._difference.rest, self.profile.gain(plan)
        # No element of what is left is larger than the norm of all, with room for the factors' rounding.
        size = quantisation.usable_step(torch.tensor([2 * math.sqrt(self.profile.energy)]), step)
        sides = codes.sides() if codes is not None and codes.rank else None
        left, is_empty = 0.0, True

        def parts() -> Iterator[Array]:
            nonlocal left, is_empty
            for start, stop in remainder.row_ranges(shape):
                rows = rest.rows(start, stop)
                if sides is not None:
                    rows = rows - sides[0][start:stop] @ sides[1].T
                left += float((rows * rows).sum())
                codes_of_rows = as_array(quantisation.quantise_runs(as_tensor(rows * (gain / size.value))))
                is_empty = is_empty and not codes_of_rows.any()
                yield codes_of_rows

        section = remainder.encode(parts(), size, shape)
        return None if is_empty else section, left
