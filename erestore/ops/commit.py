"""``commit``: a fine-tune as one residual on its base or parent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Unpack

from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.adapter_training import quantised_training
from erestore.checkpoint.default_name import default_name
from erestore.checkpoint.marker import Marker, read_marker
from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.peft import PeftCheckpoint
from erestore.dry_run import scratch_store
from erestore.encoding.gate import Gate
from erestore.encoding.quality import Quality, QualityOptions, asked_record, quality_record
from erestore.errors import ConflictError, TargetExistsError, UsageError
from erestore.history.commit_plan import ImportedBase, Lineage, find_base, find_lineage, import_source, imported_name
from erestore.ingest.adapter_writer import AdapterWriter
from erestore.ingest.base_writer import original_bytes
from erestore.ingest.budget import record_bytes
from erestore.ingest.chain_limit import may_flatten, on_base
from erestore.ingest.fingerprint import original_digest
from erestore.ingest.gate_runner import Trials
from erestore.ingest.large_budget import write_within_budget
from erestore.ingest.matching import match_base, nearer_parent
from erestore.ingest.variant_writer import StoredVariant, VariantWriter
from erestore.integrations.name_conversions import library_spelling
from erestore.integrations.tied_weights import tied_weights
from erestore.objects.calibration import Calibration
from erestore.operation import Operation
from erestore.progress import Progress, silent
from erestore.records import Commit
from erestore.residual.evenness import References
from erestore.storage.leases import Lease
from erestore.storage.local import LocalStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.overlay import Overlay
from erestore.storage.refs import RefEntry, check_name
from erestore.store import Store
from erestore.variant.error_bound import missed_tensors, require_lossy
from erestore.variant.rank import past_limit
from erestore.variant.variant import Variant


@dataclass(frozen=True)
class CommitResult:
    """What ``commit`` did; the fields are those of its JSON.

    Attributes
    ----------
    commit : str or None
        Oid of the commit; None for a dry run.
    ref, base : str
        Its branch, and the name of the base.
    parents : tuple of str
        A base that a dry run would import has an oid of that run only.
    stored_bytes : int
        Bytes that this commit added to the store, everything included (not those of a base imported on the way).
    original_bytes : int
    relative_error : float
        See :class:`erestore.encoding.quality.Outcome`.
    exact : bool
    tensors : Mapping[str, int]
        Count per section kind.
    not_finite, left_out : tuple of str
        Tensors kept whole because they hold NaN or infinity; files that were not kept, with reasons.
    imported : str or None
        Name of the base that was imported on the way.
    imported_bytes : int
        Bytes that importing it added.
    imported_left_out : Mapping[str, str]
        Its files that were not kept, with reasons.
    distance : float
        Norm of the residual over that of the parent: above 1, the base does not fit.
    matching : str
        Which prefixes of names were exchanged to match the base's, in words; empty if none.
    notes : tuple of str
        Sentences about tensors that are not what they seem to be, as a head that is no longer tied.
    is_adapter : bool
        Whether a PEFT adapter was committed, not a whole model.
    whole, dropped : tuple of str
        Tensors that are kept as they are, and those that changed and of which nothing is kept.
    budget_left : bool
        Whether a budget had room for every bit, so that the commit is exact, and smaller than a lossy one would be.
    unchanged : bool
        Whether the branch held the same files at the same quality already, so that nothing was written.
    gate_runs : int
        How often the gate was asked, where there is one.
    checkout_of : Marker or None
        What the folder says that it was checked out from, where what it holds was not the original bit for bit.
    previous : str or None
        Commit that the branch was at before; None where this is its first version.
    flattened_rank : float or None
        Total rank of the parent where it was past the limit, so that this was encoded on the base; then `relative_error` is
        relative to what changed since the base.
    trained_over : str
        Of an adapter whose files say that it was trained over quantised weights: which. Its residual is over the base's.
    dry_run : bool
        Whether nothing reached the store.
    """

    commit: str | None
    ref: str
    base: str
    parents: tuple[str, ...]
    stored_bytes: int
    original_bytes: int
    relative_error: float
    exact: bool
    tensors: Mapping[str, int]
    not_finite: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    imported: str | None = None
    distance: float = 0.0
    matching: str = ""
    whole: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    budget_left: bool = False
    unchanged: bool = False
    gate_runs: int = 0
    flattened_rank: float | None = None
    trained_over: str = ""
    previous: str | None = None
    notes: tuple[str, ...] = ()
    checkout_of: Marker | None = None
    is_adapter: bool = False
    imported_bytes: int = 0
    imported_left_out: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False

    def _repr_html_(self) -> str:
        from erestore.report.notebook import commit_html

        return commit_html(self)


def commit(
    store: Store,
    path: str | Path,
    *,
    base: str | None = None,
    parent: str | None = None,
    name: str | None = None,
    message: str = "",
    quality: Quality | None = None,
    metrics: Mapping[str, str] | None = None,
    flatten_rank: int | None = None,
    new: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
    **options: Unpack[QualityOptions],
) -> CommitResult:
    """Store the checkpoint at `path` as a variant.

    Parameters
    ----------
    store : Store
    path : str or Path
        A Hugging Face directory, a file of weights, or a PEFT adapter directory.
    base : str, optional
        A ref of the store, a local path, or a model in the local Hugging Face cache; imported on first use. May be left
        out with `parent`, for a further version of `name`, and where the store has one base only.
    parent : str, optional
        Revision that this continues.
    name : str, optional
        Branch; by default the name of the directory. If it exists, this is its next version.
    message : str
    quality : Quality, optional
        What may be lost; or, in its place, what the command's options say of it as `options`. Without any, the setting
        ``commit.max_error``.
    metrics : Mapping[str, str], optional
        Recorded with the commit.
    flatten_rank : int, optional
        Where the parent's total rank is past this, encode on the base, so that the manifest has one term; 0 for never, by
        default the setting ``commit.flatten_rank``. What may be lost stays relative to what changed since the parent. Chains
        go on with a budget, the codec ere, an adapter, what is exact only, and what changed so little that the bound cannot
        be kept on the base.
    new : bool
        Refuse a branch that exists.
    dry_run : bool
        Do all of it in a temporary directory on top of the store, which nothing reaches: the result says what the commit
        would take.
    progress : Progress
    **options
        Of :class:`erestore.encoding.quality.Quality`: ``exact=True``, ``max_error=0.001``.

    Returns
    -------
    CommitResult

    Raises
    ------
    NotFoundError
        If base or parent do not exist.
    CheckpointError
        If the checkpoint cannot be read or does not fit the base.
    RefConflictError
        If another writer moved the branch meanwhile.
    TargetExistsError
        If the branch exists and `new` is set.
    GateError
        If the original does not pass the gate of `quality`, or no lossy encoding does.
    """
    if quality is not None and options:
        raise UsageError(f"`quality` and `{next(iter(options))}` both decide the quality.", hint="Give one of them.")
    quality = quality or Quality(**({"max_error": store.setting("commit.max_error")} | options))
    if dry_run:
        with scratch_store(store) as scratch:
            receipt = commit(
                scratch,
                path,
                base=base,
                parent=parent,
                name=name,
                message=message,
                quality=quality,
                metrics=metrics,
                flatten_rank=flatten_rank,
                new=new,
                progress=progress,
            )
        return as_dry_run(receipt)
    flatten_rank = store.setting("commit.flatten_rank") if flatten_rank is None else flatten_rank
    operation, branch = store.begin(), name or default_name(path)
    entry = store.refs.read(check_name(branch))
    _require_version(branch, entry, new=new)
    with (
        open_checkpoint(Path(path)) as checkpoint,
        Lease(store.storage, "writer", operation.writer) as lease,
        ExitStack() as stack,
    ):
        previous = entry.oid if entry else None
        if previous and store.commit_record(previous).edge == "imported":
            raise ConflictError(f"'{branch}' is a base, and a base has no versions.", hint="Give another --name.")
        original = original_digest(checkpoint)
        source = None
        if base is not None or (parent is None and previous is None):
            base, source = find_base(store, base)
            if source is not None and imported_name(base) == branch:
                raise ConflictError(
                    f"The variant and its base would both be named '{branch}'.",
                    hint="Give the variant another --name, or name another --base.",
                )
        revision = parent or previous or (base if source is None else None)
        calibration = None
        if revision is not None:
            quality, calibration = _calibrated(store, checkpoint, quality, revision)
        is_same = (
            previous is not None
            and parent is None
            and (metrics or {}).items() <= store.commit_record(previous).metrics.items()
            and _is_same(store.commit_record(previous), quality, calibration, original)
        )
        trials = None
        if quality.gate and not is_same:
            trials = stack.enter_context(_trials(checkpoint, quality.gate))
            trials.try_original(checkpoint)
        imported: ImportedBase | None = None
        if base is not None and source is not None:
            base, imported = import_source(store, base, source, operation, lease, progress)
        if revision is None and base is not None:
            quality, calibration = _calibrated(store, checkpoint, quality, base)
        if previous and is_same:
            return _with_import(_unchanged(store, branch, previous, checkpoint), imported)
        lineage = find_lineage(store, base, parent, previous, branch)
        budgeted = _reserve_record_bytes(quality, calibration, checkpoint, operation, lineage, message, metrics or {})
        encoded = _write(store, checkpoint, lineage, budgeted, trials, calibration, flatten_rank, progress)
        stored = encoded.stored
        achieved = _achieved_quality(store, checkpoint, lineage, quality, encoded)
        if trials is not None:
            achieved["gate_runs"] = str(trials.runs)
        if encoded.flattened_rank is not None:
            achieved["flattened_rank"] = f"{encoded.flattened_rank:.4g}"
        record = Commit(
            manifest=stored.manifest_oid,
            parents=(lineage.parent,),
            edge=lineage.edge,
            author=operation.author,
            time=operation.time,
            message=message,
            own=stored.residuals,
            metrics=dict(metrics or {}),
            quality=achieved | _calibration_record(calibration) | {"original": original},
            original_bytes=original_bytes(checkpoint),
            stored_bytes=stored.added_bytes,
        )
        lease.confirm()
        recorded = store.record(record, branch, operation, expected=entry.number if entry else 0)
        receipt = CommitResult(
            commit=recorded.oid,
            ref=branch,
            base=encoded.base,
            parents=record.parents,
            stored_bytes=recorded.stored_bytes,
            original_bytes=record.original_bytes,
            relative_error=float(record.quality["relative_error"]),
            exact=record.quality["exact"] == "yes",
            tensors=dict(sorted(stored.outcome.kinds.items())),
            not_finite=tuple(stored.outcome.not_finite),
            left_out=dict(checkpoint.left_out),
            distance=float(record.quality["relative_norm"]),
            matching=encoded.matching,
            whole=tuple(stored.outcome.whole),
            dropped=() if record.quality["exact"] == "yes" else tuple(stored.outcome.dropped),
            budget_left=encoded.is_exact,
            notes=(*checkpoint.notes, *encoded.notes),
            is_adapter=isinstance(checkpoint, PeftCheckpoint),
            gate_runs=trials.runs if trials else 0,
            flattened_rank=encoded.flattened_rank,
            trained_over=record.quality.get("trained_over", ""),
            previous=previous,
            checkout_of=read_marker(checkpoint.path),
        )
        return _with_import(receipt, imported)


def _with_import(receipt: CommitResult, base: ImportedBase | None) -> CommitResult:
    """Add to a receipt what was imported on the way."""
    if base is None:
        return receipt
    return replace(receipt, imported=base.name, imported_bytes=base.stored_bytes, imported_left_out=base.left_out)


def _require_version(branch: str, entry: RefEntry | None, *, new: bool) -> None:
    """Refuse a name that a new version cannot have, or a branch that exists where a new one is wanted."""
    if entry is not None and entry.oid is not None and entry.kind == "tag":
        raise ConflictError(f"'{branch}' is a tag, and a tag never moves.", hint="Give another --name.")
    if new and entry is not None and entry.oid is not None:
        raise TargetExistsError(
            f"There is a branch '{branch}' already, at {entry.oid[:12]}.",
            hint="Give another --name, or leave out --new to commit its next version.",
        )


def as_dry_run(receipt: CommitResult) -> CommitResult:
    """Return what a commit in a scratch store did as what it would do in the store."""
    return replace(receipt, commit=None, dry_run=True)


def _trials(checkpoint: Checkpoint, gate: Gate) -> Trials:
    if isinstance(checkpoint, PeftCheckpoint):
        raise UsageError("An adapter is stored unchanged, so a gate has no effect.", hint="Leave out --gate.")
    return Trials(gate)


def _calibrated(
    store: Store, checkpoint: Checkpoint, quality: Quality, revision: str
) -> tuple[Quality, Calibration | None]:
    """Return the calibration of a revision's base if there is one and it is wanted, and the objective that follows."""
    if isinstance(checkpoint, PeftCheckpoint) and quality.objective is not None:
        raise UsageError("An adapter is stored unchanged: nothing is rounded.", hint="Leave out --objective.")
    if quality.objective == "frobenius" or not quality.takes_calibration or isinstance(checkpoint, PeftCheckpoint):
        return quality, None
    calibration = Calibration.of_base(store.objects, store.manifest_of(revision).base)
    if calibration is None and quality.objective == "calibrated":
        raise UsageError(
            "The base has not been calibrated.", hint="`erestore calibrate BASE --data FILE`, or leave out --objective."
        )
    return replace(quality, objective="calibrated" if calibration else None), calibration


