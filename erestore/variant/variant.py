"""A variant: ``base + sum(coefficient * residual)``, rounded once, patched if exact; evaluated tensor by tensor.

The float64 value is ``((base + c1 * R1) + c2 * R2) + ...`` in the manifest's order of terms; each ``R`` is the float64 sum of
its sections in stored order; multiplication and addition are separate operations. That is the evaluation contract:
the bits are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3

from erestore.arrays import BLOCK, Array, as_tensor, matrix_shape, raw_bytes, row_blocks, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype, is_floating, torch_dtype, torch_shape
from erestore.checkpoint.quantised_weights import find_quantised, needs_configuration
from erestore.errors import CorruptionError
from erestore.objects.patch import DEEPEST, Patch, PatchedTensor
from erestore.objects.residual import CACHE_BYTES, Residual
from erestore.objects.structure import quantisation_of
from erestore.objects.tensors import VALUE_DIGEST_BYTES, MatrixRows, TensorReader
from erestore.records import Base, Layout, Manifest, Part, WholeTensor
from erestore.residual.codecs.abc import Section
from erestore.residual.rounding import round_to
from erestore.storage.objects import ObjectStore
from erestore.variant.prefix import Prefix

if TYPE_CHECKING:
    import torch

Terms = tuple[tuple[float, tuple[Section, ...]], ...]
"""Coefficient and sections of every term that touches a tensor, in the manifest's order."""


def add_terms(terms: Terms, start: int, base: Array) -> Array:
    """Return the float64 value of the rows from `start` on that `base` holds, in any dtype; may be `base` itself."""
    base = widen(base)
    stop = start + len(base)
    total: Array | None = None
    with without_warnings():
        for coefficient, sections in terms:
            # A residual may cover fewer rows than the base, where a vocabulary shrank.
            end = min(stop, sections[0].shape[0])
            if end <= start:
                continue
            value = evaluate(sections, start, end, base[: end - start])
            if coefficient != 1:
                value *= coefficient
            if total is None and end == stop:
                total = np.add(value, base, out=value)
            else:
                total = base.copy() if total is None else total
                total[: end - start] += value
    return base if total is None else total


@dataclass(frozen=True)
class LinearTensor:
    """The float64 value of one of the base's tensors under a linear combination.

    Attributes
    ----------
    base : ndarray
        The base's tensor as a matrix, in its own dtype.
    terms : Terms
    """

    base: Array
    terms: Terms

    def rows(self, start: int, stop: int) -> Array:
        """Return rows ``start:stop`` as a new float64 array."""
        value = add_terms(self.terms, start, self.base[start:stop])
        return value.copy() if np.may_share_memory(value, self.base) else value

    def rounded(self, rows: int, dtype: np.dtype[Any]) -> Array:
        """Return the first `rows` rows rounded to `dtype`."""
        columns = self.base.shape[1]
        if not self.terms and self.base.dtype == dtype:
            return self.base[:rows]
        result = np.empty((rows, columns), dtype=dtype)
        for start, stop in row_blocks(rows, columns):
            result[start:stop] = round_to(self.rows(start, stop), dtype)
        return result


def evaluate(sections: tuple[Section, ...], start: int, stop: int, base: Array) -> Array:
    """Sum sections in stored order; `base` holds the float64 rows that ``gamma`` multiplies."""
    total = sections[0].rows(start, stop, base)
    for section in sections[1:]:
        total += section.rows(start, stop, base)
    return total


def check_fit(base: Mapping[str, WholeTensor], key: str, matrix: tuple[int, int]) -> None:
    """Refuse a residual on what the base does not hold, before anything is decoded to the size that it declares.

    Raises
    ------
    CorruptionError
        If the base has no such tensor, or not in a shape that fits.
    """
    tensor = base.get(key)
    rows, columns = matrix_shape(tensor.shape) if tensor is not None and is_floating(tensor.dtype) else (-1, -1)
    if matrix[0] > rows or matrix[1] != columns:
        raise CorruptionError(f"A residual's tensor '{key}' does not have the shape of the base's.")


