"""``rebase``: a variant on another base, by its weights or by what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from erestore.algebra.three_way import Carried
from erestore.encoding.computed_source import ComputedCheckpoint
from erestore.encoding.quality import Quality, require_max_error
from erestore.errors import Conflict, CorruptionError, UsageError
from erestore.history.branch import next_version
from erestore.history.revision import require_commit
from erestore.ingest.matching import match_base
from erestore.ingest.variant_writer import VariantWriter
from erestore.integrations.name_conversions import library_spelling
from erestore.progress import Progress, silent
from erestore.records import Commit, Manifest
from erestore.store import Store
from erestore.variant.error_bound import known_error, require_lossy
from erestore.variant.variant import Variant

REBASE_ERROR = 0.001
"""What is lost by default, of the squared norm of all that the result changes of its new base."""


@dataclass(frozen=True)
class RebaseResult:
    """What ``rebase`` did; the fields are those of its JSON.

    Attributes
    ----------
    commit, ref, base : str
    parents : tuple of str
    stored_bytes : int
        Bytes that this commit added to the store, everything included.
    kept : str
        ``weights`` or ``change``.
    rebase_error : float
        Squared norm of what was lost, after the final rounding, over that of all that the result changes of its new base.
    error_bound : float or None
        Of both together, what was lost before and now.
    exact : bool
    loses_exact : tuple of str
        The variant, if it is exact and its exact remainder does not apply to the result.
    relative_norm : float
        How far the result is from its new base, relative to that.
    notes : tuple of str
        Sentences about what is not what the change of weights would make of it.
    chosen : tuple of Conflict
        What both sides changed and cannot be added, decided as asked.
    previous : str or None
        Commit that the branch was at.
    """

    commit: str
    ref: str
    base: str
    parents: tuple[str, ...]
    stored_bytes: int
    kept: str
    rebase_error: float
    error_bound: float | None
    exact: bool
    loses_exact: tuple[str, ...]
    relative_norm: float
    notes: tuple[str, ...] = ()
    chosen: tuple[Conflict, ...] = ()
    previous: str | None = None


def rebase(
    store: Store,
    revision: str,
    *,
    onto: str,
    name: str,
    carry: bool = False,
    choose: str | None = None,
    max_error: float | None = None,
    message: str = "",
    progress: Progress = silent,
) -> RebaseResult:
    """Put a variant on another base.

    Parameters
    ----------
    store : Store
    revision : str
        A variant.
    onto : str
        A base of the same architecture.
    name : str
        Branch of the result.
    carry : bool
        Add what the variant changed of its old base to the new one. Else its weights stay what they are, exact ones to
        the bit, and only what they are held against is another.
    choose : str, optional
        With `carry`, where both the variant and the new base changed what cannot be added: ``ours`` (the new base's, as in
        ``git rebase``) or ``theirs`` (the variant's).
    max_error : float, optional
        Most of the squared norm of what is written anew that may be lost; by default :data:`REBASE_ERROR`.
    message : str
    progress : Progress

    Raises
    ------
    CombinationError
        If there is such a thing and nothing was chosen.
    UsageError
        If `choose` is given without `carry`, `revision` is a base, `onto` is none, or the variant is on it already.
    CheckpointError
        If the bases are of different architectures.
    ConflictError
        If `name` is a tag or a base.
    """
    oid, target = require_commit(store, revision, "A rebase"), require_commit(store, onto, "The new base")
    former, new = store.commit_record(oid), store.commit_record(target)
    if former.edge == "imported":
        raise UsageError(f"'{revision}' is a base, not a variant.", hint="Name a variant.")
    if new.edge != "imported":
        raise UsageError(
            f"'{onto}' is a variant, not a base.", hint=f"`erestore cherry-pick {revision} --onto {onto}`?"
        )
    if choose is not None and (not carry or choose not in ("ours", "theirs")):
        raise UsageError("'ours' and 'theirs' need --carry.", hint="Add --carry, or leave --ours and --theirs out.")
    max_error = REBASE_ERROR if max_error is None else max_error
    require_max_error(max_error)
    with next_version(store, name) as version:
        version.require_continued((oid,))
        if carry:
            require_lossy(former, revision, hint="Leave --carry out, or commit it again with --exact.")
        variant, base = (
            Variant.open(store.objects, former.manifest, lossy=carry),
            Variant.open(store.objects, new.manifest),
        )
        if variant.manifest.base == base.manifest.base:
            raise UsageError(f"'{revision}' is on '{onto}' already.", hint="Name another base.")
        exact = variant.patch is not None
        keys = match_base(ComputedCheckpoint(variant), base, library_spelling).keys
        carried = _carried(store, oid, (revision, onto), (variant, base), keys, choose) if carry else None
        checkpoint = ComputedCheckpoint(variant, carried) if carried else ComputedCheckpoint(variant)
        layout = replace(
            variant.layout,
            tensors={name: replace(tensor, key=keys[name]) for name, tensor in variant.layout.tensors.items()},
            side_files=carried.side_files if carried else variant.layout.side_files,
        )
        stored_layout = store.objects.put_record("layout", layout.to_record())
        plain = Manifest(base.manifest.base, (), stored_layout.oid)
        stored = VariantWriter(
            store.objects,
            checkpoint,
            keys,
            Variant(store.objects, plain, layout=layout),
            "",
            Quality(max_error=max_error, exact=exact),
            progress,
            layout=stored_layout.oid,
        ).write()
        error, distance = stored.outcome.relative_error, stored.outcome
        previous = version.previous
        mode = "change" if carry else "weights"
        commit, recorded = version.record_encoded(
            stored,
            former,
            parents=tuple(dict.fromkeys(parent for parent in (target, previous, oid) if parent is not None)),
            edge="rebased",
            message=message or f"rebase {revision} onto {onto}",
            quality={"rebase_error": repr(error), "kept": mode},
            exact=exact,
            same_value=not carry,
            layout_bytes=stored_layout.added_bytes,
        )
    return RebaseResult(
        commit=recorded.oid,
        ref=name,
        base=store.base_name(base.manifest.base),
        parents=commit.parents,
        stored_bytes=recorded.stored_bytes,
        kept=mode,
        rebase_error=error,
        error_bound=known_error(store.objects, commit).bound,
        exact=exact,
        loses_exact=(revision,) if carry and variant.manifest.patch is not None else (),
        relative_norm=(distance.squared_norm / distance.base_norm) ** 0.5 if distance.base_norm else 0.0,
        notes=tuple(carried.notes) if carried else (),
        chosen=tuple(carried.conflicts) if carried else (),
        previous=previous,
    )


def _carried(
    store: Store,
    oid: str,
    names: tuple[str, str],
    sides: tuple[Variant, Variant],
    keys: Mapping[str, str],
    choose: str | None,
) -> Carried:
    variant, base = sides
    old = Variant.open(store.objects, _base_commit(store, oid, variant.manifest.base).manifest)
    pairs = {tensor.key: keys[name] for name, tensor in variant.layout.tensors.items()}
    return Carried(variant, base, names, pairs, old.layout.side_files, choose)


def _base_commit(store: Store, oid: str, base: str) -> Commit:
    """Return the ancestor of a variant that brought its base into the store."""
    waiting = [oid]
    for ancestor in waiting:
        commit = store.commit_record(ancestor)
        if commit.edge == "imported" and store.manifest_of(ancestor).base == base:
            return commit
        waiting.extend(parent for parent in commit.parents if parent not in waiting)
    raise CorruptionError(f"The commit {oid[:12]} does not descend from its base.")