def _is_same(previous: Commit, quality: Quality, calibration: Calibration | None, original: str) -> bool:
    """Return whether a commit already holds these files at this quality."""
    requested = asked_record(quality) | _calibration_record(calibration) | {"original": original}
    return all(previous.quality.get(key) == requested.get(key) for key in {*requested, "objective", "calibration"})


def _calibration_record(calibration: Calibration | None) -> dict[str, str]:
    """Return the record of which calibration was used."""
    return {} if calibration is None else {"calibration": calibration.note.oid}


def _unchanged(store: Store, branch: str, oid: str, checkpoint: Checkpoint) -> CommitResult:
    """Return what there is already: as with git, committing the same again makes no new version."""
    record = store.commit_record(oid)
    return CommitResult(
        commit=oid,
        ref=branch,
        base=store.base_name(store.manifest_of(oid).base),
        parents=record.parents,
        stored_bytes=0,
        original_bytes=record.original_bytes,
        relative_error=float(record.quality["relative_error"]),
        exact=record.quality["exact"] == "yes",
        tensors={},
        left_out=dict(checkpoint.left_out),
        distance=float(record.quality["relative_norm"]),
        unchanged=True,
        previous=oid,
        checkout_of=read_marker(checkpoint.path),
    )


def _achieved_quality(
    store: Store, checkpoint: Checkpoint, lineage: Lineage, quality: Quality, encoded: _EncodedVariant
) -> dict[str, str]:
    """Return the record of what was reached; an adapter loses nothing itself, but stands on what its parent lost."""
    if not isinstance(checkpoint, PeftCheckpoint):
        exact = quality.exact or quality.exact_only or encoded.is_exact
        return quality_record(quality, encoded.stored.outcome, exact=exact)
    below = store.commit_record(lineage.candidates[-1])
    record = quality_record(quality, encoded.stored.outcome, exact=below.edge == "imported")
    if below.edge != "imported":
        manifest = store.manifest(below)
        lost = below.quality.get("linear_error" if manifest.patch else "relative_error", "0.0")
        record |= {"relative_error": lost, "linear_error": lost}
    over = quantised_training(checkpoint.path)
    return record | {"codec": "factors"} | ({"trained_over": over} if over else {})


