"""The second pass over a fine-tune's tensors: encode all of them at one step, decode them, measure.

A search makes several such passes from one decomposition; what was profiled is read again from memory or its spool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

import torch

from erestore.encoding.exact_codes import encode_codes
from erestore.encoding.profile import Profiled
from erestore.encoding.source import DeltaSource
from erestore.encoding.target import Target
from erestore.encoding.tensor_encoder import EncodedTensor, TensorEncoder, measure
from erestore.execute import bounded_map, worker_count
from erestore.objects.calibration import Calibration
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors, ratio
from erestore.progress import Progress
from erestore.residual import step_plan
from erestore.residual.evenness import OWN_CHANGES, Loss, LossReference, References, even_step, shared
from erestore.spool import TensorSpool
from erestore.storage.objects import ObjectStore

_AIM = 0.94
"""Share of an error that is aimed at first: an encoding that meets its bound at once saves a pass."""
_JUDGED = 12
"""Tensors that stand for all when the effect of rounding is estimated."""
_FACTOR_LIMIT = 64.0
_CORRECTION, _CORRECTIONS = 0.7, 6
"""By how much a tensor's own step is made finer, and how often, where it is measured to lose more than it was predicted to."""


@dataclass(frozen=True)
class Attempt:
    """What one pass made.

    Attributes
    ----------
    writer : ResidualWriter
        Holds the encoding until it is dropped.
    errors : Errors
        Over all tensors.
    kinds : Mapping[str, int]
        Tensors by kind of section.
    dropped : tuple of str
        Names of tensors that changed and have no section.
    is_bare : bool
        Whether nothing but statistics has a section.
    """

    writer: ResidualWriter
    errors: Errors
    kinds: Mapping[str, int]
    dropped: tuple[str, ...]
    is_bare: bool
    _life: ExitStack

    def drop(self) -> None:
        """Let go of the encoding."""
        self._life.close()


