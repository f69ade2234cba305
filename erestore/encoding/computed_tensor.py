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
from erestore.encoding.target import Block, Opened, Target
from erestore.encoding.tensor_encoder import Encoding, Item
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
class Computed(Opened):
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

    def blocks(self) -> Iterator[Block]:
        """See :meth:`Opened.blocks`."""
        for block, _ in self.changes():
            yield block._replace(own=widen(block.own))

    def changes(self) -> Iterator[tuple[Block, Array]]:
        """Yield all rows, the original in its own dtype, with those of the difference but for its multiple of the base."""
        dtype = array_dtype(self.target.info.dtype)
        for start, stop in row_blocks(*self.shape):
            base = self.base(start, stop)
            parent = add_terms(self.terms, start, base)
            if self.difference is None:
                yield Block(start, stop, round_to(parent, dtype), parent, base), np.zeros(parent.shape)
                continue
            with without_warnings():
                rest = self.difference.rest.rows(start, stop)
                value = parent + (rest + widen(base) * self.difference.gamma if self.difference.gamma else rest)
            yield Block(start, stop, round_to(value, dtype), parent, base), rest


class _Seen:
    """What one pass over a difference's rows gathers."""

    def __init__(self, opened: Computed) -> None:
        rows, self._columns = opened.shape
        self._dtype = array_dtype(opened.target.info.dtype)
        self._has_gamma = opened.difference is not None and opened.difference.gamma != 0
        self.norm = self.parent_norm = self.base_norm = self.energy = self.peak = 0.0
        self.is_finite = self.is_same = True
        self._squares = np.zeros(rows)
        self._places = sample_places(math.prod(opened.shape)).sort().values.numpy()
        self._sample = np.zeros(len(self._places))

    def add(self, block: Block, rest: Array) -> None:
        """Take some rows."""
        before = round_to(block.parent, self._dtype)
        self.is_same = self.is_same and same_bits(as_tensor(block.own), as_tensor(before))
        own = widen(block.own)
        if not (self.is_finite and np.isfinite(own).all() and np.isfinite(block.parent).all()):
            self.is_finite = False
            return
        self.parent_norm += float((block.parent * block.parent).sum())
        if self._has_gamma:
            base = widen(block.base)
            self.base_norm += float((base * base).sum())
        self.norm += float(((own - widen(before)) ** 2).sum())
        squares = (rest * rest).sum(axis=1)
        self._squares[block.start : block.stop] = squares
        self.energy += float(squares.sum())
        self.peak = max(self.peak, float(np.abs(rest).max(initial=0.0)))
        first, last = np.searchsorted(self._places, [block.start * self._columns, block.stop * self._columns])
        self._sample[first:last] = rest.reshape(-1)[self._places[first:last] - block.start * self._columns]

    def rows(self) -> tuple[torch.Tensor, torch.Tensor, step_plan.Curve]:
        """Describe the rows of the difference; see :func:`erestore.encoding.profile.describe_rows`."""
        scales = as_tensor(np.sqrt(self._squares / max(1, self._columns)))
        return describe_rows(scales, as_tensor(self._places // max(1, self._columns)), as_tensor(self._sample))


def profile(opened: Computed, objective: Objective = ANSWERS) -> Profiled:
    """Look at one tensor's difference from its parent, in one pass over it.

    Parameters
    ----------
    opened : Computed
    objective : Objective
    """
    difference, shape = opened.difference, opened.shape
    rest = None if difference is None or not has_factors(shape) else difference.rest
    gram = RowGram(shape[1]) if rest is not None and rest.wants_gram else None
    seen = _Seen(opened)
    with without_warnings():
        for block, rows in opened.changes():
            seen.add(block, rows)
            if gram is not None and seen.is_finite:
                gram.add(as_tensor(rows))
    if seen.is_same or (seen.is_finite and seen.norm == 0):
        return Profiled("unchanged", base_norm=seen.parent_norm if seen.is_finite else 0.0)
    if not seen.is_finite:
        return Profiled("not finite")
    assert difference is not None
    factor = dyadic.nearest(difference.gamma, GAMMA_BITS) if difference.gamma else None
    factor = factor if factor is not None and factor.mantissa else None
    in_range = _RANGE.tiny <= seen.peak <= _RANGE.max or (seen.peak == 0 and factor is not None)
    if not (in_range and math.isfinite(seen.norm) and math.isfinite(seen.parent_norm)):
        return Profiled("extreme")
    scales, counts, curve = seen.rows()
    taken = factor.value**2 * seen.base_norm if factor else 0.0
    weight = objective.vector_weight if len(opened.target.shape) == 1 else 1.0
    short = rest.decompose(gram) if rest is not None and seen.peak else None
    values = None if short is None else short.singular_values
    found = step_plan.Profile(shape, seen.energy, curve, scales, counts, values, factor, taken, weight, objective)
    if short is None:
        return Profiled("changed", seen.norm, seen.parent_norm, profile=found)
    basis = short.basis.to(torch.float32)
    return Profiled("changed", seen.norm, seen.parent_norm, profile=found, basis=basis, side=short.side)


def squared_change(opened: Computed) -> float:
    """Return the squared norm of what one tensor differs by from its parent, 0 where that is not finite."""
    with without_warnings():
        squared = math.fsum(float(((block.own - block.parent) ** 2).sum()) for block in opened.blocks())
    return squared if math.isfinite(squared) else 0.0


@dataclass(frozen=True)
class ComputedItem(Item):
    """One tensor of the second pass that is computed.

    Attributes
    ----------
    computed : Computed
    """

    computed: Computed

    @property
    def opened(self) -> Computed:
        """See :attr:`Item.opened`."""
        return self.computed

    def encode_at(self, step: float, calibration: Calibration | None) -> Encoding:  # noqa: ARG002 - has no inputs to serve
        """See :meth:`Item.encode_at`."""
        found, plan = self.profile, step_plan.plan(self.profile, step)
        own_step = found.own_step(step)
        sections: list[EncodedSection] = []
        lost: dict[int, float] = {}
        if found.gamma is not None and found.takes_gamma(own_step):
            sections.append(gamma.encode(found.gamma))
        codes = self._codes(plan, own_step) if plan.rank else None
        if codes is not None and codes.rank:
            sections.append(lowrank2.encode(codes))
            lost |= factorise.leading_errors(codes, self._difference.rest, found.energy)
        if plan.remainder:
            section, left = self._remainder(codes, plan, own_step)
            if section is not None:
                sections.append(section)
                lost[remainder.band_of(found.shape)] = left
        return Encoding(tuple(sections), lost)

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
                found = as_array(quantisation.quantise_runs(as_tensor(rows * (gain / size.value))))
                is_empty = is_empty and not found.any()
                yield found

        section = remainder.encode(parts(), size, shape)
        return None if is_empty else section, left
