"""``flatten``: a sum of many residuals as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from erestore.errors import RefConflictError, UsageError
from erestore.model.computed import write_computed
from erestore.model.ledger import known_error
from erestore.model.quality import DEFAULT_MAX_ERROR, Quality
from erestore.model.ranks import total_rank
from erestore.model.variant import Variant
from erestore.progress import Progress, silent
from erestore.revisions import require_commit
from erestore.store import Store
from erestore.versions import next_version

FLATTEN_ERROR = DEFAULT_MAX_ERROR / 10
"""What is lost by default, of the squared norm of all that the variant changed: less than most commits lose."""


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
    max_error: float = FLATTEN_ERROR,
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
    max_error : float
        Most of the squared norm of all that the variant changed of its base that may be lost.
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
    quality = Quality(max_error=max_error)
    branch = name or revision
    if name is None and not store.has_ref(revision):
        raise UsageError(f"'{revision}' is no branch, so the result needs a name.", hint="Add --name REF.")
    former = store.commit_record(oid)
    if former.edge == "imported":
        raise UsageError(f"'{revision}' is a base, and has nothing to flatten.", hint="Name a variant.")
    with next_version(store, branch) as version:
        if name is None and version.previous != oid:
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
        stored = write_computed(store.objects, variant, replace(quality, exact=exact), progress=progress)
        previous = version.previous
        commit, recorded = version.record_encoded(
            stored,
            former,
            parents=(oid,) if previous is None or store.is_ancestor(previous, oid) else (oid, previous),
            edge="flattened",
            message=message or f"flatten {revision}",
            quality={"flatten_error": repr(stored.outcome.relative_error)},
            exact=exact,
        )
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