class Variant:
    """A manifest opened for reading.

    Parameters
    ----------
    objects : ObjectStore
    manifest : Manifest
    layout : Layout, optional
        The manifest's; read if it is not given.
    depth : int
        How many variants' exact remainders are being added, this one's included.
    lossy : bool
        Leave the exact remainder alone: it is neither opened nor read.
    prefix : Prefix, optional
        Read no more of the residuals than this. What is left out of them is needed by digests and by the exact remainder,
        so these do not count then.

    Attributes
    ----------
    manifest : Manifest
    """

    def __init__(
        self,
        objects: ObjectStore,
        manifest: Manifest,
        *,
        layout: Layout | None = None,
        depth: int = 1,
        lossy: bool = False,
        prefix: Prefix | None = None,
    ) -> None:
        self.objects = objects
        self.manifest = manifest
        self._layout = layout
        self._depth = depth
        self._lossy = lossy or prefix is not None
        self._prefix = prefix
        self._tensors = TensorReader(objects)
        self._former: dict[str, Variant] = {}

    @classmethod
    def open(cls, objects: ObjectStore, oid: str, *, lossy: bool = False, prefix: Prefix | None = None) -> Variant:
        """Open the manifest called `oid`."""
        return cls(objects, Manifest.from_record(objects.get_record("manifest", oid)), lossy=lossy, prefix=prefix)

    @cached_property
    def base(self) -> Mapping[str, WholeTensor]:
        """The base's tensors."""
        return Base.from_record(self.objects.get_record("base", self.manifest.base)).tensors

    @cached_property
    def quantised_keys(self) -> frozenset[str]:
        """The base's codes and what scales them, of which differences mean nothing."""
        quantisation = quantisation_of(self.objects, self.layout) if needs_configuration(self.base) else {}
        return frozenset(name for weight in find_quantised(self.base, quantisation) for name in weight.members)

    @cached_property
    def layout(self) -> Layout:
        """The variant's own names, dtypes and files."""
        return self._layout or Layout.from_record(self.objects.get_record("layout", self.manifest.layout))

    @cached_property
    def residuals(self) -> tuple[tuple[float, Residual], ...]:
        """Coefficient and opened residual of every term."""
        opened = []
        share = CACHE_BYTES // max(1, len(self.manifest.terms))
        for term in self.manifest.terms:
            residual = Residual.open(self.objects, term.residual, cache_bytes=share)
            if residual.base != self.manifest.base:
                raise CorruptionError(f"The residual {term.residual[:12]} belongs to another base than the manifest.")
            for key, tensor in residual.tensors.items():
                check_fit(self.base, key, tensor.matrix)
            opened.append((float(term.coefficient), residual))
        if self._prefix is not None:
            self._prefix.apply([residual for _, residual in opened], self.quantised_keys)
        return tuple(opened)

    @cached_property
    def is_reproducible(self) -> bool:
        """Whether every residual evaluates to the same bits everywhere."""
        return all(residual.reproducible for _, residual in self.residuals)

    @cached_property
    def patch(self) -> Patch | None:
        """The exact remainder, where it is to be added."""
        return Patch.open(self.objects, self.manifest.patch) if self.manifest.patch and not self._lossy else None

    @cached_property
    def is_prefix(self) -> bool:
        """Whether something is left out of a residual."""
        return self._prefix is not None and any(residual.is_prefix for _, residual in self.residuals)

    def open_parts(self) -> None:
        """Read what all tensors share, and import what their codecs need, once, before several threads ask for it."""
        _ = self.base, self.residuals, self.is_reproducible, self.patch, self._plain

    def base_tensor(self, key: str) -> Array:
        """Return one of the base's tensors in its own dtype and shape."""
        tensor = self.base[key]
        return self._tensors.read(tensor.data, tensor.dtype, tensor.shape)

    def base_rows(self, key: str) -> MatrixRows:
        """Return what reads rows of one of the base's tensors, seen as a matrix, in its own dtype."""
        tensor = self.base[key]
        return self._tensors.rows(tensor.data, tensor.dtype, matrix_shape(tensor.shape))

    def terms(self, key: str) -> Terms:
        """Return what is added to one of the base's tensors."""
        sections_by_term = ((coefficient, residual.sections(key)) for coefficient, residual in self.residuals)
        return tuple((coefficient, sections) for coefficient, sections in sections_by_term if sections)

    def streamed_terms(self, key: str) -> Terms:
        """Return :meth:`terms` for one thread that evaluates rows in ascending order; see :meth:`Residual.streamed`."""
        sections_by_term = ((coefficient, residual.streamed(key)) for coefficient, residual in self.residuals)
        return tuple((coefficient, sections) for coefficient, sections in sections_by_term if sections)

    def linear(self, key: str) -> LinearTensor:
        """Return the linear value of one of the base's floating tensors."""
        return LinearTensor(self.base_tensor(key).reshape(matrix_shape(self.base[key].shape)), self.terms(key))

    def rounded(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """Return the value of `key` before any patch, in the dtype and shape that a layout asks for.

        Raises
        ------
        CorruptionError
            If it does not match the digest that its commit recorded.
        """
        size, position = math.prod(torch_shape(dtype, shape)), 0
        result = np.empty(0, dtype=array_dtype(dtype))
        for block in self._rounded_blocks(key, dtype, shape):
            if block.size == size:  # the only one; the loop goes on to the check of its digest
                result, position = block.reshape(-1), size
                continue
            if not position:
                result = np.empty(size, dtype=block.dtype)
            result[position : position + block.size] = block.reshape(-1)
            position += block.size
        return result.reshape(torch_shape(dtype, shape))

    def _rounded_blocks(self, key: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Yield the rounded value in blocks that follow each other; a block is good until the next is asked for."""
        if key in self.manifest.dense:
            yield self._combine(self.manifest.dense[key], dtype, shape)
            return
        if key not in self.base:
            raise CorruptionError(f"The layout names the tensor '{key}', which neither base nor variant holds.")
        tensor = self.base[key]
        if not is_floating(tensor.dtype) and (tensor.dtype, tensor.shape) == (dtype, shape):
            yield self.base_tensor(key)
            return
        (rows, columns), (base_rows, base_columns) = matrix_shape(shape), matrix_shape(tensor.shape)
        if not (is_floating(dtype) and is_floating(tensor.dtype)) or columns != base_columns:
            raise CorruptionError(f"The layout gives '{key}' a dtype or shape that the base's tensor cannot have.")
        shared = min(rows, base_rows)
        # Read first: a shape that they do not fill is refused before anything is made for it.
        added = (self.added_rows(key, dtype, (rows - shared, *shape[1:])),) if rows > shared else ()
        yield from self._linear_blocks(key, array_dtype(dtype), shared)
        yield from added

    def added_rows(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """Return the rows below the base's, in a dtype and of the shape that they have to be of."""
        return self._combine(self.manifest.rows.get(key, ()), dtype, shape)

    def linear_digest(self, key: str, dtype: str, rows: int) -> str:
        """Return :func:`erestore.objects.tensors.value_digest` of the first rows of the linear value, rounded to `dtype`."""
        hasher = blake3()
        for block in self._linear_blocks(key, array_dtype(dtype), rows):
            hasher.update(raw_bytes(block))
        return str(hasher.hexdigest(length=VALUE_DIGEST_BYTES))

    def _linear_blocks(self, key: str, dtype: np.dtype[Any], rows: int) -> Iterator[Array]:
        """Yield the first `rows` rows of the linear value, rounded, in blocks, and check their digest."""
        tensor, terms = self.base[key], self.streamed_terms(key)
        hasher = blake3()
        recorded = None if self.is_prefix else self.manifest.digests.get(key)
        for start, base in self._tensors.row_blocks(tensor.data, tensor.dtype, matrix_shape(tensor.shape), BLOCK):
            if start >= rows:
                break
            block = base[: rows - start]
            if terms or block.dtype != dtype:
                block = round_to(add_terms(terms, start, block), dtype)
            if recorded is not None:
                hasher.update(raw_bytes(block))
            yield block
        if recorded is not None and recorded != hasher.hexdigest(length=VALUE_DIGEST_BYTES):
            raise CorruptionError(
                f"The tensor '{key}' does not decode to the digest that its commit recorded.",
                hint="`erestore fsck --deep` lists every tensor concerned.",
            )

    def stored(self, key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """Return the value of `key` as it was committed: rounded, and patched if the commit is exact."""
        remainder = self._patched(key, dtype, shape)
        if remainder is None or self.patch is None:
            return self.rounded(key, dtype, shape)
        return self.patch.apply(key, self.predicted(remainder.predictor, key, dtype, shape))

    def _stored_blocks(self, key: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Yield what :meth:`stored` returns in blocks that follow each other, each good until the next is asked for."""
        remainder = self._patched(key, dtype, shape)
        if remainder is None or self.patch is None:
            yield from self._rounded_blocks(key, dtype, shape)
        else:
            source = self._predictor(remainder.predictor)
            blocks = source._stored_blocks if remainder.predictor[0] == "stored" else source._rounded_blocks  # noqa: SLF001
            yield from self.patch.blocks(key, blocks(key, dtype, shape))

    def _patched(self, key: str, dtype: str, shape: tuple[int, ...]) -> PatchedTensor | None:
        """Return the exact remainder of `key`, None where there is none, having made sure that it fits the layout."""
        remainder = self.patch.tensors.get(key) if self.patch else None
        if remainder is not None and ((remainder.dtype, remainder.shape) != (dtype, shape) or not is_floating(dtype)):
            raise CorruptionError(f"The exact remainder of '{key}' has another dtype or shape than the layout.")
        return remainder

    def predicted(self, predictor: tuple[str, ...], key: str, dtype: str, shape: tuple[int, ...]) -> Array:
        """Return what an exact remainder is relative to."""
        source = self._predictor(predictor)
        return (source.stored if predictor[0] == "stored" else source.rounded)(key, dtype, shape)

    def _predictor(self, predictor: tuple[str, ...]) -> Variant:
        """Return the variant whose value is the prediction: as stored, where a former one is named, else before any patch."""
        if predictor == ("linear",):
            return self
        if predictor[0] != "stored":
            return self._plain
        if self._depth == DEEPEST:
            raise CorruptionError(f"An exact remainder is more than {DEEPEST} steps away from a value.")
        if predictor[1] not in self._former:
            former = Manifest.from_record(self.objects.get_record("manifest", predictor[1]))
            self._former[predictor[1]] = Variant(self.objects, former, depth=self._depth + 1)
        return self._former[predictor[1]]

    @cached_property
    def _plain(self) -> Variant:
        """The base under this variant's layout."""
        plain = Manifest(base=self.manifest.base, terms=(), layout=self.manifest.layout, rows=self.manifest.rows)
        return Variant(self.objects, plain)

    def tensor(self, name: str) -> torch.Tensor:
        """Return one tensor by the variant's own name, in its own dtype and shape, on the CPU."""
        entry = self.layout.tensors[name]
        return as_tensor(self.stored(entry.key, entry.dtype, entry.shape), torch_dtype(entry.dtype))

    def blocks(self, name: str) -> Iterator[Array]:
        """Yield what :meth:`tensor` returns in blocks that follow each other, each good until the next is asked for.

        Raises
        ------
        CorruptionError
            After the last block, if they do not have the digest that their commit recorded.
        """
        entry = self.layout.tensors[name]
        yield from self._stored_blocks(entry.key, entry.dtype, entry.shape)

    def _combine(self, parts: tuple[Part, ...], dtype: str, shape: tuple[int, ...]) -> Array:
        """Return whole tensors that a variant holds: the one, or a linear combination rounded once."""
        if len(parts) == 1 and (parts[0].coefficient, parts[0].tensor.dtype, parts[0].tensor.shape) == (
            1,
            dtype,
            shape,
        ):
            return self._tensors.read(parts[0].tensor.data, dtype, shape)
        dtypes = {part.tensor.dtype for part in parts} | {dtype}
        if not parts or not all(map(is_floating, dtypes)) or any(part.tensor.shape != shape for part in parts):
            raise CorruptionError("A tensor that is held whole has another dtype or shape than the layout.")
        total: Array | None = None  # nothing is made for a shape that the parts do not fill
        with without_warnings():
            for coefficient, tensor in parts:
                value = widen(self._tensors.read(tensor.data, tensor.dtype, shape)) * float(coefficient)
                total = value + (0.0 if total is None else total)  # from zero: no -0 is left
        assert total is not None
        return round_to(np.asarray(total), array_dtype(dtype))