@dataclass
class Passes:
    """Passes over the tensors that changed. A context manager, which drops all attempts on leaving.

    Attributes
    ----------
    objects : ObjectStore
    source : DeltaSource
    base : str
        Oid of the base.
    progress : Progress
    calibration : Calibration or None
        Where rounding is to serve what comes out of the base's layers.
    executor : Executor
    targets : sequence of Target
        Those that changed, sorted by key.
    profiled : Mapping[str, Profiled]
        By key.
    bases : TensorSpool
    spread : float or None
        See :attr:`erestore.encoding.quality.Quality.spread`.
    allowed : float or None
        Squared error that may be made, where that is known beforehand.
    references : References
        What the loss of a tensor is compared with where there is a `spread`.
    """

    objects: ObjectStore
    source: DeltaSource
    base: str
    progress: Progress
    calibration: Calibration | None
    executor: Executor
    targets: Sequence[Target]
    profiled: Mapping[str, Profiled]
    bases: TensorSpool
    spread: float | None = None
    allowed: float | None = None
    references: References = OWN_CHANGES
    _lives: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def norm(self) -> float:
        """Squared norm of the residual, without that of statistics."""
        return sum(self.profiled[target.key].norm for target in self.targets)

    @cached_property
    def profiles(self) -> dict[str, step_plan.Profile]:
        """What the first pass found, by key."""
        profiles = {target.key: self.profiled[target.key].profile for target in self.targets}
        return {key: profile for key, profile in profiles.items() if profile is not None}

    def at(self, step: float) -> Attempt:
        """Encode everything at one step, or a finer one where a tensor would lose too large a share of its change."""
        most = self._most(self._share_at(step))
        limits = self._module_steps

        def encode(encoder: TensorEncoder) -> tuple[EncodedTensor, Errors]:
            share = most.get(encoder.opened.target.key, 1.0)
            own_step = even_step(encoder.profile, min(step, limits.get(encoder.opened.target.module, step)), share)
            encoded, errors = self._measured(encoder, own_step)
            for _ in range(_CORRECTIONS):  # of tensors that are small or of a narrow type
                if share >= 1 or errors.rounded <= share * encoder.profiled.norm:
                    break
                own_step *= _CORRECTION
                encoded, errors = self._measured(encoder, own_step)
            return encoded, errors

        return self.encode(encode)

    def _measured(self, encoder: TensorEncoder, step: float) -> tuple[EncodedTensor, Errors]:
        encoded = encoder.encode_at(step, self.calibration)
        return encoded, measure(encoder.opened, encoded.sections)

    @cached_property
    def _module_steps(self) -> dict[str, float]:
        """The largest step of each module in a folder of its own at which it loses the share of its change asked of all.

        Such a module is a small model itself: a sum over all has no regard for it.
        """
        modules: dict[str, list[str]] = {}
        for target in self.targets:
            if target.key in self.profiles:
                modules.setdefault(target.module, []).append(target.key)
        if self.spread is None or self.allowed is None or len(modules) < 2:
            return {}
        share = self._share_of(self.allowed)
        most = self._most(share)
        return {
            module: step_plan.solve_step(
                [self.profiles[key] for key in keys],
                math.fsum(self._reference(key).limit(_AIM * share) for key in keys),
                [most[key] for key in keys],
            )
            for module, keys in modules.items()
        }

    def _reference(self, key: str) -> LossReference:
        return self.references.of(key, self.profiled[key].norm)

    def _share_of(self, error: float) -> float:
        """Return the share of all that is compared with that a squared error is."""
        return ratio(error, self.references.total(self.norm))

    def _share_at(self, step: float) -> float:
        """Return the share of the whole that is lost at a step, as it is allowed or else predicted."""
        if self.spread is None or self.allowed is not None:
            return self._share_of(self.allowed or 0.0)
        predicted = {key: step_plan.plan(profile, step).error for key, profile in self.profiles.items()}
        return shared((Loss(error, self._reference(key)) for key, error in predicted.items()), self.spread)

    def _most(self, share: float) -> Mapping[str, float]:
        """Return the share of what it differs by from its parent that each tensor may lose, 1 for all of it.

        Parameters
        ----------
        share : float
            What all together may lose of the whole.
        """
        if self.spread is None:
            return dict.fromkeys(self.profiles, 1.0)
        limits = {key: self._reference(key).limit(self.spread * share) for key in self.profiles}
        return {key: min(1.0, ratio(limit, self.profiled[key].norm)) for key, limit in limits.items()}

    def encode(self, encode: Callable[[TensorEncoder], tuple[EncodedTensor, Errors]]) -> Attempt:
        """Encode and measure every target; `encode` does both."""

        def work(inputs: PassInput) -> tuple[EncodedTensor, Errors]:
            profiled = self.profiled[inputs.target.key]
            if profiled.profile is None:
                section = profiled.exact or encode_codes(self._encoder(inputs).opened)
                return EncodedTensor((section,)), Errors(0.0, 0.0, 0.0, profiled.outside)
            return encode(self._encoder(inputs))

        life = self._lives.enter_context(ExitStack())
        writer = life.enter_context(ResidualWriter(self.objects, self.base))
        kinds: dict[str, int] = {}
        dropped: list[str] = []
        total = Errors(0.0, 0.0, 0.0)
        results = bounded_map(self.executor, work, self._inputs(self.targets), in_flight=worker_count())
        for number, (target, (encoded, errors)) in enumerate(zip(self.targets, results, strict=True), 1):
            total = Errors(*map(sum, zip(total, errors, strict=True)))
            writer.add(target.key, target.shape, encoded.sections, errors, encoded.lost)
            for section in encoded.sections:
                kinds[section.codec] = kinds.get(section.codec, 0) + 1
            if not encoded.sections:
                dropped.append(target.name)
            self.progress("encoding", number, len(self.targets))
        return Attempt(writer, total, kinds, tuple(dropped), len(dropped) == len(self.profiles), life)

    def step_for(self, allowed: float) -> float:
        """Predict the step that loses `allowed`, a squared error after rounding, or a little less."""
        aim = _AIM * allowed
        most = self._most(self._share_of(aim))
        shares = [most[key] for key in self.profiles]
        return step_plan.solve_step(list(self.profiles.values()), aim / self._rounding_factor(aim), shares)

    def _rounding_factor(self, aim: float) -> float:
        """Estimate from a few tensors how much rounding to a narrow dtype multiplies the predicted error."""
        weights = [target for target in self.targets if self.profiled[target.key].profile is not None]
        narrow = [target for target in weights if target.dtype.itemsize < 4 and len(target.shape) > 1]
        judged = narrow[:: max(1, len(narrow) // _JUDGED)]
        if not judged:
            return 1.0
        step = step_plan.solve_step(list(self.profiles.values()), aim)

        def work(inputs: PassInput) -> tuple[float, float]:
            encoder = self._encoder(inputs)
            sections = encoder.encode_at(step, self.calibration).sections
            return measure(encoder.opened, sections).rounded, step_plan.plan(encoder.profile, step).error

        pairs = list(bounded_map(self.executor, work, self._inputs(judged), in_flight=worker_count()))
        rounded, predicted = (sum(values) for values in zip(*pairs, strict=True))
        return min(_FACTOR_LIMIT, max(1 / _FACTOR_LIMIT, ratio(rounded, predicted)))

    def _inputs(self, targets: Iterable[Target]) -> Iterator[PassInput]:
        """Yield targets with their bases, which are read by one thread."""
        profiles = self.profiles
        for target in targets:
            profile = profiles.get(target.key)
            has_basis = profile is not None and profile.singular_values is not None
            yield PassInput(target, self.bases.get(target.key) if has_basis else None)

    def _encoder(self, inputs: PassInput) -> TensorEncoder:
        return self.source.encoder(inputs.target, self.profiled[inputs.target.key], inputs.basis)

    def __enter__(self) -> Self:
        self._lives.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._lives.close()


class PassInput(NamedTuple):
    """What the encoder of a tensor is made from."""

    target: Target
    basis: torch.Tensor | None
