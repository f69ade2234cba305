"""One variant against another parent: what that would take, and doing it.

What is encoded is the linear value, so that the rounding of the variant's dtype is not; what is lost of it is measured after
that rounding. Of an exact variant it is the exact value, which stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from erestore.checkpoint.dtypes import is_floating
from erestore.checkpoint.roles import Role
from erestore.encoding import computed_tensor
from erestore.encoding.computed_source import ComputedCheckpoint, computed_deltas, difference_from, on_terms, opened
from erestore.encoding.profile import Profiled
from erestore.encoding.quality import Outcome, Quality
from erestore.encoding.residual_encoder import CheckpointDeltas, Encoder
from erestore.encoding.target import Target, divide
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.ingest.computed_writer import write_computed
from erestore.ingest.variant_writer import StoredVariant
from erestore.progress import Progress
from erestore.records import Layout, LayoutTensor, Manifest, Term, normal_terms
from erestore.repacking.parent_choice import Cost
from erestore.residual import step_plan
from erestore.residual.evenness import OWN_CHANGES, References
from erestore.residual.step_plan import Profile
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult
from erestore.variant.rank import WITHOUT_FACTORS
from erestore.variant.variant import Variant

_MOST = 0.5
"""Largest relative error that is asked for: whatever is lost of a small difference, something of it is kept."""


@dataclass(frozen=True)
class Original:
    """What is to be encoded anew.

    Attributes
    ----------
    variant : Variant
    """

    variant: Variant

    @cached_property
    def is_exact(self) -> bool:
        """Whether the exact value is known, and stays."""
        return self.variant.patch is not None

    @cached_property
    def targets(self) -> list[Target]:
        """The tensors that differ from the base by residuals."""
        targets, _ = divide(ComputedCheckpoint(self.variant), self.keys, self.variant.base)
        return [target for target in targets if target.key not in self.variant.manifest.dense]

    @property
    def weights(self) -> list[Target]:
        """Those of them that a bound is over."""
        return [target for target in self.targets if target.role is Role.WEIGHT]

    @cached_property
    def keys(self) -> dict[str, str]:
        """The base's name of every tensor."""
        return {name: tensor.key for name, tensor in self.variant.layout.tensors.items()}

    def profiles(self, parent: Variant, progress: Progress) -> Iterator[Profile]:
        """Look at what is to be added to a parent, tensor by tensor."""
        parent.open_parts()
        look = self._exact_look(parent) if self.is_exact else self._linear_look(parent)
        with tensor_threads() as executor:
            results = bounded_map(executor, look, self.weights, in_flight=worker_count())
            for number, result in enumerate(results, 1):
                progress("trying parents", number, len(self.weights))
                if result.profile is not None:
                    yield result.profile

    def _exact_look(self, parent: Variant) -> Callable[[Target], Profiled]:
        deltas = CheckpointDeltas(ComputedCheckpoint(self.variant), parent)
        return lambda target: deltas.profile(target, Quality(squared_error=0.0))

    def _linear_look(self, parent: Variant) -> Callable[[Target], Profiled]:
        differences = difference_from(self.variant, parent)
        return lambda target: computed_tensor.profile(opened(target, parent, differences.of(target)))

    def squared_changes(self) -> dict[str, float]:
        """Return the squared norm of what it changed of the base, by key."""
        base = on_terms(self.variant.objects, self.variant, ())
        differences = difference_from(self.variant, base)
        self.variant.open_parts()

        def look(target: Target) -> float:
            return computed_tensor.squared_change(opened(target, base, differences.of(target)))

        with tensor_threads() as executor:
            norms = list(bounded_map(executor, look, self.weights, in_flight=worker_count()))
        return {target.key: norm for target, norm in zip(self.weights, norms, strict=True)}

    def write(
        self, objects: ObjectStore, terms: tuple[Term, ...], quality: Quality, progress: Progress
    ) -> StoredVariant:
        """Encode it against a combination of residuals; losses are compared with what it changed of the base."""
        variant = Variant(objects, self.variant.manifest, layout=self.variant.layout)
        references = References(changes=self.squared_changes()) if terms else OWN_CHANGES
        quality = replace(quality, exact=self.is_exact)
        return write_computed(objects, variant, quality, terms=terms, references=references, progress=progress)


