"""``verify``: whether a checkpoint on disk is what a revision stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erestore.analysis.diff.side import require_whole
from erestore.checkpoint.default_name import default_name
from erestore.checkpoint.marker import Marker, read_marker
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import UsageError
from erestore.history.revision import Revision, open_revision
from erestore.history.working_copy import TensorDifference, differences, open_marked
from erestore.progress import Progress, silent
from erestore.store import Store
from erestore.variant.error_bound import read_errors, recorded_error
from erestore.variant.variant import Variant

EQUAL, WITHIN, DIFFERENT = "equal", "within", "different"

SLACK = 1e-4
"""Share by which sums of squares in another order may be larger than what was recorded."""


@dataclass(frozen=True)
class VerifyResult:
    """What ``verify`` found; the fields are those of its JSON.

    Attributes
    ----------
    path : str
    revision : str
    commit : str or None
        None for an expression that equals no commit.
    state : str
        ``equal``: every tensor is stored bit for bit. ``within``: the tensors are those that were committed, as far as the
        error that the commit records can tell. ``different``: anything else.
    tensors : int
    differences : tuple of TensorDifference
    relative_error : float or None
        Squared norm of what is stored minus what is on disk, in the units of the commit's own error; None where that is not
        recorded, or not all differences are of values.
    limit : float or None
        The commit's own error, as it was measured or else an upper bound.
    lossy : bool
        Whether the folder was compared with a part of the commit only, since no more was checked out into it.
    max_rank, max_bytes : int or None
        How much of the residuals was checked out.
    """

    path: str
    revision: str
    commit: str | None
    state: str
    tensors: int
    differences: tuple[TensorDifference, ...]
    relative_error: float | None
    limit: float | None
    lossy: bool = False
    max_rank: int | None = None
    max_bytes: int | None = None


def verify(store: Store, path: str | Path, revision: str | None = None, *, progress: Progress = silent) -> VerifyResult:
    """Compare a checkpoint with what a revision stores.

    Parameters
    ----------
    store : Store
    path : str or Path
    revision : str, optional
        By default what the folder was checked out from, with what was left out then.
    progress : Progress

    Raises
    ------
    NotFoundError
        If there is no such checkpoint or revision.
    UsageError
        If `revision` is left out and the folder does not say what it is, or not of this store.
    CheckpointError
        If it is an adapter, which has no values of its own.
    CorruptionError
        If what is stored does not decode.
    """
    marker = read_marker(Path(path)) if revision is None else None
    opened, variant = _open(store, Path(path), revision, marker)
    with open_checkpoint(Path(path).expanduser()) as checkpoint:
        require_whole(
            checkpoint,
            hint=f"`erestore commit {path} --name NAME --dry-run` finds nothing to commit if NAME is what it was stored as.",
        )
        unequal = tuple(sorted(differences(checkpoint, variant, progress), key=lambda difference: difference.name))
    norm, limit = _recorded(store, opened, variant)
    error = _relative(unequal, norm)
    is_within = error is not None and limit is not None and error <= limit * (1 + SLACK)
    return VerifyResult(
        path=str(path),
        revision=opened.text,
        commit=opened.oid,
        state=WITHIN if unequal and is_within else DIFFERENT if unequal else EQUAL,
        tensors=len(variant.layout.tensors),
        differences=unequal,
        relative_error=error,
        limit=limit,
        lossy=marker is not None and marker.lossy,
        max_rank=None if marker is None else marker.max_rank,
        max_bytes=None if marker is None else marker.max_bytes,
    )


def _open(store: Store, path: Path, revision: str | None, marker: Marker | None) -> tuple[Revision, Variant]:
    if revision is not None:
        opened = open_revision(store, revision)
        return opened, opened.variant(store)
    marked = None if marker is None else open_marked(store, marker)
    if marked is None:
        reason = "does not say what it is a checkout of" if marker is None else "is not a checkout of this store"
        name = default_name(path)
        revision = name if store.has_ref(name) else "REVISION"
        raise UsageError(f"'{path}' {reason}.", hint=f"Name the revision: `erestore verify {path} {revision}`.")
    return marked


def _recorded(store: Store, opened: Revision, variant: Variant) -> tuple[float | None, float | None]:
    """Return the squared norm that the commit's error is relative to, and that error."""
    error = recorded_error(store.objects, opened.commit, opened.manifest)
    limit = error.measured if error.measured is not None else error.bound
    residuals = opened.commit.own
    if len(residuals) != 1 or variant.is_prefix:
        return None, limit
    recorded = read_errors(store.objects, residuals[0], error.measured)
    return None if recorded is None else recorded.norm, limit


def _relative(unequal: Sequence[TensorDifference], norm: float | None) -> float | None:
    errors = [difference.squared_error for difference in unequal if difference.squared_error is not None]
    if not norm or len(errors) < len(unequal):
        return 0.0 if not unequal else None
    return sum(errors) / norm
