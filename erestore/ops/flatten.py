"""``flatten``: a sum of many residuals as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from erestore.encoding.quality import DEFAULT_MAX_ERROR, Quality, require_max_error
from erestore.errors import RefConflictError, UsageError
from erestore.history.branch import NextVersion, next_version
from erestore.history.revision import require_commit
from erestore.ingest.computed_writer import write_computed
from erestore.progress import Progress, silent
from erestore.records import Commit
from erestore.store import Store
from erestore.variant.error_bound import SHARE_OF_LOST, known_error, lost_before
from erestore.variant.rank import total_rank
from erestore.variant.variant import Variant

FLATTEN_ERROR = DEFAULT_MAX_ERROR / 10
"""Most that is lost by default, of the squared norm of all that the variant changed: less than most commits lose."""


@dataclass(frozen=True)
class Size:
    """What a checkout of a variant reads and adds.

    Attributes
    ----------
    terms : int
    residual_bytes : int
        Stored size of the residuals.
    rank : float
        Total rank; see :func:`erestore.variant.rank.total_rank`.
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
        Whether the branch held just this already, so that nothing was written.
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
        :data:`FLATTEN_ERROR`, or :data:`erestore.variant.error_bound.SHARE_OF_LOST` of what was lost before where that is
        known and less.
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
    if max_error is not None:
        require_max_error(max_error)
    quality = Quality(max_error=FLATTEN_ERROR if max_error is None else max_error)
    branch = name or revision
    if name is None and not store.has_ref(revision):
        raise UsageError(f"'{revision}' is not a branch, so the result needs a name.", hint="Add --name REF.")
    former = store.commit_record(oid)
    if former.edge == "imported":
        raise UsageError(f"'{revision}' is a base. Only variants can be flattened.", hint="Name a variant.")
    with next_version(store, branch) as version:
        if name is None and version.previous != oid:
            raise RefConflictError(branch)
        version.require_continued((oid,))
        variant = Variant.open(store.objects, former.manifest)
        before = Size.of(variant)
        if before.terms == 0 or (before.terms == 1 and variant.residuals[0][0] == 1):
            return _flat_already(version, oid, former, before, message or f"flatten {revision}")
        exact = variant.manifest.patch is not None
        if max_error is None and (lost := lost_before(store.objects, former, variant.manifest)):
            quality = replace(quality, squared_error=SHARE_OF_LOST * lost)
        stored = write_computed(store.objects, variant, replace(quality, exact=exact), progress=progress)
        commit, recorded = version.record_encoded(
            stored,
            former,
            parents=_parents(version, oid),
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


def _flat_already(version: NextVersion, oid: str, former: Commit, before: Size, message: str) -> FlattenResult:
    """Give a variant of one residual the name that was asked for, if it has another."""
    store, current = version.store, version.previous
    same = current is not None and store.commit_record(current).manifest == former.manifest
    added = 0
    if not same:
        recorded = version.record_same(former, parents=_parents(version, oid), edge="flattened", message=message)
        current, added = recorded.oid, recorded.stored_bytes
    assert current is not None
    commit = store.commit_record(current)
    return FlattenResult(
        commit=current,
        ref=version.name,
        base=store.base_name(store.manifest_of(current).base),
        parents=commit.parents,
        stored_bytes=added,
        before=before,
        after=before,
        flatten_error=0.0,
        error_bound=known_error(store.objects, commit).bound,
        exact=former.quality.get("exact") == "yes",
        unchanged=same,
    )


def _parents(version: NextVersion, oid: str) -> tuple[str, ...]:
    """Return the commit that is flattened, and the branch's former version where that does not lead to it."""
    previous = version.previous
    return (oid,) if previous is None or version.store.is_ancestor(previous, oid) else (oid, previous)
