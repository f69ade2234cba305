"""``similar``: how much variants of one base have in common, from inner products of their residuals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erestore.analysis.similarity.inner_products import variant_products
from erestore.analysis.similarity.overlap import TensorOverlap, overlaps
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.arrays import Array
from erestore.errors import CombinationError, Conflict, NotFoundError, UsageError
from erestore.history.revision import Revision, open_revision
from erestore.progress import Progress, silent
from erestore.store import Store
from erestore.variant.variant import Variant

SAME = 1e-6
"""Duplicates have a cosine above one less this, and norms that differ by no more."""
FAR = 3.5
"""Modified z-score from which on a variant is an outlier (Iglewicz and Hoaglin 1993)."""
ENOUGH = 5
"""Variants below which nothing is called an outlier."""
_TO_SIGMA = 0.6745
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Outlier:
    """A variant unlike the others.

    Attributes
    ----------
    name : str
    reason : str
        ``direction``: the median of its cosines with the others is low; ``norm``: the logarithm of its norm is far from the
        others'.
    value : float
        That median, or the norm.
    typical : float
        Its median over all variants.
    score : float
        How many times the usual spread it is off.
    """

    name: str
    reason: str
    value: float
    typical: float
    score: float


@dataclass(frozen=True)
class PairOverlap:
    """Two variants, tensor by tensor."""

    a: str
    b: str
    tensors: tuple[TensorOverlap, ...]


@dataclass(frozen=True)
class SimilarResult:
    """What ``similar`` found; the fields are those of JSON.

    Attributes
    ----------
    names : tuple of str
    base : str
    matrix : tuple of tuple of float or None
        Cosines between the vectors ``variant - base`` (linear values); None where one is zero.
    gram : tuple of tuple of float
        Their inner products.
    norms : tuple of float
    duplicates : tuple of tuple of str
        Groups of variants whose vectors are equal up to :data:`SAME`.
    outliers : tuple of Outlier
    whole : Mapping[str, int]
        Variants that hold tensors or added rows whole, and how many: these are not part of the vectors.
    overlaps : tuple of PairOverlap
        For every pair, where asked for.
    """

    names: tuple[str, ...]
    base: str
    matrix: tuple[tuple[float | None, ...], ...]
    gram: tuple[tuple[float, ...], ...]
    norms: tuple[float, ...]
    duplicates: tuple[tuple[str, ...], ...]
    outliers: tuple[Outlier, ...]
    whole: Mapping[str, int]
    overlaps: tuple[PairOverlap, ...]


def similar(
    store: Store,
    revisions: Sequence[str] = (),
    *,
    base: str | None = None,
    angles: bool = False,
    products_directory: Path | None = None,
    progress: Progress = silent,
) -> SimilarResult:
    """Compare variants of one base with each other.

    Parameters
    ----------
    store : Store
    revisions : sequence of str
        Revisions or expressions; by default all branches.
    base : str, optional
        Without `revisions`: only the branches on this base.
    angles : bool
        Also compare every pair tensor by tensor; takes `revisions`.
    products_directory : Path, optional
        Where inner products are kept between runs; see :class:`erestore.analysis.similarity.product_cache.ProductTable`.
    progress : Progress

    Returns
    -------
    SimilarResult

    Raises
    ------
    CombinationError
        If the variants are of more than one base.
    NotFoundError
        If there are no variants.
    """
    if base is not None and revisions:
        raise UsageError("--base chooses among all variants, and some are named.", hint="Leave one of the two out.")
    if angles and len(revisions) < 2:
        raise UsageError("Angles are between variants that are named.", hint="Name two or more: similar a b --angles.")
    opened = _named(store, revisions) if revisions else _all(store, base)
    _require_one_base(store, opened, "Name variants of one." if revisions else None)
    variants = [revision.variant(store, lossy=True) for revision in opened]
    names = tuple(revision.text for revision in opened)
    products = variant_products(variants, ProductTable(products_directory, store.id), progress)
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.clip(products / np.outer(norms, norms), -1, 1)
    counts = {
        name: count
        for name, variant in zip(names, variants, strict=True)
        if (count := len(variant.manifest.dense.keys() - variant.quantised_keys) + len(variant.manifest.rows))
    }
    return SimilarResult(
        names=names,
        base=store.base_name(variants[0].manifest.base),
        matrix=tuple(tuple(value if np.isfinite(value) else None for value in row) for row in cosines.tolist()),
        gram=tuple(map(tuple, products.tolist())),
        norms=tuple(norms.tolist()),
        duplicates=tuple(tuple(names[index] for index in group) for group in _duplicates(cosines, norms)),
        outliers=tuple(_outliers(names, cosines, norms)),
        whole=counts,
        overlaps=_overlaps(names, variants, progress) if angles else (),
    )


def uncached_pairs(
    store: Store,
    revisions: Sequence[str] = (),
    *,
    base: str | None = None,
    products_directory: Path | None = None,
) -> int:
    """Return how many inner products of residuals :func:`similar`, asked for the same, would have to compute.

    Parameters
    ----------
    store, revisions, base, products_directory
        See there, also for what is raised.
    """
    opened = _named(store, revisions) if revisions else _all(store, base)
    oids = list(dict.fromkeys(term.residual for revision in opened for term in revision.manifest.terms))
    products = ProductTable(products_directory, store.id).known(oids)
    return int(np.tril(~np.isfinite(products)).sum())


def _named(store: Store, revisions: Sequence[str]) -> list[Revision]:
    return [open_revision(store, revision) for revision in dict.fromkeys(revisions)]


def _all(store: Store, base: str | None) -> list[Revision]:
    """Open every branch that is no base, or those of one base."""
    bases = store.base_commits()
    if base is not None and base not in bases:
        names = ", ".join(sorted(bases)) or "none"
        raise NotFoundError(f"There is no base '{base}'.", hint=f"The bases are {names}.")
    wanted = store.manifest_of(bases[base]).base if base is not None else None
    revisions = []
    for name, entry in sorted(store.refs.all().items()):
        if entry.oid is not None and entry.kind == "branch" and name not in bases:
            opened = open_revision(store, name)
            if wanted in (None, opened.manifest.base):
                revisions.append(opened)
    if not revisions:
        raise NotFoundError("There are no variants to compare.", hint="`erestore commit` makes one.")
    return revisions


def _require_one_base(store: Store, opened: Sequence[Revision], hint: str | None) -> None:
    by_base: dict[str, list[str]] = {}
    for revision in opened:
        by_base.setdefault(revision.manifest.base, []).append(revision.text)
    if len(by_base) < 2:
        return
    conflicts = tuple(
        Conflict("base", "", f"of the base {store.base_name(base)}", tuple(names)) for base, names in by_base.items()
    )
    bases = sorted(store.base_name(base) for base in by_base)
    shown = " and ".join(bases)
    hint = hint or f"`erestore similar --base {bases[0]}` compares those of one."
    raise CombinationError(f"The variants are of {len(by_base)} bases: {shown}.", conflicts, hint=hint)


def _duplicates(cosines: Array, norms: Array) -> list[list[int]]:
    """Group variants whose vectors are equal; those without any change are equal too."""
    ratio = np.abs(norms[:, None] - norms[None, :]) <= SAME * np.maximum(norms[:, None], norms[None, :])
    is_zero = norms == 0
    same = (ratio & (cosines > 1 - SAME)) | np.outer(is_zero, is_zero)
    groups, grouped = [], set[int]()
    for index in range(len(norms)):
        if index not in grouped:
            group = [other for other in np.flatnonzero(same[index]).tolist() if other not in grouped]
            grouped.update(group)
            if len(group) > 1:
                groups.append(group)
    return groups


def _outliers(names: Sequence[str], cosines: Array, norms: Array) -> list[Outlier]:
    """Return the variants whose norm, or whose usual cosine with the others, is far from what is typical."""
    used = np.flatnonzero(norms > 0).tolist()
    if len(used) < ENOUGH:
        return []
    among = cosines[np.ix_(used, used)].copy()
    np.fill_diagonal(among, np.nan)
    direction, length = np.nanmedian(among, axis=1), np.log(norms[used])
    outliers = []
    for index, value, score in zip(used, direction.tolist(), _scores(direction).tolist(), strict=True):
        if score < -FAR:
            outliers.append(Outlier(names[index], "direction", value, float(np.median(direction)), -score))
    for index, value, score in zip(used, norms[used].tolist(), _scores(length).tolist(), strict=True):
        if abs(score) > FAR:
            outliers.append(Outlier(names[index], "norm", value, float(np.exp(np.median(length))), abs(score)))
    return sorted(outliers, key=lambda outlier: -outlier.score)


def _scores(values: Array) -> Array:
    """Return modified z-scores: distances from the median in units of the median distance."""
    off = values - np.median(values)
    spread = max(float(np.median(np.abs(off))), _LEAST_SPREAD)
    scores: Array = _TO_SIGMA * off / spread
    return scores


def _overlaps(names: Sequence[str], variants: Sequence[Variant], progress: Progress) -> tuple[PairOverlap, ...]:
    places = itertools.combinations(range(len(names)), 2)
    return tuple(
        PairOverlap(names[one], names[two], overlaps(variants[one], variants[two], progress)) for one, two in places
    )
