"""``calibrate``: what goes into a base's layers, measured once, so that later commits lose less of what comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.checkpoint.writing import write_checkpoint
from erestore.errors import CheckpointError, UsageError
from erestore.model.calibrating import ModelInputs, fill_model, measure_moments
from erestore.model.calibrations import store_calibration
from erestore.model.variant import Variant
from erestore.model.writing import write_variant
from erestore.progress import Progress, silent
from erestore.storage.calibrations import point
from erestore.storage.leases import Lease
from erestore.store import Store

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CalibrateResult:
    """What ``calibrate`` did; the fields are those of its JSON.

    Attributes
    ----------
    base : str
    note : str
        Oid of the note that holds the moments.
    stored_bytes : int
        Bytes that this added to the store.
    samples : int
        Examples that were run.
    tensors : int
        Tensors whose inputs are known now.
    """

    base: str
    note: str
    stored_bytes: int
    samples: int
    tensors: int


def calibrate(
    store: Store,
    base: str,
    inputs: Iterable[str | ModelInputs],
    *,
    model: torch.nn.Module | None = None,
    progress: Progress = silent,
) -> CalibrateResult:
    """Run a base on examples and keep second moments of what goes into its linear layers, beside it.

    Commits on the base use them from then on; a former calibration of it no longer counts.

    Parameters
    ----------
    store : Store
    base : str
        A ref of a base.
    inputs : iterable
        Texts, which take the base's own tokenizer, or inputs of the model: mappings of keyword arguments, tuples of
        arguments, or single tensors.
    model : torch.nn.Module, optional
        By default the base is loaded by transformers. Of a model that is given, its own weights are used; layers are found
        by the base's tensor names, with or without a prefix.
    progress : Progress

    Returns
    -------
    CalibrateResult

    Raises
    ------
    UnknownRevisionError
        If there is no such base.
    CheckpointError
        If transformers cannot load the base, or the model is of another architecture.
    UsageError
        If `base` is no base, or there is nothing to learn from the inputs.
    """
    operation = store.begin()
    commit = store.commit_record(store.resolve(base))
    if commit.edge != "imported":
        raise UsageError(f"'{base}' is a variant, and bases are calibrated.", hint="Name the base that it stands on.")
    variant = Variant.open(store.objects, commit.manifest)
    given = iter(inputs)
    first = next(given, None)
    if first is None:
        raise UsageError("There are no examples to calibrate with.", hint="Give some texts or inputs of the model.")
    examples, seen = chain([first], given), 0
    with Lease(store.storage, "writer", operation.writer) as lease, tempfile.TemporaryDirectory() as place:
        live = _load(variant, Path(place, "model")) if model is None else model
        batches: Iterable[ModelInputs]
        if isinstance(first, str):
            texts = _texts(examples)
            batches, seen = _tokenized(variant, Path(place, "tokenizer"), texts, live), len(texts)
        else:
            batches = _model_inputs(examples)
        calls, total = 0, len(batches) if isinstance(batches, Sized) else 0

        def called() -> None:
            nonlocal calls
            calls += 1
            progress("calibrating", calls, max(calls, total))

        moments = measure_moments(live, batches, variant.base, called)
        seen = seen or calls
        written = store_calibration(store.objects, variant.manifest.base, moments, seen)
        lease.confirm()
        entry = point(
            store.storage,
            variant.manifest.base,
            written.oid,
            operation=operation.id,
            writer=operation.writer,
            time=operation.time,
        )
    return CalibrateResult(base, written.oid, written.added_bytes + entry, seen, len(moments))


def _load(variant: Variant, directory: Path) -> torch.nn.Module:
    """Load the base as its library reads it, and see that it has the base's weights."""
    from erestore.integrations.transformers import load_model, require_transformers

    require_transformers()
    if not variant.layout.is_directory:
        raise CheckpointError(
            "This base is a bare file of weights, which does not say what model they are of.",
            hint="Give a live model and its inputs from Python: Store.calibrate(base, inputs, model=model).",
        )
    write_variant(variant, directory, format="safetensors")
    model = load_model(directory)
    # Under names that the library does not expect, as training frameworks give them, it has made weights up.
    fill_model(model, variant)
    return model


def _tokenized(
    variant: Variant, directory: Path, texts: Sequence[str], model: torch.nn.Module
) -> Sequence[ModelInputs]:
    """Turn texts into the model's inputs with the base's own tokenizer."""
    from erestore.integrations.transformers import tokenize

    layout = variant.layout
    if not layout.is_directory:
        raise CheckpointError(
            "This base is a bare file of weights, which has no tokenizer.",
            hint="Give inputs of the model instead of texts: Store.calibrate(base, inputs, model=model).",
        )
    write_checkpoint(
        directory,
        replace(layout, files=(), tensors={}, ties=()),
        lambda _: (),
        lambda name: variant.objects.iter_blob(layout.side_files[name]),
    )
    return tokenize(directory, texts, getattr(getattr(model, "config", None), "max_position_embeddings", None))


def _texts(inputs: Iterable[str | ModelInputs]) -> list[str]:
    found = list(inputs)
    texts = [each for each in found if isinstance(each, str)]
    if len(texts) < len(found):
        raise UsageError("Texts and inputs of a model are mixed.", hint="Give examples of one kind.")
    return texts


def _model_inputs(inputs: Iterable[str | ModelInputs]) -> Iterator[ModelInputs]:
    for each in inputs:
        if isinstance(each, str):
            raise UsageError("Texts and inputs of a model are mixed.", hint="Give examples of one kind.")
        yield each
