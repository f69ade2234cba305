"""One tensor's residual: encoded as planned, and decoded again as a reader does to see what that lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from erestore.arrays import as_tensor, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype
from erestore.encoding.profile import Profiled, subtract_base_multiple
from erestore.encoding.target import LoadedTarget, OpenTarget
from erestore.objects.calibration import Calibration
from erestore.objects.squared_errors import Errors
from erestore.residual import factorise, quantisation, step_plan
from erestore.residual.codecs import gamma, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.registry import codec
from erestore.residual.noise_shaping import shape_codes
from erestore.residual.rounding import round_to
from erestore.residual.spectrum import squared_norm
from erestore.variant.variant import evaluate


@dataclass(frozen=True)
class EncodedTensor:
    """One tensor's sections.

    Attributes
    ----------
    sections : tuple of EncodedSection
    lost : Mapping[int, float]
        Squared error where a band's parts and those after it are missing, by band.
    """

    sections: tuple[EncodedSection, ...]
    lost: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorEncoder(ABC):
    """One tensor of the second pass.

    Attributes
    ----------
    profiled : Profiled
        With a profile.
    basis : torch.Tensor or None
        Singular vectors of the short side, where the profile has a spectrum.
    """

    profiled: Profiled
    basis: torch.Tensor | None

    @property
    @abstractmethod
    def opened(self) -> OpenTarget:
        """Original and parent."""

    @property
    def key(self) -> str:
        """The base's name of the tensor."""
        return self.opened.target.key

    @property
    def profile(self) -> step_plan.Profile:
        """What the first pass found."""
        assert self.profiled.profile is not None
        return self.profiled.profile

    @abstractmethod
    def encode_at(self, step: float, calibration: Calibration | None) -> EncodedTensor:
        """Encode the residual in the way that is cheapest where `step` is that of a tensor of weight 1."""


@dataclass(frozen=True)
class LoadedEncoder(TensorEncoder):
    """One whose tensors are in memory.

    Attributes
    ----------
    loaded : LoadedTarget
    """

    loaded: LoadedTarget

    @property
    def opened(self) -> LoadedTarget:
        """See :attr:`TensorEncoder.opened`."""
        return self.loaded

    def encode_at(self, step: float, calibration: Calibration | None) -> EncodedTensor:
        """See :meth:`TensorEncoder.encode_at`."""
        delta, profile = self.loaded.delta(), self.profile
        own_step = profile.own_step(step)
        before: tuple[EncodedSection, ...] = ()
        if profile.base_multiple is not None and profile.takes_base_multiple(own_step):
            subtract_base_multiple(delta, self.loaded, profile.base_multiple)
            before = (gamma.encode(profile.base_multiple),)
        encoded = _encode_as(step_plan.plan(profile, step), self, delta, own_step, calibration)
        return replace(encoded, sections=before + encoded.sections)


def _encode_as(
    plan: step_plan.Plan, encoder: LoadedEncoder, delta: torch.Tensor, step: float, calibration: Calibration | None
) -> EncodedTensor:
    """Encode one tensor's residual as planned, times its gain; `delta` is used up."""
    sections: list[EncodedSection] = []
    lost: dict[int, float] = {}
    rest, gain = delta, encoder.profile.gain(plan)
    if plan.rank:
        assert encoder.basis is not None
        assert encoder.profile.singular_values is not None
        sigma = encoder.profile.singular_values[: plan.rank]
        basis, side, rounding = encoder.basis[:, : plan.rank], encoder.profiled.side, encoder.profile.objective.rounding
        codes = factorise.quantise(delta, basis, sigma, side, step, rounding, gain)
        if codes.rank:
            sections.append(lowrank2.encode(codes))
            left, right = (as_tensor(side).to(delta) for side in codes.sides())
            rest = delta.addmm_(left, right.T, alpha=-1)
            lost |= factorise.prefix_errors(codes, rest)
    if plan.remainder:
        missing = squared_norm(rest)
        rest.mul_(gain)
        size = quantisation.usable_step(rest, step)
        metrics = calibration.metrics(encoder.key, rest.shape[1]) if calibration else None
        rounding = quantisation.quantise_runs if metrics is None else partial(shape_codes, metrics=metrics)
        parts = quantisation.quantise_matrix(rest, size, rounding)
        if any(bool(part.any()) for part in parts):
            lost[remainder.band_of((*rest.shape,))] = missing
            if encoder.profile.objective.fits_step:
                size = quantisation.fitted_step(rest, parts)
            sections.append(remainder.encode(parts, size, (*rest.shape,)))
    return EncodedTensor(tuple(sections), lost)


def measure(opened: OpenTarget, encoded: tuple[EncodedSection, ...]) -> Errors:
    """Decode sections as a reader does and return what they lose, and the residual's own squared norm."""
    sections = tuple(
        codec(section.codec).decode(section.parameters, [part.content for part in section.parts], opened.shape)
        for section in encoded
    )
    dtype = array_dtype(opened.target.info.dtype)
    linear = rounded = norm = 0.0
    with without_warnings():
        for start, stop, original, parent, base in opened.blocks():
            before = widen(round_to(parent, dtype))
            norm += float(((original - before) ** 2).sum())
            value = parent
            if sections:
                value = parent + evaluate(sections, start, stop, widen(base))
            linear += float(((original - value) ** 2).sum())
            rounded += float(((original - widen(round_to(value, dtype))) ** 2).sum())
    return Errors(linear, rounded, norm)