def _reserve_record_bytes(
    quality: Quality,
    calibration: Calibration | None,
    checkpoint: Checkpoint,
    operation: Operation,
    lineage: Lineage,
    message: str,
    metrics: Mapping[str, str],
) -> Quality:
    """Return what is asked of the files: a budget less what the commit's record and the entry of its branch will take."""
    budget = quality.budget_bytes(original_bytes(checkpoint))
    if budget is None:
        return quality
    if isinstance(checkpoint, PeftCheckpoint):
        raise UsageError("An adapter is stored unchanged, so a budget has no effect.", hint="Leave out --budget.")
    reserved = record_bytes(
        quality,
        _calibration_record(calibration),
        original_bytes(checkpoint),
        edge=lineage.edge,
        author=operation.author,
        message=message,
        metrics=metrics,
    )
    left = budget - reserved
    if left <= 0:
        raise UsageError("The commit's own record takes up the budget.", hint="Give a larger --budget.")
    return replace(quality, budget=left)


class _EncodedVariant(NamedTuple):
    """What was written, and on which base; which prefixes were exchanged; the total rank that was past the limit; notes."""

    stored: StoredVariant
    base: str
    matching: str = ""
    flattened_rank: float | None = None
    notes: tuple[str, ...] = ()
    is_exact: bool = False


