"""Inner products of the residuals of a store, and of the variants that are made of them.

Any number of residuals are multiplied pair by pair in bounded memory: a block of them is held, decoded but not widened, and
the others pass by in strips; each residual is read once for every block. Results are kept in a
:class:`erestore.analysis.similarity.product_cache.ProductTable`, so that a new residual costs its own pairs alone.

Only tensors of the base count: heads and added rows have nothing to be a difference from. Codes of quantised weights count as
the weights that they stand for (:mod:`erestore.analysis.similarity.quantised_products`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from erestore.analysis.similarity.product_cache import ProductTable
from erestore.analysis.similarity.quantised_products import quantised_products
from erestore.arrays import Array, matrix_shape, widen, without_warnings
from erestore.errors import CorruptionError
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.objects.residual import Residual
from erestore.progress import Progress, silent
from erestore.records import Manifest
from erestore.residual.products import Matrix, Rows, cross_products, gram
from erestore.variant.variant import Variant, check_fit

HELD_BYTES = 1 << 30
"""Decoded sections of a block."""
STRIP_BYTES = 192 << 20
"""Decoded sections of a strip."""
_GROUP_BYTES = STRIP_BYTES // 8
"""Of the tensors of one residual that are held at a time; one tensor may be larger."""
_OVERHEAD = 2048
"""Bytes of the objects around a tensor's sections."""
_FEW = 16
"""Residuals at a time where only few pairs are asked for."""
_AHEAD = 8
"""Most tasks of a worker, begun or done: more than one, lest it wait while another one is at a large tensor."""
_WAITING_BYTES = 4 << 20
"""Products that are done and wait for those before them, of a worker; where one task's are more, it waits by itself."""


def variant_products(
    variants: Sequence[Variant], table: ProductTable | None = None, progress: Progress = silent
) -> Array:
    """Return the Gram matrix of ``variant - base``, float64 ``(N, N)``.

    Parameters
    ----------
    variants : sequence of Variant
        Of one base.
    table : ProductTable, optional
    progress : Progress
    """
    oids = list(dict.fromkeys(term.residual for variant in variants for term in variant.manifest.terms))
    weights = coefficients([variant.manifest for variant in variants], oids)
    products = (
        ResidualProducts(variants[0], oids, table or ProductTable(), progress).all() if oids else np.zeros((0, 0))
    )
    gram: Array = weights @ products @ weights.T
    return gram + quantised_products(variants)


def coefficients(manifests: Sequence[Manifest], oids: Sequence[str]) -> Array:
    """Return the coefficient of every residual in every variant, float64 ``(N, K)``."""
    order = {oid: index for index, oid in enumerate(oids)}
    matrix = np.zeros((len(manifests), len(oids)))
    for row, manifest in enumerate(manifests):
        for oid, coefficient in manifest.terms:
            matrix[row, order[oid]] = float(coefficient)
    return matrix


def base_rows(variant: Variant, key: str) -> Rows:
    """Return a function that reads rows of one tensor of a variant's base, which is read when it is first called."""
    cache: list[Array] = []

    def rows(start: int, stop: int) -> Array:
        if not cache:
            cache.append(variant.base_tensor(key).reshape(matrix_shape(variant.base[key].shape)))
        return widen(cache[0][start:stop])

    return rows


