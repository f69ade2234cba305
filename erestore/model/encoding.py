"""A fine-tune to one residual object, in two passes over its tensors.

The first pass computes spectra; they decide one global quantisation step. The second encodes every tensor at that step,
decodes it again as a reader would, and measures the error after the final rounding. Where the measured error
misses what was asked, the second pass is repeated with a corrected step; the spectra are not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from erestore.arrays import as_array, as_tensor, widen, without_warnings
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import array_dtype
from erestore.errors import GateError, UsageError
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.model.calibrations import Calibration
from erestore.model.gating import FIRST_ERROR, LARGEST_ERROR, GateSearch
from erestore.model.packing import ResidualWriter
from erestore.model.profiles import BasisSpool, Profiled, profile, take_gamma
from erestore.model.quality import SMALLEST_MAX_ERROR, Outcome, Quality, ratio
from erestore.model.residuals import Errors
from erestore.model.targets import Loaded, Target
from erestore.model.variant import Variant, evaluate, row_blocks
from erestore.progress import Progress
from erestore.residual import allocation, factorising, planning, quantisation
from erestore.residual.codecs import dense, ere, gamma, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.registry import codec
from erestore.residual.rounding import round_to
from erestore.residual.searching import StepSearch
from erestore.residual.shaping import shape_matrix
from erestore.residual.spectrum import Decomposition, squared_norm
from erestore.storage.objects import Objects
from erestore.storage.segments import Written

_SIZE_EXPONENT = -1.0
_UNUSED = 0.005
"""Share of a budget that may stay unused, as far as the sizes of tensors allow."""
_ERROR_EXPONENT = 1.2
"""Of the step in the error, about: less than 2 because a smaller step keeps more components too."""
_CALIBRATED = 12
"""Tensors that stand for all when the effect of rounding is estimated."""
_CALIBRATION_LIMIT = 64.0
_FLOAT32_ERROR = 2e-3
"""Largest error asked for from which on spectra are computed in float32, in about 0.4 times the time."""


@dataclass(frozen=True)
class Item:
    """One tensor of the second pass."""

    target: Target
    profiled: Profiled
    basis: torch.Tensor | None
    encode: Callable[[Item, Loaded, torch.Tensor], Encoding]
    calibration: Calibration | None = None


Room = Callable[[Collection[str]], int]
"""Bytes that a residual may take, given the tensors that it has sections for."""

Admits = Callable[[ResidualWriter, float], bool]
"""Whether a residual is good enough, given its relative error too."""


@dataclass(frozen=True)
class Encoding:
    """One tensor's sections.

    Attributes
    ----------
    sections : tuple of EncodedSection
    lost : Mapping[int, float]
        Squared error where a band's parts and those after it are missing, by band.
    """

    sections: tuple[EncodedSection, ...]
    lost: Mapping[int, float] = field(default_factory=dict)


def _share(writer: ResidualWriter, room: Room) -> float:
    """Return how much of its room a residual takes; one without sections is not written at all."""
    return 0.0 if writer.is_empty else writer.size / max(1, room(writer.keys))


@dataclass
class Encoder:
    """Encodes one fine-tune against its parent's linear value.

    Attributes
    ----------
    objects : Objects
    checkpoint : Checkpoint
    parent : Variant
    quality : Quality
    progress : Progress
    admits : Admits, optional
        Asked where the quality is a gate, after `prepare` of :meth:`run`.
    calibration : Calibration or None
        Where rounding is to serve what comes out of the base's layers.
    """

    objects: Objects
    checkpoint: Checkpoint
    parent: Variant
    quality: Quality
    progress: Progress
    admits: Admits | None = None
    calibration: Calibration | None = None

    def run(
        self, targets: list[Target], outcome: Outcome, prepare: Callable[[list[Target]], Room | None]
    ) -> Written | None:
        """Write the residual.

        Parameters
        ----------
        targets : list of Target
            Sorted by key.
        outcome : Outcome
            Filled in.
        prepare : Callable
            Called before anything is encoded with the targets that cannot be coded because they hold NaN or infinity;
            says how much room there is, if that is limited.

        Returns
        -------
        Written or None
            None where nothing changed, or nothing that is worth its bytes (or only exact remainders are wanted).
        """
        with tensor_threads() as executor, BasisSpool() as bases, ExitStack() as stack:
            profiled = self._profile(executor, targets, bases)
            for target in targets:
                seen = profiled[target.key]
                outcome.squared_norm += seen.norm
                outcome.base_norm += seen.base_norm
                if seen.state == "unchanged":
                    outcome.count("unchanged")
                elif seen.state == "not finite":
                    outcome.not_finite.append(target.name)
            changed = [target for target in targets if profiled[target.key].state == "changed"]
            refused = [target for target in targets if profiled[target.key].state in ("not finite", "extreme")]
            room = prepare(refused)
            if self.quality.exact_only:
                outcome.linear_error += sum(profiled[target.key].norm for target in changed)
            if not changed or self.quality.exact_only:
                return None
            if self.quality.codec == "ere":
                writer, errors, kinds = self._encode_ere(executor, stack, changed, profiled, bases)
            else:
                norm = sum(profiled[target.key].norm for target in changed)
                search = self._search_gate if self.quality.gate else partial(self._search, room=room)
                writer, errors, kinds = search(executor, stack, changed, profiled, bases, norm)
            outcome.squared_error += errors.rounded
            outcome.linear_error += errors.linear
            for kind, number in kinds.items():
                outcome.kinds[kind] = outcome.kinds.get(kind, 0) + number
            return None if writer.is_empty else writer.finish()

    def _profile(self, executor: Executor, targets: list[Target], bases: BasisSpool) -> dict[str, Profiled]:
        def look(target: Target) -> Profiled:
            loaded = Loaded.read(target, self.checkpoint.read, self.parent)
            ours = self.quality.codec == "lowrank" and not self.quality.exact_only
            return profile(
                loaded, factorise=not self.quality.exact_only, gamma=ours, precision=self._precision(ours=ours)
            )

        found: dict[str, Profiled] = {}
        results = bounded_map(executor, look, targets, in_flight=worker_count())
        for number, (target, seen) in enumerate(zip(targets, results, strict=True), 1):
            if seen.basis is not None:
                bases.put(target.key, seen.basis)
            found[target.key] = Profiled(seen.state, seen.norm, seen.base_norm, seen.profile, None, seen.side)
            self.progress("spectra", number, len(targets))
        return found

    def _precision(self, *, ours: bool) -> torch.dtype:
        """Float32 spectra end at about 1e-3 of the largest value, which is enough unless little may be lost."""
        may_lose = ours and not self.quality.gate and self.quality.max_error >= _FLOAT32_ERROR
        return torch.float32 if may_lose else torch.float64

    def _search(
        self,
        executor: Executor,
        stack: ExitStack,
        changed: list[Target],
        profiled: dict[str, Profiled],
        bases: BasisSpool,
        norm: float,
        room: Room | None,
    ) -> tuple[ResidualWriter, Errors, dict[str, int]]:
        """Find the step that just meets the bound, measured; return the writer that holds its encoding."""
        if room is None:
            allowed = self.quality.max_error * norm
            search = StepSearch(self._step_for(executor, changed, profiled, bases, allowed), _ERROR_EXPONENT)
        else:
            profiles = [_profile_of(profiled, target) for target in changed]
            free = max(1, room([target.key for target in changed]))
            # What is left unused is judged by the whole budget, not by the residual's part of it.
            tolerance = min(0.5, _UNUSED * (self.quality.budget or free) / free)
            search = StepSearch(planning.solve_step_for_bits(profiles, 8 * free), _SIZE_EXPONENT, tolerance, attempts=8)
        best: tuple[float, ResidualWriter, Errors, dict[str, int]] | None = None
        superseded = ExitStack()
        while True:
            attempt = stack.enter_context(ExitStack())
            writer = attempt.enter_context(ResidualWriter(self.objects, self.parent.manifest.base))
            errors, kinds = self._pass(executor, writer, changed, profiled, bases, partial(encode_at, step=search.step))
            reached = errors.rounded / allowed if room is None else _share(writer, room)
            goes_on = search.observe(reached)
            if reached <= 1 and (best is None or reached > best[0]):
                superseded.close()
                best, superseded = (reached, writer, errors, kinds), attempt
                if (room is None and writer.is_empty) or errors.rounded <= SMALLEST_MAX_ERROR * norm:
                    return best[1:]
            elif not goes_on and best is None and self.quality.exact:
                return writer, errors, kinds  # the exact remainder keeps what this loses
            else:
                attempt.close()
            if not goes_on:
                if best is None:
                    raise self._out_of_reach()
                return best[1:]

    def _search_gate(
        self,
        executor: Executor,
        stack: ExitStack,
        changed: list[Target],
        profiled: dict[str, Profiled],
        bases: BasisSpool,
        norm: float,
    ) -> tuple[ResidualWriter, Errors, dict[str, int]]:
        """Find the largest step that the gate admits; return the writer that holds what it admitted there."""
        assert self.admits is not None
        search = GateSearch(self._step_for(executor, changed, profiled, bases, FIRST_ERROR * norm))
        best: tuple[ResidualWriter, Errors, dict[str, int]] | None = None
        superseded = ExitStack()
        goes_on = True
        while goes_on:
            attempt = stack.enter_context(ExitStack())
            writer = attempt.enter_context(ResidualWriter(self.objects, self.parent.manifest.base))
            errors, kinds = self._pass(executor, writer, changed, profiled, bases, partial(encode_at, step=search.step))
            error = ratio(errors.rounded, norm)
            passed = error <= LARGEST_ERROR and self.admits(writer, error)
            goes_on = search.observe(writer.size, error, passed=passed)
            if passed:  # at a larger step than whatever passed before
                superseded.close()
                best, superseded = (writer, errors, kinds), attempt
            else:
                attempt.close()
        if best is None:
            raise GateError(
                "The original passes the gate, but nothing that loses any of it does.",
                hint="Use --exact without a gate.",
            )
        return best

    def _step_for(
        self,
        executor: Executor,
        changed: list[Target],
        profiled: dict[str, Profiled],
        bases: BasisSpool,
        allowed: float,
    ) -> float:
        """Predict the step that loses `allowed`, a squared error after rounding."""
        profiles = [_profile_of(profiled, target) for target in changed]
        aim = allowed / self._rounding_factor(executor, changed, profiled, bases, 0.94 * allowed)
        return planning.solve_step(profiles, 0.94 * aim)

    def _out_of_reach(self) -> UsageError:
        if self.quality.budget is None:
            return UsageError(
                f"A maximal error of {self.quality.max_error:g} cannot be reached for this checkpoint.",
                hint="Use --exact to keep every bit.",
            )
        return UsageError("The budget has no room for any of what was changed.", hint="Give a larger --budget.")

    def _rounding_factor(
        self,
        executor: Executor,
        changed: list[Target],
        profiled: dict[str, Profiled],
        bases: BasisSpool,
        aim: float,
    ) -> float:
        """Estimate from a few tensors how much rounding to a narrow dtype multiplies the predicted error."""
        narrow = [target for target in changed if target.dtype.itemsize < 4 and len(target.shape) > 1]
        chosen = sorted(narrow[:: max(1, len(narrow) // _CALIBRATED)], key=lambda target: target.key)
        if not chosen:
            return 1.0
        step = planning.solve_step([_profile_of(profiled, target) for target in changed], aim)

        def measured(target: Target) -> tuple[float, float]:
            found = _profile_of(profiled, target)
            basis = bases.get(target.key) if found.singular_values is not None else None
            loaded = Loaded.read(target, self.checkpoint.read, self.parent)
            item = Item(
                target, profiled[target.key], basis, lambda _item, _loaded, _delta: Encoding(()), self.calibration
            )
            sections = encode_at(item, loaded, loaded.delta(), step).sections
            return measure(loaded, sections).rounded, planning.plan(found, step).error

        pairs = list(bounded_map(executor, measured, chosen, in_flight=worker_count()))
        rounded, predicted = (sum(values) for values in zip(*pairs, strict=True))
        return min(_CALIBRATION_LIMIT, max(1 / _CALIBRATION_LIMIT, ratio(rounded, predicted)))

    def _encode_ere(
        self,
        executor: Executor,
        stack: ExitStack,
        changed: list[Target],
        profiled: dict[str, Profiled],
        bases: BasisSpool,
    ) -> tuple[ResidualWriter, Errors, dict[str, int]]:
        """Encode as the paper does: ranks by allocation, codes of b bits, vectors raw."""
        ranks = self._ranks([(target.key, _profile_of(profiled, target)) for target in changed])

        def encode(item: Item, _: Loaded, delta: torch.Tensor) -> Encoding:
            if item.target.key not in ranks:
                return Encoding((dense.encode(as_array(delta)),))
            found = item.profiled.profile
            assert found is not None
            assert found.singular_values is not None
            assert item.basis is not None
            known = Decomposition(delta, found.singular_values, item.basis, item.profiled.side)
            rank = ranks[item.target.key]
            return Encoding((ere.encode_section(delta, rank, self.quality.bits, known),) if rank else ())

        writer = stack.enter_context(ResidualWriter(self.objects, self.parent.manifest.base))
        errors, kinds = self._pass(executor, writer, changed, profiled, bases, encode)
        return writer, errors, kinds

    def _ranks(self, profiles: list[tuple[str, planning.Profile]]) -> dict[str, int]:
        """Share the budget of ranks among the tensors that have a spectrum; vectors and tiny matrices stay whole."""
        spectra, shapes, keys = [], [], []
        for key, found in profiles:
            if found.singular_values is not None:
                keys.append(key)
                spectra.append(found.singular_values.numpy())
                shapes.append(found.shape)
        chosen = allocation.ALLOCATIONS[self.quality.allocation]
        return dict(zip(keys, chosen(spectra, shapes, self.quality.rank, self.quality.alpha), strict=True))

    def _pass(
        self,
        executor: Executor,
        writer: ResidualWriter,
        changed: list[Target],
        profiled: dict[str, Profiled],
        bases: BasisSpool,
        encode: Callable[[Item, Loaded, torch.Tensor], Encoding],
    ) -> tuple[Errors, dict[str, int]]:
        """Encode and measure every changed tensor; add what has sections to `writer`."""

        def items() -> Iterator[Item]:
            for target in changed:
                found = _profile_of(profiled, target)
                basis = bases.get(target.key) if found.singular_values is not None else None
                yield Item(target, profiled[target.key], basis, encode, self.calibration)

        kinds: dict[str, int] = {}
        total = [0.0, 0.0, 0.0]
        results = bounded_map(executor, self._encode_one, items(), in_flight=worker_count())
        for number, (target, (encoded, errors)) in enumerate(zip(changed, results, strict=True), 1):
            total = [a + b for a, b in zip(total, errors, strict=True)]
            writer.add(target.key, target.shape, encoded.sections, errors, encoded.lost)
            for kind in [section.codec for section in encoded.sections] or ["unchanged"]:
                kinds[kind] = kinds.get(kind, 0) + 1
            self.progress("encoding", number, len(changed))
        return Errors(*total), kinds

    def _encode_one(self, item: Item) -> tuple[Encoding, Errors]:
        loaded = Loaded.read(item.target, self.checkpoint.read, self.parent)
        encoded = item.encode(item, loaded, loaded.delta())
        return encoded, measure(loaded, encoded.sections)


def _profile_of(profiled: dict[str, Profiled], target: Target) -> planning.Profile:
    found = profiled[target.key].profile
    assert found is not None
    return found


def encode_at(item: Item, loaded: Loaded, delta: torch.Tensor, step: float) -> Encoding:
    """Encode one tensor's residual in the way that is cheapest where `step` is that of a tensor of weight 1."""
    found = item.profiled.profile
    assert found is not None
    own_step = found.own_step(step)
    before: tuple[EncodedSection, ...] = ()
    if found.gamma is not None and found.takes_gamma(own_step):
        take_gamma(delta, loaded, found.gamma)
        before = (gamma.encode(found.gamma),)
    encoded = _encode_as(planning.plan(found, step), item, delta, own_step)
    return replace(encoded, sections=before + encoded.sections)


