"""``flatten``: a sum of many residuals as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from erestore.derived import free_branch
from erestore.errors import RefConflictError, UsageError
from erestore.model.computed import write_computed
from erestore.model.ledger import known_error, lost_before
from erestore.model.quality import DEFAULT_MAX_ERROR, Quality
from erestore.model.ranks import total_rank
from erestore.model.variant import Variant
from erestore.progress import Progress, silent
from erestore.records import Commit
from erestore.revisions import require_commit
from erestore.storage.leases import Lease
from erestore.store import Store

FLATTEN_ERROR = DEFAULT_MAX_ERROR / 10
"""Most that is lost by default, of the squared norm of all that the variant changed: less than most commits lose."""
SHARE_OF_LOST = 0.25
"""Most that is lost by default, of the squared error that the variant had before."""


@dataclass(frozen=True)
class Size:
    """What a checkout of a variant reads and adds.

    Attributes
    ----------
    terms : int
    residual_bytes : int
        Stored size of the residuals.
    rank : float
        Total rank; see :func:`erestore.model.ranks.total_rank`.
    """

    terms: int
    residual_bytes: int
    rank: float

    @classmethod
    def of(cls, variant: Variant) -> Self:
        """Count."""
        sizes = [segment.stored_length for _, residual in variant.residuals for segment in residual.segments]
        return cls(len(variant.residuals), sum(sizes), total_rank(variant))


@dataclass(frozen=True)
class FlattenResult:
    """What ``flatten`` did; the fields are those of its JSON.

    Attributes
    ----------
    commit, ref, base : str
    parents : tuple of str
    stored_bytes : int
        Bytes that this commit added to the store, everything included.
    before, after : Size
    flatten_error : float
        Squared norm of what flattening lost, after the final rounding, over that of all that the variant changed of the base.
    error_bound : float or None
        Of both together, what was lost before and now.
    exact : bool
    unchanged : bool
        Whether there was nothing to flatten, so that nothing was written.
    """

    commit: str
    ref: str
    base: str
    parents: tuple[str, ...]
    stored_bytes: int
    before: Size
    after: Size
    flatten_error: float
    error_bound: float | None
    exact: bool
    unchanged: bool = False


def flatten(
    store: Store,
    revision: str,
    *,
    name: str | None = None,
    max_error: float | None = None,
    message: str = "",
    progress: Progress = silent,
) -> FlattenResult:
    """Encode what a revision adds to its base as one residual.

    Parameters
    ----------
    store : Store
    revision : str
        A variant.
    name : str, optional
        Branch of the result; by default `revision`, which then has to be a branch and gets a new version.
    max_error : float, optional
        Most of the squared norm of all that the variant changed of its base that may be lost. By default
        :data:`FLATTEN_ERROR`, or :data:`SHARE_OF_LOST` of what was lost before where that is known and less.
    message : str
    progress : Progress

    Returns
    -------
    FlattenResult

    Raises
    ------
    UsageError
        If `name` is needed, or `revision` is a base.
    RefConflictError
        If another writer moved the branch meanwhile.
    """
    oid = require_commit(store, revision, "Flattening")
    quality = Quality(max_error=FLATTEN_ERROR if max_error is None else max_error)
    branch = name or revision
    if name is None and not store.has_ref(revision):
        raise UsageError(f"'{revision}' is no branch, so the result needs a name.", hint="Add --name REF.")
    operation = store.begin()
    with Lease(store.storage, "writer", operation.writer) as lease:
        former = store.commit_record(oid)
        if former.edge == "imported":
            raise UsageError(f"'{revision}' is a base, and has nothing to flatten.", hint="Name a variant.")
        entry = free_branch(store, branch)
        if name is None and (entry is None or entry.oid != oid):
            raise RefConflictError(branch)
        variant = Variant.open(store.objects, former.manifest)
        before = Size.of(variant)
        if before.terms == 0 or (before.terms == 1 and variant.residuals[0][0] == 1):
            exact = former.quality.get("exact") == "yes"
            return FlattenResult(
                commit=oid,
                ref=revision,
                base=store.base_name(variant.manifest.base),
                parents=former.parents,
                stored_bytes=0,
                before=before,
                after=before,
                flatten_error=0.0,
                error_bound=None,
                exact=exact,
                unchanged=True,
            )
        exact = variant.manifest.patch is not None
        if max_error is None and (lost := lost_before(store.objects, former, variant.manifest)):
            quality = replace(quality, squared_error=SHARE_OF_LOST * lost)
        stored = write_computed(store.objects, variant, replace(quality, exact=exact), progress=progress)
        reached = {"codec": "lowrank", "flatten_error": repr(stored.outcome.relative_error), "exact": "no"}
        previous = entry.oid if entry is not None and entry.oid != oid else None
        commit = Commit(
            manifest=stored.manifest_oid,
            parents=(oid,) if previous is None or store.is_ancestor(previous, oid) else (oid, previous),
            edge="flattened",
            author=operation.author,
            time=operation.time,
            message=message or f"flatten {revision}",
            own=stored.own,
            metrics=dict(former.metrics),
            quality=reached | ({"exact": "yes", "relative_error": "0.0"} if exact else {}),
            original_bytes=former.original_bytes,
            stored_bytes=stored.added_bytes,
        )
        lease.confirm()
        recorded = store.record(commit, branch, operation, expected=entry.number if entry else 0)
    return FlattenResult(
        commit=recorded.oid,
        ref=branch,
        base=store.base_name(variant.manifest.base),
        parents=commit.parents,
        stored_bytes=recorded.stored_bytes,
        before=before,
        after=Size.of(Variant(store.objects, stored.manifest)),
        flatten_error=stored.outcome.relative_error,
        error_bound=known_error(store.objects, commit).bound,
        exact=exact,
    )
