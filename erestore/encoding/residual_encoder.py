"""A fine-tune to one residual object, in two passes over its tensors.

The first pass computes spectra; they decide one global quantisation step. The second encodes every tensor at that step,
decodes it again as a reader would, and measures the error after the final rounding. Where the measured error
misses what was asked, the second pass is repeated with a corrected step; the spectra are not computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from erestore.checkpoint.abc import Checkpoint
from erestore.encoding.encode_pass import Attempt, Passes
from erestore.encoding.exact_codes import profile_exact
from erestore.encoding.profile import Profiled, objective_of, profile
from erestore.encoding.quality import Outcome, Quality
from erestore.encoding.source import DeltaSource
from erestore.encoding.step_search import (
    AcceptCandidate,
    SizeBudget,
    encode_ere,
    search_by_budget,
    search_by_error,
    search_by_gate,
)
from erestore.encoding.target import LoadedTarget, Target
from erestore.encoding.tensor_encoder import LoadedEncoder
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.objects.calibration import Calibration
from erestore.progress import Progress
from erestore.residual.evenness import OWN_CHANGES, References
from erestore.spool import TensorSpool
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult
from erestore.variant.variant import Variant

_FLOAT32_ERROR = 2e-3
"""Largest error asked for from which on spectra are computed in float32, in about 0.4 times the time."""


@dataclass
class Encoder:
    """Encodes one fine-tune, or what is computed in place of one, against its parent's linear value.

    Attributes
    ----------
    objects : ObjectStore
    source : DeltaSource
    base : str
        Oid of the base.
    quality : Quality
    progress : Progress
    accept : AcceptCandidate, optional
        Asked where the quality is a gate, after `prepare` of :meth:`run`.
    calibration : Calibration or None
        Where rounding is to serve what comes out of the base's layers.
    references : References
        What the loss of a tensor is compared with.
    """

    objects: ObjectStore
    source: DeltaSource
    base: str
    quality: Quality
    progress: Progress
    accept: AcceptCandidate | None = None
    calibration: Calibration | None = None
    references: References = OWN_CHANGES

    def run(
        self, targets: list[Target], outcome: Outcome, prepare: Callable[[list[Target]], SizeBudget | None]
    ) -> PutResult | None:
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
        PutResult or None
            None where nothing changed, or nothing that is worth its bytes (or only exact remainders are wanted).
        """
        with tensor_threads() as executor, TensorSpool() as bases, ExitStack() as stack:
            profiled = self._profile(executor, targets, bases)
            for target in targets:
                profile = profiled[target.key]
                outcome.squared_norm += profile.norm
                outcome.base_norm += profile.base_norm
                if profile.state == "unchanged":
                    outcome.count("unchanged")
                elif profile.state == "not finite":
                    outcome.not_finite.append(target.name)
            changed = [target for target in targets if profiled[target.key].state == "changed"]
            refused = [target for target in targets if profiled[target.key].state in ("not finite", "extreme")]
            size_budget = prepare(refused)
            if self.quality.exact_only:
                outcome.linear_error += sum(profiled[target.key].norm for target in changed)
            if not changed or self.quality.exact_only:
                return None
            norm = math.fsum(profiled[target.key].norm for target in changed)
            passes = stack.enter_context(
                Passes(
                    self.objects,
                    self.source,
                    self.base,
                    self.progress,
                    self.calibration,
                    executor,
                    changed,
                    profiled,
                    bases,
                    self.quality.spread,
                    None if self.accept is not None or size_budget is not None else self.quality.allowed(norm),
                    self.references,
                )
            )
            attempt = self._encode(passes, size_budget)
            outcome.squared_error += attempt.errors.rounded
            outcome.linear_error += attempt.errors.linear
            outcome.dropped.extend(attempt.dropped)
            for kind, number in (*attempt.kinds.items(), ("dropped", len(attempt.dropped))):
                if number:
                    outcome.kinds[kind] = outcome.kinds.get(kind, 0) + number
            return None if attempt.writer.is_empty else attempt.writer.finish()

    def _encode(self, passes: Passes, size_budget: SizeBudget | None) -> Attempt:
        if self.quality.codec == "ere":
            return encode_ere(passes, self.quality)
        if self.accept is not None:
            return search_by_gate(passes, self.accept)
        return (
            search_by_error(passes, self.quality)
            if size_budget is None
            else search_by_budget(passes, self.quality, size_budget)
        )

    def _profile(self, executor: Executor, targets: list[Target], bases: TensorSpool) -> dict[str, Profiled]:
        def look(target: Target) -> Profiled:
            return self.source.profile(target, self.quality)

        profiles: dict[str, Profiled] = {}
        results = bounded_map(executor, look, targets, in_flight=worker_count())
        for number, (target, profiled) in enumerate(zip(targets, results, strict=True), 1):
            if profiled.basis is not None:
                bases.put(target.key, profiled.basis)
            profiles[target.key] = replace(profiled, basis=None)
            self.progress("spectra", number, len(targets))
        return profiles


@dataclass(frozen=True)
class CheckpointDeltas(DeltaSource):
    """The tensors of a checkpoint, minus a parent's linear values.

    Attributes
    ----------
    checkpoint : Checkpoint
    parent : Variant
    """

    checkpoint: Checkpoint
    parent: Variant

    def profile(self, target: Target, quality: Quality) -> Profiled:
        """See :meth:`DeltaSource.profile`."""
        if quality.keeps_exact(target.role):
            return profile_exact(self._loaded(target))
        ours = quality.codec == "lowrank" and not quality.exact_only
        # Float32 spectra end at about 1e-3 of the largest value, which is enough unless little may be lost.
        may_lose = ours and not quality.gate and quality.squared_error is None and quality.max_error >= _FLOAT32_ERROR
        return profile(
            self._loaded(target),
            factorise=not quality.exact_only,
            base_multiple=ours,
            precision=torch.float32 if may_lose else torch.float64,
            objective=objective_of(quality),
        )

    def encoder(self, target: Target, profiled: Profiled, basis: torch.Tensor | None) -> LoadedEncoder:
        """See :meth:`DeltaSource.encoder`."""
        return LoadedEncoder(profiled, basis, self._loaded(target))

    def _loaded(self, target: Target) -> LoadedTarget:
        return LoadedTarget.read(target, self.checkpoint.read, self.parent)
