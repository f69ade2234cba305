"""Where a commit's own residual meets those of its ancestors: what continual learning writes over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from erestore.analysis.similarity.inner_products import ResidualProducts
from erestore.analysis.similarity.overlap import TensorOverlap, overlaps
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.commit_graph import by_time
from erestore.progress import Progress, silent
from erestore.records import Commit, Manifest, Term, normal_terms
from erestore.store import Store
from erestore.variant.variant import Variant


@dataclass(frozen=True)
class AncestorOverlap:
    """How a commit's own residual lies to an ancestor's; the fields are those of JSON.

    Attributes
    ----------
    commit : str
        The ancestor.
    cosine : float or None
        Between the two residuals, over all tensors; negative where the commit takes back what the ancestor did.
    share : float
        Of the squared norm of the commit's own residual, how much lies both in the column space and in the row space of the
        ancestor's leading components, tensor by tensor; see :class:`erestore.analysis.similarity.overlap.TensorOverlap`.
        Vectors have no spaces and count as outside.
    tensors : tuple of TensorOverlap
        Of the tensors that both change; ``a`` is the commit, ``b`` the ancestor.
    """

    commit: str
    cosine: float | None
    share: float
    tensors: tuple[TensorOverlap, ...]


def ancestor_overlaps(
    store: Store, oid: str, *, products_directory: Path | None = None, progress: Progress = silent
) -> tuple[AncestorOverlap, ...]:
    """Compare a commit's own residual with that of every ancestor on its base that has one.

    Parameters
    ----------
    store : Store
    oid : str
        Of the commit.
    products_directory : Path, optional
        See :class:`erestore.analysis.similarity.product_cache.ProductTable`.
    progress : Progress

    Returns
    -------
    tuple of AncestorOverlap
        Newest ancestor first; empty for a commit that has no residual of its own.
    """
    commit = store.commit_record(oid)
    if not commit.own:
        return ()
    manifest = store.manifest_of(oid)
    variant = _alone(store, manifest, commit)
    ancestors = _ancestors(store, oid, manifest.base, commit)
    residuals = list(
        dict.fromkeys((*commit.own, *(residual for record in ancestors.values() for residual in record.own)))
    )
    products = ResidualProducts(variant, residuals, ProductTable(products_directory, store.id), progress).all()
    order = {residual: index for index, residual in enumerate(residuals)}

    def inner(one: Sequence[str], two: Sequence[str]) -> float:
        return math.fsum(float(products[order[a], order[b]]) for a in one for b in two)

    norm, result = inner(commit.own, commit.own), []
    for ancestor, record in ancestors.items():
        tensors = overlaps(variant, _alone(store, manifest, record), progress)
        within = math.fsum((overlap.a_in_b or 0.0) * overlap.norm_a**2 for overlap in tensors)
        scale = math.sqrt(norm * max(0.0, inner(record.own, record.own)))
        cosine = inner(commit.own, record.own) / scale if scale else None
        result.append(AncestorOverlap(ancestor, cosine, within / norm if norm else 0.0, tensors))
    return tuple(result)


def _ancestors(store: Store, oid: str, base: str, commit: Commit) -> Mapping[str, Commit]:
    """Return the ancestors that introduced residuals on a base, newest first."""
    return {
        ancestor: record
        for ancestor, record in by_time(commit.parents, store.commit_record)
        if ancestor != oid and record.own and store.manifest_of(ancestor).base == base
    }


def _alone(store: Store, manifest: Manifest, commit: Commit) -> Variant:
    """Open what a commit's own residuals alone make of the base."""
    terms = normal_terms(tuple(Term(residual, Fraction(1)) for residual in commit.own))
    return Variant(store.objects, Manifest(manifest.base, terms, manifest.layout), lossy=True)