@dataclass
class ResidualProducts:
    """The inner products of residuals on one base.

    Attributes
    ----------
    variant : Variant
        Any on their base.
    oids : sequence of str
        Each once.
    table : ProductTable
    progress : Progress
    """

    variant: Variant
    oids: Sequence[str]
    table: ProductTable = field(default_factory=ProductTable)
    progress: Progress = silent

    def all(self) -> Array:
        """Return all of them, float64 ``(K, K)``."""
        return self.of(np.ones((len(self.oids), len(self.oids)), dtype=bool))

    def of(self, wanted: Array) -> Array:
        """Return those of the pairs that are wanted (a symmetric mask), and what else is known; NaN elsewhere."""
        table = self.table.known(self.oids)
        missing = wanted & ~np.isfinite(table)
        if not missing.any():
            return table
        total, done = int(np.tril(missing).sum()), 0
        _ = self._sizes, self.variant.base  # read once, before several threads ask for them
        with tensor_threads() as executor, without_warnings():
            while missing.any():
                block = self._choose(missing)
                products = self._block(executor, block, missing)
                for index, row in zip(block, products, strict=True):
                    now = missing[index].copy()
                    table[index, now] = table[now, index] = row[now]
                    missing[index, :] = missing[:, index] = False
                self.table.keep(self.oids, table)
                done = total - int(np.tril(missing).sum())
                self.progress("comparing", done, total)
        return table

    def _choose(self, missing: Array) -> list[int]:
        """Return residuals, those first that are in most missing pairs, that between them can be held."""
        left, block, size = missing.copy(), list[int](), 0
        counts = left.sum(axis=1)
        while counts.max() > 0:
            index = int(counts.argmax())
            size += self._sizes[index]
            if block and size > HELD_BYTES:
                break
            block.append(index)
            counts = counts - left[:, index]
            left[index, :] = left[:, index] = False
            counts[index] = 0
        return block

    def _block(self, executor: Executor, block: Sequence[int], missing: Array) -> Array:
        """Multiply a block with itself and all others that it has missing pairs with, ``(len(block), K)``."""
        products = np.zeros((len(block), len(self.oids)))
        others = [index for index in np.flatnonzero(missing[block].any(axis=0)).tolist() if index not in set(block)]
        for keys in self._groups:
            loaded = self._load(executor, block, keys)
            self._within(executor, block, loaded, missing, products)
            for strip in self._strips(others):
                passing = self._load(executor, strip, keys)
                products[:, strip] += self._multiply(executor, loaded, passing)
        return products

    def _within(
        self, executor: Executor, block: Sequence[int], loaded: Sequence[_Loaded], missing: Array, products: Array
    ) -> None:
        """Add the products of a block with itself, of all of it or, where few are asked for, of those."""
        wanted = missing[np.ix_(block, block)]
        if 2 * wanted.sum() > wanted.size:
            products[:, block] += self._multiply(executor, loaded, None)
            return
        for start in range(0, len(block), _FEW):
            few = range(start, min(len(block), start + _FEW))
            rows = np.flatnonzero(wanted[:, few].any(axis=1)).tolist()
            if rows:
                columns = [block[number] for number in few]
                ones, twos = [loaded[row] for row in rows], [loaded[number] for number in few]
                products[np.array(rows)[:, None], columns] += self._multiply(executor, ones, twos)

    def _multiply(self, executor: Executor, ones: Sequence[_Loaded], twos: Sequence[_Loaded] | None) -> Array:
        """Multiply loaded residuals tensor by tensor; without `twos`, `ones` with themselves."""

        def multiply(key: str) -> tuple[Array, Array, Array]:
            rows, first = having(ones, key)
            base = base_rows(self.variant, key)
            if twos is None:
                return rows, rows, gram(first, base)
            columns, second = having(twos, key)
            return rows, columns, cross_products(first, second, base)

        total = np.zeros((len(ones), len(ones if twos is None else twos)))
        keys = sorted({key for residual in ones for key in residual})
        ahead = max(1, min(_AHEAD, _WAITING_BYTES // max(1, total.nbytes)))
        for rows, columns, products in bounded_map(executor, multiply, keys, in_flight=ahead * worker_count()):
            total[np.ix_(rows, columns)] += products
        return total

    def _load(self, executor: Executor, places: Sequence[int], keys: frozenset[str]) -> list[_Loaded]:
        def load(index: int) -> _Loaded:
            return load_residual(self.variant, self.oids[index], keys)

        return list(bounded_map(executor, load, places, in_flight=_AHEAD * worker_count()))

    def _strips(self, places: Sequence[int]) -> Iterator[list[int]]:
        strip, size = list[int](), 0
        for index in places:
            if strip and size + self._sizes[index] > STRIP_BYTES:
                yield strip
                strip, size = [], 0
            strip.append(index)
            size += self._sizes[index]
        if strip:
            yield strip

    @cached_property
    def _tensor_sizes(self) -> list[dict[str, int]]:
        """Return for every residual what its tensors take when they are held."""
        names: dict[str, str] = {}
        sizes = []
        for oid in self.oids:
            residual = Residual.open(self.variant.objects, oid)
            _ = residual.reproducible  # imports what its codecs need, which has to be there when threads begin
            sizes.append({names.setdefault(key, key): size for key, size in tensor_sizes(residual).items()})
        return sizes

    @cached_property
    def _groups(self) -> list[frozenset[str]]:
        """Tensors that are held at a time."""
        largest: dict[str, int] = {}
        for sizes in self._tensor_sizes:
            for key, size in sizes.items():
                largest[key] = max(size, largest.get(key, 0))
        return list(group_keys(largest, _GROUP_BYTES))

    @cached_property
    def _sizes(self) -> list[int]:
        """What every residual takes when it is held, of the group of tensors of which it takes most."""
        return [
            max((sum(sizes.get(key, 0) for key in keys) for keys in self._groups), default=0)
            for sizes in self._tensor_sizes
        ]


_Loaded = Mapping[str, Matrix]
"""Some of a residual's tensors, by key."""


def having(residuals: Sequence[_Loaded], key: str) -> tuple[Array, list[Matrix]]:
    """Return the places of residuals that touch a tensor, and what they hold of it."""
    places = np.array([index for index, residual in enumerate(residuals) if key in residual], dtype=np.int64)
    return places, [residuals[index][key] for index in places]


def tensor_sizes(residual: Residual) -> dict[str, int]:
    """Return what each tensor of a residual takes in memory, decoded but not widened."""
    return {
        key: _OVERHEAD + sum(length for section in tensor.sections for *_, length in section.parts)
        for key, tensor in residual.tensors.items()
    }


def group_keys(sizes: Mapping[str, int], limit: int) -> Iterator[frozenset[str]]:
    """Cut tensors, in the order of their keys, into groups of at most `limit` bytes or of one."""
    group, total = list[str](), 0
    for key in sorted(sizes):
        if group and total + sizes[key] > limit:
            yield frozenset(group)
            group, total = [], 0
        group.append(key)
        total += sizes[key]
    if group:
        yield frozenset(group)


def load_residual(variant: Variant, oid: str, keys: frozenset[str]) -> dict[str, Matrix]:
    """Decode some of a residual's tensors.

    Parameters
    ----------
    variant : Variant
        Any on its base.
    oid : str
    keys : frozenset of str

    Raises
    ------
    CorruptionError
        If the residual is of another base, or does not fit it.
    """
    residual = Residual.open(variant.objects, oid)
    if residual.base != variant.manifest.base:
        raise CorruptionError(f"The residual {oid[:12]} belongs to another base than the manifest.")
    matrices = {}
    for key in sorted((keys & residual.tensors.keys()) - variant.quantised_keys):
        check_fit(variant.base, key, residual.tensors[key].matrix)
        if sections := residual.sections(key):
            matrices[key] = Matrix.of(sections)
    return matrices