def predicted_costs(
    original: Original, parent: Variant, allowed: float, noise: float, progress: Progress
) -> tuple[Cost, Cost]:
    """Predict what a variant's own residual against a parent takes.

    Parameters
    ----------
    original : Original
    parent : Variant
    allowed : float
        Squared error.
    noise : float
        Squared norm of an error that the parent may have got by then, alike in all elements.
    progress : Progress

    Returns
    -------
    tuple of Cost
        Without that error, and with it.
    """
    profiles = list(original.profiles(parent, progress))
    matrices = sum(math.prod(tensor.shape) for tensor in parent.base.values() if len(tensor.shape) > 1)
    elements = sum(math.prod(profile.shape) for profile in profiles)
    noisy = [_with_noise(profile, noise / max(1, elements)) for profile in profiles]
    cost = _cost(profiles, allowed, matrices)
    return cost, _cost(noisy, allowed, matrices) if noise else cost


def _cost(profiles: Sequence[step_plan.Profile], allowed: float, matrices: int) -> Cost:
    """Return the size of all sections at the step that is allowed, and their rank over so many elements of matrices."""
    if sum(profile.energy + profile.base_multiple_energy for profile in profiles) <= allowed:
        return Cost(0.0, 0.0)
    step = step_plan.solve_step(profiles, allowed)
    size = weighted = 0.0
    for profile in profiles:
        plan = step_plan.plan(profile, step)
        size += plan.bits / 8
        if profile.shape[0] > 1:
            weighted += math.prod(profile.shape) * (plan.rank + WITHOUT_FACTORS * plan.remainder)
    return Cost(size, weighted / max(1, matrices))


def _with_noise(profile: step_plan.Profile, variance: float) -> step_plan.Profile:
    """Return the profile of a tensor's residual with white noise added."""
    energy = profile.energy + variance * math.prod(profile.shape)
    values = profile.singular_values
    if values is not None:
        values = (values**2 + variance * max(profile.shape)).sqrt()
    scales = (profile.row_scales**2 + variance).sqrt()
    return replace(profile, energy=energy, singular_values=values, row_scales=scales)


def reencode(
    objects: ObjectStore, original: Original, terms: Sequence[Term], allowed: float, progress: Progress
) -> StoredVariant | None:
    """Encode a variant against a combination of residuals.

    Parameters
    ----------
    objects : ObjectStore
        Where it is written, and the combination is read.
    original : Original
    terms : sequence of Term
    allowed : float
        Squared error after the final rounding.
    progress : Progress

    Returns
    -------
    StoredVariant or None
        None where that little cannot be lost, or where nothing of the difference would be kept, so that there would be
        no residual of its own that says what was lost.
    """
    quality = Quality(max_error=_MOST, squared_error=allowed, exact=original.is_exact)
    stored = original.write(objects, tuple(terms), quality, progress)
    return stored if stored.residuals and stored.outcome.squared_error <= allowed else None


def mean_of(variants: Sequence[Variant]) -> Original:
    """Return the mean of some variants of one base, as far as it differs from that by residuals."""
    objects = variants[0].objects
    share = Fraction(1, len(variants))
    terms = normal_terms(
        tuple(Term(term.residual, term.coefficient * share) for variant in variants for term in variant.manifest.terms)
    )
    base = variants[0].base
    tensors = {key: LayoutTensor(key, "F64", tensor.shape) for key, tensor in base.items() if is_floating(tensor.dtype)}
    layout = Layout("safetensors", is_directory=True, files=(), tensors=tensors)
    return Original(Variant(objects, Manifest(variants[0].manifest.base, terms, ""), layout=layout))


def write_mean(objects: ObjectStore, mean: Original, allowed: float, progress: Progress) -> PutResult | None:
    """Write the mean of some variants as a residual on their base; what it loses, the variants' own make up for."""
    variant, base = mean.variant, on_terms(objects, mean.variant, ())
    quality = Quality(max_error=_MOST, squared_error=allowed)
    with computed_deltas(variant, base, difference_from(variant, base)) as deltas:
        encoder = Encoder(objects, deltas, variant.manifest.base, quality, progress)
        return encoder.run(mean.targets, Outcome(), lambda _: None)
