"""Measuring what alterations do to a variant: to its weights tensor by tensor, and to what a model answers with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

from erestore.analysis.inference.features import Features, ReferenceFeatures
from erestore.analysis.probe.perturbation import Alteration
from erestore.analysis.probe.perturbed_weights import AlteredWeights
from erestore.analysis.probe.tensors import Norms, Part, ProbedTensor, ProbedVariant, is_encoded
from erestore.encoding.target import Target
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.objects.squared_errors import ratio
from erestore.progress import Progress

_T = TypeVar("_T")


class Measured(NamedTuple):
    """What one alteration does.

    Attributes
    ----------
    squared_error : float
        Squared norm of what it changes.
    cosine : float or None
        Mean over all inputs, of what the model answers; None without a model, or where there is none.
    """

    squared_error: float
    cosine: float | None


@dataclass(frozen=True)
class Survey:
    """What is there to be altered.

    Attributes
    ----------
    probed : ProbedVariant
        Without what is left out.
    norms : Norms
        Of all its tensors together.
    left_out : tuple of str
        Own names of tensors without norms.
    """

    probed: ProbedVariant
    norms: Norms
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, probed: ProbedVariant, progress: Progress) -> Survey:
        """Look at every tensor once."""
        measured = _each(probed, probed.targets, ProbedTensor.norms, "reading", progress)
        bad = [target for target, norms in zip(probed.targets, measured, strict=True) if norms is None]
        totals = (
            Norms(*(math.fsum(values) for values in zip(*filter(None, measured), strict=True)))
            if any(measured)
            else None
        )
        remaining = probed.without({target.key for target in bad})
        return cls(remaining, totals or Norms(0.0, 0.0, 0.0), tuple(target.name for target in bad))

    def error(self, part: Part, measured: Measured) -> float:
        """Return a squared error over the squared norm of a part."""
        return ratio(measured.squared_error, self.norms.weights if part == "weights" else self.norms.residual)


@dataclass(frozen=True)
class Bench:
    """What alterations are measured with.

    Attributes
    ----------
    probed : ProbedVariant
    features : Features or None
        What a model answers under weights, if that is to be looked at.
    reference : ReferenceFeatures or None
        What it answers under the variant's own.
    progress : Progress
    """

    probed: ProbedVariant
    features: Features | None
    reference: ReferenceFeatures | None
    progress: Progress

    def spectra(self) -> dict[str, torch.Tensor]:
        """Return the singular values of all residuals that the codec ``ere`` gives a rank, by the base's name."""
        targets = [target for target in self.probed.targets if is_encoded(target)]
        spectra = _each(
            self.probed,
            targets,
            lambda tensor: tensor.decomposition("residual").singular_values,
            "spectra",
            self.progress,
        )
        return {target.key: values for target, values in zip(targets, spectra, strict=True) if values.any()}

    def measure(self, alterations: Sequence[Alteration], stage: str) -> list[Measured]:
        """Measure alterations, in order; `stage` is what progress says."""

        def errors(tensor: ProbedTensor) -> list[float]:
            return [alteration.squared_error(tensor) for alteration in alterations]

        measured = _each(self.probed, self.probed.targets, errors, stage, self.progress)
        totals = [math.fsum(values) for values in zip(*measured, strict=True)]
        cosines: list[float | None] = []
        for number, alteration in enumerate(alterations, 1):
            cosines.append(self.cosine(alteration))
            if self.reference is not None:
                self.progress(f"{stage}, features", number, len(alterations))
        return [Measured(*pair) for pair in zip(totals, cosines, strict=True)]

    def cosine(self, alteration: Alteration) -> float | None:
        """Return the cosine of what a model answers under an alteration; None without a model."""
        if self.features is None or self.reference is None:
            return None
        return self.reference.cosine(self.features, AlteredWeights(self.probed, alteration))


def _each(
    probed: ProbedVariant,
    targets: Sequence[Target],
    look: Callable[[ProbedTensor], _T],
    stage: str,
    progress: Progress,
) -> list[_T]:
    """Look at tensors, a few at a time, and return what was found in order."""
    results = []
    with tensor_threads() as executor:
        for result in bounded_map(
            executor, lambda target: look(probed.load(target)), targets, in_flight=worker_count()
        ):
            results.append(result)
            progress(stage, len(results), len(targets))
    return results
