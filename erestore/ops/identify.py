"""``identify``: which base an unknown checkpoint belongs to, which variants are nearest, and which is its likely parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from erestore.analysis.diff.side import require_whole
from erestore.analysis.similarity.nearest import Distances, measure
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.marker import Marker, read_marker
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError, NotFoundError
from erestore.ingest.matching import match_base
from erestore.integrations.name_conversions import library_spelling
from erestore.progress import Progress, silent
from erestore.records import Manifest
from erestore.store import Store
from erestore.variant.variant import Variant


@dataclass(frozen=True)
class FittingBase:
    """One base of the store, held against the checkpoint.

    Attributes
    ----------
    name : str
    fits : bool
        Whether at least half of the values of the smaller one have a counterpart.
    reason : str
        Why it does not; empty if it does.
    tensors : int
        Tensors that both have.
    distance, relative_distance : float or None
        Norm of ``checkpoint - base`` over these, and the same over the norm of the base; None where it does not fit.
    """

    name: str
    fits: bool
    reason: str
    tensors: int
    distance: float | None
    relative_distance: float | None


@dataclass(frozen=True)
class Near:
    """A base or a variant, and how far the checkpoint is from it.

    Attributes
    ----------
    name, base : str
    distance : float
        Norm of ``checkpoint - variant`` (its linear value) over the tensors that checkpoint and base share.
    relative_distance : float or None
        The same over the norm of ``checkpoint - base``: 1 for the base itself, above 1 for what is farther. None if the
        checkpoint is the base.
    cosine : float or None
        Between ``checkpoint - base`` and ``variant - base``; None for the base itself.
    """

    name: str
    base: str
    distance: float
    relative_distance: float | None
    cosine: float | None


@dataclass(frozen=True)
class IdentifyResult:
    """What was found; the fields are those of JSON.

    Attributes
    ----------
    path : str
    base : str
        The base that fits best.
    bases : tuple of FittingBase
        All bases, nearest first.
    parent : Near
        The likely parent: whatever the checkpoint is nearest to, the bases included.
    nearest : tuple of Near
        All variants and bases that fit, nearest first.
    left_out : tuple of str
        Tensors of the checkpoint that hold NaN or infinity.
    checkout_of : Marker or None
        What the folder says that it was checked out from.
    """

    path: str
    base: str
    bases: tuple[FittingBase, ...]
    parent: Near
    nearest: tuple[Near, ...]
    left_out: tuple[str, ...]
    checkout_of: Marker | None = None


def identify(
    store: Store,
    path: str | Path,
    *,
    products_directory: Path | None = None,
    progress: Progress = silent,
) -> IdentifyResult:
    """Find what a checkpoint was made from.

    Parameters
    ----------
    store : Store
    path : str or Path
    products_directory : Path, optional
        See :func:`erestore.ops.similar.similar`.
    progress : Progress

    Raises
    ------
    NotFoundError
        If there is nothing at `path`, or the store has no base.
    CheckpointError
        If it is no checkpoint with weights of its own, or fits no base.
    """
    bases = store.base_commits()
    with open_checkpoint(Path(path).expanduser()) as checkpoint:
        require_whole(checkpoint, hint="Commit it with --base, then use `erestore similar`.")
        if not bases:
            raise NotFoundError("The store has no base to compare with.", hint="`erestore import` stores one.")
        branches = _branches(store, bases)
        table = ProductTable(products_directory, store.id)
        fitting: list[FittingBase] = []
        near: list[Near] = []
        left_out: dict[str, None] = {}
        base_oids: set[str] = set()
        for name, oid in sorted(bases.items()):
            manifest = store.manifest_of(oid)
            if manifest.base in base_oids:
                continue
            base_oids.add(manifest.base)
            variants = {branch: candidate for branch, candidate in branches.items() if candidate.base == manifest.base}
            fitting_base, around, lost = _hold(store, checkpoint, name, manifest, variants, table, progress)
            fitting.append(fitting_base)
            near += around
            left_out |= dict.fromkeys(lost)
    fitting.sort(key=lambda candidate: (not candidate.fits, candidate.relative_distance or 0.0, candidate.name))
    if not near:
        reasons = "; ".join(f"{candidate.name}: {candidate.reason}" for candidate in fitting[:2])
        raise CheckpointError(
            f"The checkpoint fits no base of this store ({reasons})", hint="`erestore import` makes it a base itself."
        )
    near.sort(key=lambda candidate: (candidate.distance, candidate.name not in bases, candidate.name))
    marker = read_marker(Path(path).expanduser())
    return IdentifyResult(str(path), fitting[0].name, tuple(fitting), near[0], tuple(near), tuple(left_out), marker)


def _branches(store: Store, bases: Mapping[str, str]) -> dict[str, Manifest]:
    return {
        name: store.manifest_of(entry.oid)
        for name, entry in sorted(store.refs.all().items())
        if entry.oid is not None and entry.kind == "branch" and name not in bases
    }


def _hold(
    store: Store,
    checkpoint: Checkpoint,
    name: str,
    manifest: Manifest,
    branches: Mapping[str, Manifest],
    table: ProductTable,
    progress: Progress,
) -> tuple[FittingBase, list[Near], tuple[str, ...]]:
    """Hold the checkpoint against one base and the branches on it."""
    plain = Variant(store.objects, manifest)
    try:
        matched = match_base(checkpoint, plain, library_spelling)
    except CheckpointError as error:
        return (
            FittingBase(name, fits=False, reason=error.message, tensors=0, distance=None, relative_distance=None),
            [],
            (),
        )
    distances = measure(matched, plain, list(branches.values()), table, progress)
    shared = sum(key in plain.base for key in matched.keys.values())
    relative = distances.from_base / distances.base_norm if distances.base_norm else None
    fitting = FittingBase(
        name, fits=True, reason="", tensors=shared, distance=distances.from_base, relative_distance=relative
    )
    return fitting, _near(name, distances, list(branches)), distances.left_out


def _near(base: str, distances: Distances, names: list[str]) -> list[Near]:
    def relative(distance: float) -> float | None:
        return distance / distances.from_base if distances.from_base else None

    near = [Near(base, base, distances.from_base, relative(distances.from_base), None)]
    for name, distance, cosine in zip(names, distances.from_variants, distances.cosines, strict=True):
        near.append(Near(name, base, distance, relative(distance), cosine))
    return near
