"""``calibrate``: collect layer-input statistics for a base once, so that later commits lose less of the layers' outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.analysis.inference.input_moments import ModelInputs, fill_model, measure_moments
from erestore.analysis.inference.live_model import load_live, split_texts_and_inputs, tokenized
from erestore.errors import UsageError
from erestore.objects.calibration import store_calibration
from erestore.progress import Progress, silent
from erestore.storage.calibrations import point
from erestore.storage.leases import Lease
from erestore.store import Store
from erestore.variant.variant import Variant

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
        raise UsageError(f"'{base}' is a variant. Only a base can be calibrated.", hint="Name its base.")
    variant = Variant.open(store.objects, commit.manifest)
    texts, batches = split_texts_and_inputs(inputs)
    count = len(texts or ())
    with Lease(store.storage, "writer", operation.writer) as lease, tempfile.TemporaryDirectory() as directory:
        if model is None:
            live = load_live(variant, Path(directory, "model"))
            fill_model(live, variant)
        else:
            live = model
        examples: Iterable[ModelInputs] = batches
        if texts is not None:
            examples = tokenized(variant, Path(directory, "tokenizer"), texts, live)
        calls, total = 0, len(examples) if isinstance(examples, Sized) else 0

        def called() -> None:
            nonlocal calls
            calls += 1
            progress("calibrating", calls, max(calls, total))

        moments = measure_moments(live, examples, variant.base, called)
        count = count or calls
        stored = store_calibration(store.objects, variant.manifest.base, moments, count)
        lease.confirm()
        entry = point(
            store.storage,
            variant.manifest.base,
            stored.oid,
            operation=operation.id,
            writer=operation.writer,
            time=operation.time,
        )
    return CalibrateResult(base, stored.oid, stored.added_bytes + entry, count, len(moments))