def _write(
    store: Store,
    checkpoint: Checkpoint,
    lineage: Lineage,
    quality: Quality,
    trials: Trials | None,
    calibration: Calibration | None,
    flatten_rank: int,
    progress: Progress,
) -> _EncodedVariant:
    manifests = [store.commit_record(oid).manifest for oid in lineage.candidates]
    variants = [Variant.open(store.objects, oid) for oid in manifests]
    base_name = store.base_name(variants[0].manifest.base)
    if isinstance(checkpoint, PeftCheckpoint):
        # An adapter was trained on the base or on the parent that is named, never on its own former version.
        require_lossy(
            store.commit_record(lineage.candidates[-1]),
            lineage.candidates[-1][:12],
            hint="An adapter is added to that: commit the parent with --exact, or merge the adapter and commit the model.",
        )
        adapter = AdapterWriter(store.objects, checkpoint, variants[-1], progress, tied_weights, library_spelling)
        return _EncodedVariant(adapter.write(), base_name, notes=tuple(adapter.notes))
    matched = match_base(checkpoint, variants[0], library_spelling)
    nearest = nearer_parent(matched, variants) if len(variants) > 1 else 0
    parent = variants[nearest]
    missed = missed_tensors(store.objects, store.commit_record(lineage.candidates[nearest]))
    references = References(missed)
    rank = past_limit(parent, flatten_rank) if may_flatten(quality) else None
    if rank is not None and (flat := on_base(matched, parent, quality, missed)) is not None:
        parent, quality, references = flat
    else:
        rank = None

    def write(objects: ObjectStore, quality: Quality) -> StoredVariant:
        return VariantWriter(
            objects,
            checkpoint,
            matched.keys,
            parent,
            manifests[nearest],
            quality,
            progress,
            trials,
            calibration,
            references=references,
        ).write()

    is_exact = False
    if trials:  # candidates, and all that surrounds them, reach the store only when one has passed
        waiting = Overlay(store.storage, LocalStorage(trials.directory / "objects"))
        stored = write(ObjectStore(waiting), quality)
        waiting.publish()
    elif quality.budget is not None:
        stored, is_exact = write_within_budget(store.storage, quality, write, may_be_exact=parent.is_reproducible)
    else:
        stored = write(store.objects, quality)
    return _EncodedVariant(stored, base_name, matched.prefixes, rank, matched.notes, is_exact)
