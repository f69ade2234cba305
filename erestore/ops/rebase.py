"""``rebase``: a variant on another base, by its weights or by what it changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import as_tensor, widen
from erestore.checkpoint.dtypes import array_dtype, is_floating, torch_dtype
from erestore.checkpoint.unread_weights import START, holds_weights
from erestore.errors import UsageError
from erestore.integrations.name_conversions import library_spelling
from erestore.model.committing import VariantWriter
from erestore.model.computed import ComputedCheckpoint
from erestore.model.ledger import known_error, require_lossy
from erestore.model.matching import match_base
from erestore.model.quality import Quality, require_max_error
from erestore.model.residuals import matrix_shape
from erestore.model.variant import Variant, row_blocks
from erestore.progress import Progress, silent
from erestore.records import Manifest
from erestore.residual.rounding import round_to
from erestore.revisions import require_commit
from erestore.store import Store
from erestore.versions import next_version

if TYPE_CHECKING:
    import torch

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


def rebase(
    store: Store,
    revision: str,
    *,
    onto: str,
    name: str,
    carry: bool = False,
    max_error: float = REBASE_ERROR,
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
    max_error : float
    message : str
    progress : Progress

    Raises
    ------
    UsageError
        If `revision` is a base, `onto` is none, or the variant is on it already.
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
        layout = replace(
            variant.layout,
            tensors={own: replace(tensor, key=keys[own]) for own, tensor in variant.layout.tensors.items()},
        )
        stored_layout = store.objects.put_record("layout", layout.to_record())
        carried = {tensor.key: keys[own] for own, tensor in variant.layout.tensors.items()}
        compute = _Carried(variant, base, carried) if carry else None
        checkpoint = ComputedCheckpoint(variant, compute) if compute else ComputedCheckpoint(variant)
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
        kept = "change" if carry else "weights"
        commit, recorded = version.record_encoded(
            stored,
            former,
            parents=tuple(dict.fromkeys(each for each in (target, previous, oid) if each is not None)),
            edge="rebased",
            message=message or f"rebase {revision} onto {onto}",
            quality={"rebase_error": repr(error), "kept": kept},
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
        kept=kept,
        rebase_error=error,
        error_bound=known_error(store.objects, commit).bound,
        exact=exact,
        loses_exact=(revision,) if carry and variant.manifest.patch is not None else (),
        relative_norm=(distance.squared_norm / distance.base_norm) ** 0.5 if distance.base_norm else 0.0,
        notes=_side_weights(revision, onto, variant, base) if carry else (),
    )


def _side_weights(revision: str, onto: str, variant: Variant, base: Variant) -> tuple[str, ...]:
    """Say which files of weights, which are not read, stay the variant's although its other weights move."""
    new = base.layout.side_files
    return tuple(
        f"The file of weights '{path}' is not read and nothing is carried over to it: the result has that of "
        f"'{revision}'{f', not that of {onto!r}' if path in new else ''}."
        for path, oid in sorted(variant.layout.side_files.items())
        if new.get(path) != oid and holds_weights(path, variant.objects.blob_start(oid, START))
    )


@dataclass(frozen=True)
class _Carried:
    """Computes ``new base + (variant - old base)``; what has no place in the new base keeps its own value."""

    variant: Variant
    base: Variant
    keys: dict[str, str]

    def __call__(self, key: str) -> torch.Tensor | None:
        held = next(tensor for tensor in self.variant.layout.tensors.values() if tensor.key == key)
        if key in self.variant.manifest.dense or key not in self.variant.base or not is_floating(held.dtype):
            return None
        place = self.base.base.get(self.keys[key])
        if place is None or not is_floating(place.dtype) or place.shape[1:] != held.shape[1:]:
            return None
        old, new = self.variant.linear(key), self.base.linear(self.keys[key]).base
        own = self.variant.rounded(key, held.dtype, held.shape).reshape(matrix_shape(held.shape))
        rows = min(len(own), len(old.base), len(new))
        found = np.array(own)
        for start, stop in row_blocks(rows, own.shape[1]):
            change = old.rows(start, stop) - widen(old.base[start:stop])
            found[start:stop] = round_to(widen(new[start:stop]) + change, array_dtype(held.dtype))
        return as_tensor(found.reshape(held.shape), torch_dtype(held.dtype))
