"""How far a checkpoint is from every variant of a base, without building one.

With ``d = checkpoint - base`` the squared distance to ``base + sum(a_k R_k)`` is ``||d||^2 - 2 sum(a_k <d, R_k>) + a^T G a``:
the checkpoint and every residual pass by once, tensor by tensor, and `G` holds inner products of residuals that
:mod:`erestore.analysis.similarity.inner_products` keeps. Cancellation limits it: distances below about 1e-7 of ``||d||`` are
not resolved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from erestore.analysis.similarity.inner_products import (
    ResidualProducts,
    base_rows,
    coefficients,
    group_keys,
    having,
    load_residual,
)
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.arrays import Array, as_array, matrix_shape, widen, without_warnings
from erestore.encoding.target import Target, divide
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.ingest.matching import Matched
from erestore.progress import Progress, silent
from erestore.records import Manifest
from erestore.residual.codecs.abc import Section
from erestore.residual.products import Matrix, cross_products, gram
from erestore.variant.variant import Variant

_HELD_BYTES = 128 << 20
"""Of the checkpoint at a time, if it were float64."""
_STRIP = 8
"""Residuals at a time."""


@dataclass(frozen=True)
class DifferenceSection(Section):
    """A checkpoint's tensor less the base's, as a section: ``rows`` are ``own - base`` in float64.

    Attributes
    ----------
    shape : tuple of int
    own, base : ndarray
        Of `shape`, in their own dtypes.
    """

    shape: tuple[int, int]
    own: Array
    base: Array

    def rows(self, start: int, stop: int, base: Array) -> Array:  # noqa: ARG002 - it has its own
        """Evaluate rows ``start:stop``; see :meth:`Section.rows`."""
        difference: Array = widen(self.own[start:stop]) - widen(self.base[start:stop])
        return difference


@dataclass(frozen=True)
class Distances:
    """How far a checkpoint is from a base and its variants, over the tensors that it shares with the base.

    Attributes
    ----------
    base_norm : float
        Of the base's values.
    from_base : float
        Norm of ``checkpoint - base``.
    from_variants : tuple of float
        Norms of ``checkpoint - variant``, linear values.
    cosines : tuple of float or None
        Between ``checkpoint - base`` and ``variant - base``.
    left_out : tuple of str
        Tensors that are not finite.
    """

    base_norm: float
    from_base: float
    from_variants: tuple[float, ...]
    cosines: tuple[float | None, ...]
    left_out: tuple[str, ...]


def measure(
    matched: Matched,
    plain: Variant,
    manifests: Sequence[Manifest],
    table: ProductTable | None = None,
    progress: Progress = silent,
) -> Distances:
    """Measure a checkpoint against a base and variants of it.

    Parameters
    ----------
    matched : Matched
        The checkpoint, opened, and which of the base's tensors its own are.
    plain : Variant
        The base.
    manifests : sequence of Manifest
        Of the variants.
    table : ProductTable, optional
    progress : Progress
    """
    targets, _ = divide(matched.checkpoint, matched.keys, plain.base)
    oids = list(dict.fromkeys(term.residual for manifest in manifests for term in manifest.terms))
    weights = coefficients(manifests, oids)
    is_used = (weights != 0).astype(float)
    products = np.zeros((0, 0))
    if oids:
        pairs = ResidualProducts(plain, oids, table or ProductTable(), progress).of(is_used.T @ is_used > 0)
        products = np.nan_to_num(pairs)  # what is not known is of no variant
    squared, base_squared, inner, left_out = _stream(matched, plain, targets, oids, progress)
    along = weights @ inner
    norms = np.einsum("vk,kl,vl->v", weights, products, weights)
    distances = np.sqrt(np.maximum(squared - 2 * along + norms, 0))
    scale = np.sqrt(squared * np.maximum(norms, 0))
    cosines = [float(one / other) if other > 0 else None for one, other in zip(along, scale, strict=True)]
    return Distances(
        math.sqrt(base_squared), math.sqrt(squared), tuple(distances.tolist()), tuple(cosines), tuple(left_out)
    )


def _stream(
    matched: Matched, plain: Variant, targets: Sequence[Target], oids: Sequence[str], progress: Progress
) -> tuple[float, float, Array, list[str]]:
    """Return the squared norms of the difference and of the base, inner products with residuals, and what is not finite."""
    sizes = {target.key: _bytes(target) for target in targets}
    by_key = {target.key: target for target in targets}
    squared = base_squared = 0.0
    inner, left_out, done = np.zeros(len(oids)), list[str](), 0
    _ = plain.base
    with tensor_threads() as executor, without_warnings():
        for keys in group_keys(sizes, _HELD_BYTES):
            matrices: dict[str, Matrix] = {}
            for key in sorted(keys):
                section = _difference(matched, plain, by_key[key])
                matrix = Matrix.of([section])
                squared_norm = float(gram([matrix])[0, 0])
                if math.isfinite(squared_norm):
                    matrices[key] = matrix
                    squared += squared_norm
                    base_squared += _squared_norm(section.base)
                else:
                    left_out.append(by_key[key].name)
            inner += _against(executor, plain, matrices, oids)
            done += len(keys)
            progress("measuring", done, len(targets))
    return squared, base_squared, inner, left_out


def _bytes(target: Target) -> int:
    rows, columns = matrix_shape(target.info.shape)
    return 8 * rows * columns


def _difference(matched: Matched, plain: Variant, target: Target) -> DifferenceSection:
    value = as_array(matched.checkpoint.read(target.name)).reshape(matrix_shape(target.info.shape))
    base = plain.base_tensor(target.key).reshape(matrix_shape(plain.base[target.key].shape))
    return DifferenceSection((target.shared, value.shape[1]), value[: target.shared], base[: target.shared])


def _squared_norm(matrix: Array) -> float:
    return float(gram([Matrix.of([DifferenceSection(matrix.shape, matrix, np.broadcast_to(0.0, matrix.shape))])])[0, 0])


def _against(executor: Executor, plain: Variant, differences: Mapping[str, Matrix], oids: Sequence[str]) -> Array:
    """Return the inner products of differences with residuals, over the tensors that are held."""
    keys, products_by_residual = frozenset(differences), np.zeros(len(oids))

    def load(oid: str) -> Mapping[str, Matrix]:
        return load_residual(plain, oid, keys)

    for start in range(0, len(oids), _STRIP):
        loaded = list(bounded_map(executor, load, oids[start : start + _STRIP], in_flight=worker_count()))

        def against(key: str, loaded: Sequence[Mapping[str, Matrix]] = loaded) -> tuple[Array, Array]:
            places, matrices = having(loaded, key)
            return places, cross_products([differences[key]], matrices, base_rows(plain, key))[0]

        touched = sorted({key for residual in loaded for key in residual})
        for places, products in bounded_map(executor, against, touched, in_flight=worker_count()):
            products_by_residual[start + places] += products
    return products_by_residual
