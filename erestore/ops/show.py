"""``show``: one commit in full: what it is made of, how large, how true to its original, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erestore.checkpoint.quantised_weights import find_quantised
from erestore.history.revision import require_commit
from erestore.objects.note import calibrated_with
from erestore.objects.residual_summary import TensorSummary, stored_tensors
from erestore.objects.structure import quantisation_of
from erestore.progress import Progress, silent
from erestore.records import Commit, Layout, Manifest, dropped_tensors, format_coefficient
from erestore.storage.segments import SegmentedObject
from erestore.store import Store, stored_bytes
from erestore.variant.error_bound import ErrorEstimate, known_error, lossy_error

if TYPE_CHECKING:
    from erestore.analysis.similarity.ancestors import AncestorOverlap


@dataclass(frozen=True)
class ShownTerm:
    """One residual that a variant is made of: oid, coefficient as stored, whether this commit made it, stored size."""

    residual: str
    coefficient: str
    own: bool
    bytes: int


@dataclass(frozen=True)
class ShownSection:
    """All sections of one kind in the commit's own residuals: in how many tensors, and about how many stored bytes."""

    tensors: int
    bytes: int


@dataclass(frozen=True)
class ShownTensor:
    """One tensor of a variant; of tied ones the first.

    Attributes
    ----------
    name : str
        The variant's own.
    dtype : str
        As safetensors writes it.
    shape : tuple of int
    sections : tuple of str
        Kinds in the commit's own residuals, in the order in which they are summed; ``whole`` and ``added rows`` for what
        is held as it is. Empty where the commit's parent, or the base, has all of it.
    bytes : int
        About how many stored bytes the sections take: their share of the segments that they are in.
    relative_error, linear_error : float or None
        ``squared_error / squared_norm``, after rounding to the stored dtype, and before; None where there is no residual.
        An exact remainder makes up for both.
    squared_error : float
        After rounding.
    squared_norm : float
        Of original minus parent.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sections: tuple[str, ...]
    bytes: int
    relative_error: float | None
    linear_error: float | None
    squared_error: float
    squared_norm: float


@dataclass(frozen=True)
class ShowResult:
    """What is known of a commit; the fields are those of its JSON.

    Attributes
    ----------
    commit : str
    refs, tags, parents : tuple of str
    edge, author, message, base : str
    time : datetime
        UTC.
    stored_bytes, original_bytes : int
    relative_error : float or None
        As it was measured.
    error_bound : float or None
        Where nothing was measured, an upper bound: see :func:`erestore.variant.error_bound.error_bound`.
    exact : bool
    lossy_error : float or None
        What is left without the exact remainder.
    terms : tuple of ShownTerm
    sections : Mapping[str, ShownSection]
        By kind.
    whole, added_rows : int
        Tensors that are held as they are, and tensors with rows below the base's.
    whole_tensors : tuple of str
        The former's names.
    dropped : int
        Tensors that changed in the original and of which the commit kept nothing.
    patch_bytes : int or None
        Stored size of the exact remainder.
    format : str
    files : int
        Weight files; side files are not counted.
    side_files : tuple of str
    quality, metrics : Mapping[str, str]
    recipe : Any
    tensors : tuple of ShownTensor
        Largest squared error first.
    calibrated_with : int or None
        Of a base that was calibrated: how many examples were run.
    quantised : Mapping[str, int]
        How many weights are stored in codes, by scheme and size of block; empty where none is.
    overlaps : tuple of AncestorOverlap or None
        Where asked for: how the commit's own residual lies to those of its ancestors.
    """

    commit: str
    refs: tuple[str, ...]
    tags: tuple[str, ...]
    parents: tuple[str, ...]
    edge: str
    author: str
    message: str
    base: str
    time: datetime
    stored_bytes: int
    original_bytes: int
    relative_error: float | None
    error_bound: float | None
    exact: bool
    lossy_error: float | None
    terms: tuple[ShownTerm, ...]
    sections: Mapping[str, ShownSection]
    whole: int
    added_rows: int
    patch_bytes: int | None
    format: str
    files: int
    side_files: tuple[str, ...]
    quality: Mapping[str, str]
    metrics: Mapping[str, str]
    recipe: Any
    tensors: tuple[ShownTensor, ...]
    calibrated_with: int | None
    quantised: Mapping[str, int]
    overlaps: tuple[AncestorOverlap, ...] | None = None
    whole_tensors: tuple[str, ...] = ()
    dropped: int = 0

    def _repr_html_(self) -> str:
        from erestore.report.notebook import commit_html

        return commit_html(self)


def show(
    store: Store,
    revision: str,
    *,
    overlap: bool = False,
    products_directory: Path | None = None,
    error: ErrorEstimate | None = None,
    progress: Progress = silent,
) -> ShowResult:
    """Describe the commit that a revision names; indices are read, no tensor is, unless overlaps are asked for.

    Parameters
    ----------
    store : Store
    revision : str
    overlap : bool
        Also compare the commit's own residual with those of its ancestors.
    products_directory : Path, optional
        See :func:`erestore.analysis.similarity.ancestors.ancestor_overlaps`.
    error : ErrorEstimate, optional
        What :func:`erestore.variant.error_bound.known_error` says of it, where that is at hand.
    progress : Progress

    Returns
    -------
    ShowResult

    Raises
    ------
    UnknownRevisionError
        If it names nothing.
    """
    oid = require_commit(store, revision, "`show`")
    commit = store.commit_record(oid)
    manifest = store.manifest(commit)
    layout = Layout.from_record(store.objects.get_record("layout", manifest.layout))
    entries = {name: entry for name, entry in store.refs.all().items() if entry.oid == oid}
    residuals = [store.objects.open("residual", residual) for residual in commit.own]
    tensors = sorted(_tensors(manifest, layout, residuals), key=lambda tensor: -tensor.squared_error)
    error = error or known_error(store.objects, commit)
    overlaps = None
    if overlap:
        from erestore.analysis.similarity.ancestors import ancestor_overlaps

        overlaps = ancestor_overlaps(store, oid, products_directory=products_directory, progress=progress)
    return ShowResult(
        commit=oid,
        refs=tuple(entries),
        tags=tuple(name for name, entry in entries.items() if entry.kind == "tag"),
        parents=commit.parents,
        edge=commit.edge,
        author=commit.author,
        message=commit.message,
        base=store.base_name(manifest.base),
        time=datetime.fromtimestamp(commit.time / 1e6, UTC),
        stored_bytes=stored_bytes(commit),
        original_bytes=commit.original_bytes,
        relative_error=error.measured,
        error_bound=error.bound,
        exact=commit.quality.get("exact") == "yes",
        lossy_error=lossy_error(store.objects, commit),
        terms=tuple(_terms(store, commit, manifest)),
        sections=_sections(residuals),
        whole=len(manifest.dense),
        added_rows=len(manifest.rows),
        patch_bytes=store.objects.size(manifest.patch) if manifest.patch else None,
        format=layout.format,
        files=len(layout.files),
        side_files=tuple(layout.side_files),
        quality=commit.quality,
        metrics=commit.metrics,
        recipe=commit.recipe,
        tensors=tuple(tensors),
        calibrated_with=calibrated_with(store.objects, manifest.base) if commit.edge == "imported" else None,
        quantised=_quantised(store, layout),
        overlaps=overlaps,
        whole_tensors=tuple(tensor.name for tensor in tensors if "whole" in tensor.sections),
        dropped=dropped_tensors(commit),
    )


def _quantised(store: Store, layout: Layout) -> dict[str, int]:
    quantisation = quantisation_of(store.objects, layout)
    return dict(Counter(weight.form for weight in find_quantised(layout.tensors, quantisation)))


def _terms(store: Store, commit: Commit, manifest: Manifest) -> Iterator[ShownTerm]:
    for residual, coefficient in manifest.terms:
        text = format_coefficient(coefficient)
        yield ShownTerm(residual, text, residual in commit.own, store.objects.size(residual))


def _tensors(manifest: Manifest, layout: Layout, residuals: Sequence[SegmentedObject]) -> Iterator[ShownTensor]:
    stored = {tensor.key: tensor for residual in residuals for tensor in stored_tensors(residual)}
    keys: set[str] = set()
    for name, tensor in layout.tensors.items():
        if tensor.key in keys:
            continue
        keys.add(tensor.key)
        residual_tensor = stored.get(tensor.key) or TensorSummary(tensor.key, (), 0.0, 0.0, 0.0)
        labels = ["whole"] if tensor.key in manifest.dense else ["added rows"] if tensor.key in manifest.rows else []
        norm = residual_tensor.squared_norm
        yield ShownTensor(
            name=name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            sections=(*(section.kind for section in residual_tensor.sections), *labels),
            bytes=round(residual_tensor.bytes),
            relative_error=residual_tensor.squared_error / norm if norm else None,
            linear_error=residual_tensor.linear_error / norm if norm else None,
            squared_error=residual_tensor.squared_error,
            squared_norm=norm,
        )


def _sections(residuals: Sequence[SegmentedObject]) -> dict[str, ShownSection]:
    """Count tensors and stored bytes by kind of section."""
    tensors: dict[str, int] = {}
    sizes: dict[str, float] = {}
    for residual in residuals:
        for tensor in stored_tensors(residual):
            for kind in {section.kind for section in tensor.sections}:
                tensors[kind] = tensors.get(kind, 0) + 1
            for section in tensor.sections:
                sizes[section.kind] = sizes.get(section.kind, 0) + section.bytes
    return {kind: ShownSection(tensors[kind], round(sizes[kind])) for kind in sorted(tensors)}