def _encode_as(plan: planning.Plan, item: Item, delta: torch.Tensor, step: float) -> Encoding:
    """Encode one tensor's residual as planned; `delta` is used up."""
    sections: list[EncodedSection] = []
    lost: dict[int, float] = {}
    rest = delta
    if plan.rank:
        assert item.basis is not None
        found = item.profiled.profile
        assert found is not None
        assert found.singular_values is not None
        sigma = found.singular_values[: plan.rank]
        codes = factorising.quantise(delta, item.basis[:, : plan.rank], sigma, item.profiled.side, step)
        if codes.rank:
            sections.append(lowrank2.encode(codes))
            left, right = (as_tensor(side).to(delta) for side in codes.sides())
            rest = delta.addmm_(left, right.T, alpha=-1)
            lost |= factorising.prefix_errors(codes, rest)
    if plan.remainder:
        size = quantisation.usable_step(rest, step)
        metrics = item.calibration.metrics(item.target.key, rest.shape[1]) if item.calibration else None
        parts = quantisation.quantise_matrix(rest, size) if metrics is None else shape_matrix(rest, size, metrics)
        if any(bool(part.any()) for part in parts):
            lost[remainder.band_of((*rest.shape,))] = squared_norm(rest)
            sections.append(remainder.encode(parts, size, (*rest.shape,)))
    return Encoding(tuple(sections), lost)


def measure(loaded: Loaded, encoded: tuple[EncodedSection, ...]) -> Errors:
    """Decode sections as a reader does and return what they lose, and the residual's own squared norm."""
    shape = (loaded.target.shared, loaded.own.shape[1])
    sections = tuple(
        codec(section.codec).decode(section.parameters, [part.content for part in section.parts], shape)
        for section in encoded
    )
    dtype = array_dtype(loaded.target.info.dtype)
    linear = rounded = norm = 0.0
    with without_warnings():
        for start, stop in row_blocks(*shape):
            own = widen(as_array(loaded.own[start:stop]))
            parent = loaded.parent.rows(start, stop)
            before = widen(round_to(parent, dtype))
            norm += float(((own - before) ** 2).sum())
            value = parent
            if sections:
                value = parent + evaluate(sections, start, stop, widen(loaded.parent.base[start:stop]))
            linear += float(((own - value) ** 2).sum())
            rounded += float(((own - widen(round_to(value, dtype))) ** 2).sum())
    return Errors(linear, rounded, norm)
