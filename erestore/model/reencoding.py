"""One variant against another parent: what that would take, and doing it.

What is encoded is the linear value, so that the rounding of the variant's dtype is not; what is lost of it is measured after
that rounding. Of an exact variant it is the exact value, which stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from erestore.arrays import as_array, widen
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import is_floating
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.model.choosing import Cost
from erestore.model.committing import StoredVariant
from erestore.model.computed import ComputedCheckpoint, linear_values, write_computed
from erestore.model.encoding import Encoder
from erestore.model.profiles import profile
from erestore.model.quality import SMALLEST_MAX_ERROR, Outcome, Quality
from erestore.model.ranks import WITHOUT_FACTORS
from erestore.model.targets import Loaded, Target, divide
from erestore.model.variant import Variant, row_blocks
from erestore.progress import Progress
from erestore.records import Layout, LayoutTensor, Manifest, Term, normal_terms
from erestore.residual import planning
from erestore.storage.objects import Objects
from erestore.storage.segments import Written

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
    def values(self) -> Checkpoint:
        """Exact values, or else linear ones."""
        return ComputedCheckpoint(self.variant) if self.is_exact else linear_values(self.variant)

    @cached_property
    def targets(self) -> list[Target]:
        """The tensors that differ from the base by residuals."""
        keys = {name: tensor.key for name, tensor in self.variant.layout.tensors.items()}
        targets, _ = divide(ComputedCheckpoint(self.variant), keys, self.variant.base)
        return [target for target in targets if target.key not in self.variant.manifest.dense]

    def on(self, objects: Objects, terms: Sequence[Term]) -> Variant:
        """Open a combination of residuals as a parent."""
        manifest = Manifest(self.variant.manifest.base, tuple(terms), self.variant.manifest.layout)
        return Variant(objects, manifest, layout=self.variant.layout)

    def loaded(self, parent: Variant) -> Iterator[Loaded]:
        """Yield the tensors and the parent's."""
        parent.open_parts()
        return (Loaded.read(target, self.values.read, parent) for target in self.targets)


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
    found = []
    with tensor_threads() as executor:
        results = bounded_map(
            executor,
            lambda loaded: profile(loaded, factorise=True, gamma=True).profile,
            original.loaded(parent),
            in_flight=worker_count(),
        )
        for number, seen in enumerate(results, 1):
            found.append(seen)
            progress("trying parents", number, len(original.targets))
    profiles = [seen for seen in found if seen is not None]
    matrices = sum(math.prod(held.shape) for held in parent.base.values() if len(held.shape) > 1)
    elements = sum(math.prod(seen.shape) for seen in profiles)
    noisy = [_with_noise(seen, noise / max(1, elements)) for seen in profiles]
    kept = _cost(profiles, allowed, matrices)
    return kept, _cost(noisy, allowed, matrices) if noise else kept


def _cost(profiles: Sequence[planning.Profile], allowed: float, matrices: int) -> Cost:
    """Return the size of all sections at the step that is allowed, and their rank over so many elements of matrices."""
    if sum(seen.energy + seen.gamma_energy for seen in profiles) <= allowed:
        return Cost(0.0, 0.0)
    step = planning.solve_step(profiles, allowed)
    size = weighted = 0.0
    for seen in profiles:
        plan = planning.plan(seen, step)
        size += plan.bits / 8
        if seen.shape[0] > 1:
            weighted += math.prod(seen.shape) * (plan.rank + WITHOUT_FACTORS * plan.remainder)
    return Cost(size, weighted / max(1, matrices))


def _with_noise(seen: planning.Profile, variance: float) -> planning.Profile:
    """Return the profile of a tensor's residual with white noise added."""
    energy = seen.energy + variance * math.prod(seen.shape)
    values = seen.singular_values
    if values is not None:
        values = (values**2 + variance * max(seen.shape)).sqrt()
    scales = (seen.row_scales**2 + variance).sqrt()
    return replace(seen, energy=energy, singular_values=values, row_scales=scales)


def reencode(
    objects: Objects, original: Original, terms: Sequence[Term], allowed: float, progress: Progress
) -> StoredVariant | None:
    """Encode a variant against a combination of residuals.

    Parameters
    ----------
    objects : Objects
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
    distance = _squared_distance(original, original.on(objects, terms))
    if not distance or allowed < SMALLEST_MAX_ERROR * distance:
        return None
    quality = Quality(max_error=min(_MOST, allowed / distance), exact=original.is_exact)
    variant = Variant(objects, original.variant.manifest, layout=original.variant.layout)
    linear = None if original.is_exact else original.values
    stored = write_computed(objects, variant, quality, terms=tuple(terms), linear=linear, progress=progress)
    return stored if stored.own and stored.outcome.squared_error <= allowed else None


def _squared_distance(original: Original, parent: Variant) -> float:
    def work(loaded: Loaded) -> float:
        total = 0.0
        for start, stop in row_blocks(loaded.target.shared, loaded.own.shape[1]):
            own = widen(as_array(loaded.own[start:stop]))
            total += float(((own - loaded.parent.rows(start, stop)) ** 2).sum())
        return total

    with tensor_threads() as executor:
        return math.fsum(bounded_map(executor, work, original.loaded(parent), in_flight=worker_count()))


def mean_of(variants: Sequence[Variant]) -> Original:
    """Return the mean of some variants of one base, as far as it differs from that by residuals."""
    objects = variants[0].objects
    share = Fraction(1, len(variants))
    terms = normal_terms(
        tuple(Term(term.residual, term.coefficient * share) for variant in variants for term in variant.manifest.terms)
    )
    base = variants[0].base
    tensors = {key: LayoutTensor(key, "F64", held.shape) for key, held in base.items() if is_floating(held.dtype)}
    layout = Layout("safetensors", is_directory=True, files=(), tensors=tensors)
    return Original(Variant(objects, Manifest(variants[0].manifest.base, terms, ""), layout=layout))


def write_mean(objects: Objects, mean: Original, allowed: float, progress: Progress) -> Written | None:
    """Write the mean of some variants as a residual on their base; what it loses, the variants' own make up for."""
    base = mean.on(objects, ())
    distance = _squared_distance(mean, base)
    if not distance:
        return None
    quality = Quality(max_error=min(_MOST, max(SMALLEST_MAX_ERROR, allowed / distance)))
    return Encoder(objects, mean.values, base, quality, progress).run(mean.targets, Outcome(), lambda _: None)
