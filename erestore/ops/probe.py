"""``probe``: how robust a fine-tuned model is against noise and low rank, and how robust its residual alone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.analysis.inference.features import Features, ModelFeatures, ReferenceFeatures
from erestore.analysis.inference.live_model import Examples, load_live, split_texts_and_inputs, tokenized
from erestore.analysis.probe.measure import Bench, Survey
from erestore.analysis.probe.perturbation import EreEncoding, Perturbation, Removal, Truncation
from erestore.analysis.probe.perturbed_weights import AlteredWeights
from erestore.analysis.probe.settings import ProbeSettings
from erestore.analysis.probe.tensors import PARTS, Decompositions, ProbedVariant, is_matrix
from erestore.errors import CheckpointError, NotFoundError, UsageError
from erestore.history.revision import Revision, open_revision
from erestore.objects.squared_errors import ratio
from erestore.progress import Progress, silent
from erestore.residual import allocation
from erestore.residual.codecs import ere
from erestore.results.probe import (
    AllocationPoint,
    AllocationProbe,
    FeaturesUsed,
    PerturbPoint,
    PerturbProbe,
    ProbeResult,
    StiefelPoint,
    StiefelProbe,
    TruncatePoint,
    TruncateProbe,
)
from erestore.store import Store
from erestore.variant.variant import Variant

if TYPE_CHECKING:
    import torch

    from erestore.analysis.inference.input_moments import ModelInputs


def probe(
    store: Store,
    revision: str,
    *,
    settings: ProbeSettings | None = None,
    tensors: str | None = None,
    inputs: Examples | None = None,
    model: torch.nn.Module | None = None,
    features: Features | None = None,
    progress: Progress = silent,
) -> ProbeResult:
    """Alter a variant's weights, or only what it changed of its base, and measure what that does. Nothing is stored.

    Errors are those of the weights; with inputs or `features` it also measures what becomes of a model's answers. A few
    tensors are in memory at a time, and of a model that is run one copy.

    Parameters
    ----------
    store : Store
    revision : str
        A variant, or an expression.
    settings : ProbeSettings, optional
        Which probes, and at which settings; by default noise and truncation.
    tensors : str, optional
        Alter only tensors whose names match this pattern (``*attention*``).
    inputs : iterable, optional
        Texts, which take the variant's own tokenizer, or where it has none its base's; or inputs of the model: mappings of
        keyword arguments, tuples of arguments, or single tensors. Features are its last hidden state, averaged over
        positions, else its logits, else its first output.
    model : torch.nn.Module, optional
        What is run on the inputs, in its own dtype; by default the variant is loaded by transformers, without a head, in
        float32. Its tensors are found by the variant's names, with or without a prefix, and are restored at the end.
    features : Callable, optional
        Instead of inputs: given weights by the variant's names, which are made when they are asked for, returns features of
        shape ``(inputs, ...)``.
    progress : Progress

    Returns
    -------
    ProbeResult

    Raises
    ------
    UnknownRevisionError
        If `revision` names nothing.
    NotFoundError
        If no tensor matches `tensors`.
    UsageError
        If there is no residual, or none that can be probed so, or if the answers cannot be compared.
    CheckpointError
        If transformers cannot load the variant, the model is of another architecture, or cannot be run on the inputs.
    """
    settings = settings or ProbeSettings()
    if features is not None and (inputs is not None or model is not None):
        raise UsageError("Features are given by a function or by a model, not by both.", hint="Leave out one of them.")
    if model is not None and inputs is None:
        raise UsageError("There is nothing to run the model on.", hint="Give its inputs too.")
    opened = open_revision(store, revision)
    if opened.commit.edge == "imported":
        raise UsageError(f"'{revision}' is a base, which has no residual.", hint="Name a variant of it.")
    with ExitStack() as stack:
        has_features = inputs is not None or features is not None
        decompositions = stack.enter_context(Decompositions(with_bases=has_features))
        probed = ProbedVariant.open(opened.variant(store), tensors, decompositions)
        survey = _survey(probed, settings, revision, tensors, progress)
        answers = features
        if inputs is not None:
            answers = stack.enter_context(_live(store, probed.variant, inputs, model))
        reference = None if answers is None else ReferenceFeatures.of(answers, AlteredWeights(survey.probed, None))
        bench = Bench(survey.probed, answers, reference, progress)
        return _result(store, opened, tensors, survey, bench, settings)


def _survey(
    probed: ProbedVariant, settings: ProbeSettings, revision: str, pattern: str | None, progress: Progress
) -> Survey:
    """Look at the tensors that there are, and see that they can be probed as asked."""
    if not probed.targets and pattern is not None:
        raise NotFoundError(
            f"'{revision}' and its base share no floating tensor that matches '{pattern}'.",
            hint="Use * for any part of a name: '*attention*'.",
        )
    survey = Survey.of(probed, progress)
    if set(settings.probes) != {"perturb"} and not any(map(is_matrix, survey.probed.targets)):
        raise UsageError(
            f"'{revision}' and its base share no finite matrix, so there is no rank to look at.",
            hint="Ask for noise alone.",
        )
    if not survey.norms.residual:
        why = " but for values that are not finite" if survey.left_out else ""
        raise UsageError(
            f"'{revision}' does not differ from its base in the tensors that are probed{why}: its residual is zero.",
            hint="Name another variant, or other tensors.",
        )
    return survey


@contextmanager
def _live(store: Store, variant: Variant, inputs: Examples, model: torch.nn.Module | None) -> Iterator[ModelFeatures]:
    """Give what a model answers to inputs, by default the variant itself as transformers loads it."""
    texts, batches = split_texts_and_inputs(inputs)
    with tempfile.TemporaryDirectory() as directory:
        live = model
        if live is None:
            # Cosines near 1 take more digits than bfloat16 has.
            live = load_live(variant, Path(directory, "model")).float().eval()
        examples = list(batches) if texts is None else _tokenized(store, variant, Path(directory), texts, live)
        features = ModelFeatures.of(live, examples, variant)
        with nullcontext() if model is None else features.kept():
            yield features


def _tokenized(
    store: Store, variant: Variant, directory: Path, texts: Sequence[str], model: torch.nn.Module
) -> Sequence[ModelInputs]:
    """Turn texts into inputs with the variant's tokenizer; many who fine-tune save none, and then the base's will do."""
    try:
        return tokenized(variant, directory / "tokenizer", texts, model)
    except CheckpointError as error:
        manifests = (store.manifest_of(oid) for oid in store.base_commits().values())
        base = next((manifest for manifest in manifests if manifest.base == variant.manifest.base), None)
        if base is not None:
            with suppress(CheckpointError):
                return tokenized(Variant(store.objects, base), directory / "base-tokenizer", texts, model)
        raise error from None


def _result(
    store: Store, opened: Revision, pattern: str | None, survey: Survey, bench: Bench, settings: ProbeSettings
) -> ProbeResult:
    used = None
    if bench.reference is not None:
        kind = bench.features.kind if isinstance(bench.features, ModelFeatures) else "given"
        used = FeaturesUsed(kind, len(bench.reference.features), bench.cosine(Removal("residual")))
    # The codec's probes first: they need singular vectors, with which truncation has its singular values for nothing.
    spectra = bench.spectra() if {"allocation", "stiefel"} & set(settings.probes) else {}
    allocated = _allocation(spectra, survey, bench, settings) if "allocation" in settings.probes else None
    projected = _stiefel(spectra, survey, bench, settings) if "stiefel" in settings.probes else None
    targets = survey.probed.targets
    return ProbeResult(
        revision=opened.text,
        commit=opened.oid,
        base=store.base_name(opened.manifest.base),
        pattern=pattern,
        tensors=len(targets),
        matrices=sum(map(is_matrix, targets)),
        relative_norm=math.sqrt(ratio(survey.norms.residual, survey.norms.base)),
        left_out=survey.left_out,
        features=used,
        perturb=_perturb(survey, bench, settings) if "perturb" in settings.probes else None,
        truncate=_truncate(survey, bench, settings) if "truncate" in settings.probes else None,
        allocation=allocated,
        stiefel=projected,
    )


def _perturb(survey: Survey, bench: Bench, settings: ProbeSettings) -> PerturbProbe:
    tried = [Perturbation(part, sigma, settings.seed) for part in PARTS for sigma in settings.sigmas]
    points = tuple(
        PerturbPoint(
            noise.part,
            noise.sigma,
            survey.error(noise.part, effect),
            survey.error("residual", effect),
            effect.cosine,
        )
        for noise, effect in zip(tried, bench.measure(tried, "noise"), strict=True)
    )
    return PerturbProbe(settings.seed, points)


def _truncate(survey: Survey, bench: Bench, settings: ProbeSettings) -> TruncateProbe:
    tried = [Truncation(part, share) for part in PARTS for share in settings.shares]
    points = tuple(
        TruncatePoint(
            cut.part,
            cut.share,
            survey.error(cut.part, effect),
            survey.error("residual", effect),
            effect.cosine,
        )
        for cut, effect in zip(tried, bench.measure(tried, "truncation"), strict=True)
    )
    return TruncateProbe(points)


def _allocation(
    spectra: Mapping[str, torch.Tensor], survey: Survey, bench: Bench, settings: ProbeSettings
) -> AllocationProbe:
    layers = _Layers(spectra, survey.probed)
    ways: list[tuple[str, float | None]] = [("uniform", None), *(("ere", alpha) for alpha in settings.alphas)]
    tried = [
        EreEncoding("residual", layers.ranks(way, settings.rank, alpha or 0.0), settings.bits, project=True)
        for way, alpha in ways
    ]
    points = tuple(
        AllocationPoint(
            way,
            alpha,
            layers.size(encoding),
            sum(not rank for rank in encoding.ranks.values()),
            survey.error("residual", effect),
            effect.cosine,
        )
        for (way, alpha), encoding, effect in zip(ways, tried, bench.measure(tried, "allocation"), strict=True)
    )
    return AllocationProbe(settings.rank, settings.bits, len(spectra), points)


def _stiefel(
    spectra: Mapping[str, torch.Tensor], survey: Survey, bench: Bench, settings: ProbeSettings
) -> StiefelProbe:
    layers = _Layers(spectra, survey.probed)
    ranks = layers.ranks("ere", settings.rank, settings.alpha)
    tried = [EreEncoding("residual", ranks, bits, project) for project in (True, False) for bits in ere.BITS]
    points = tuple(
        StiefelPoint(
            encoding.bits, encoding.project, layers.size(encoding), survey.error("residual", effect), effect.cosine
        )
        for encoding, effect in zip(tried, bench.measure(tried, "projection"), strict=True)
    )
    return StiefelProbe(settings.rank, settings.alpha, len(spectra), points)


class _Layers:
    """The matrices that a rank budget is spread over."""

    def __init__(self, spectra: Mapping[str, torch.Tensor], probed: ProbedVariant) -> None:
        if not spectra:
            raise UsageError(
                "None of the matrices that changed is large enough for factors.", hint="Ask for noise and truncation."
            )
        self._spectra = {key: values.numpy() for key, values in spectra.items()}
        self._shapes = {target.key: target.matrix for target in probed.targets if target.key in spectra}

    def ranks(self, way: str, rank: int, alpha: float) -> dict[str, int]:
        """Return the rank of every layer under an allocation."""
        shapes = [self._shapes[key] for key in self._spectra]
        layer_ranks = allocation.ALLOCATIONS[way](list(self._spectra.values()), shapes, rank, alpha)
        return dict(zip(self._spectra, layer_ranks, strict=True))

    def size(self, encoding: EreEncoding) -> int:
        """Return the bytes that the codes of all layers take."""
        return sum(ere.size(self._shapes[key], rank, encoding.bits) for key, rank in encoding.ranks.items())
