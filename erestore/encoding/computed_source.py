"""Writing values that are computed, not read from a checkpoint, as one residual: flattened sums, non-linear merges.

What is encoded is the difference from a parent, mostly the base, as factors or in tiles of rows; what it is measured against
is what a checkout would write, values rounded to the variant's dtypes, so that the error means the same as that of a commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from erestore.arrays import as_tensor, matrix_shape
from erestore.checkpoint.abc import Checkpoint, TensorInfo, WeightFile
from erestore.checkpoint.dtypes import torch_dtype
from erestore.encoding.computed_tensor import ComputedEncoder, ComputedTarget, profile
from erestore.encoding.delta import Difference, Differences, SummedTerms
from erestore.encoding.exact_codes import profile_exact
from erestore.encoding.profile import Profiled, objective_of
from erestore.encoding.quality import Quality
from erestore.encoding.residual_encoder import CheckpointDeltas
from erestore.encoding.source import DeltaSource
from erestore.encoding.target import Target
from erestore.encoding.tensor_encoder import TensorEncoder
from erestore.objects.structure import quantisation_of, read_structure
from erestore.records import Term, normal_terms
from erestore.residual.operators import Product
from erestore.spool import TensorSpool
from erestore.storage.objects import ObjectStore
from erestore.variant.variant import Variant

Compute = Callable[[str], torch.Tensor | None]
"""Key to a tensor in the layout's dtype and shape; None where the variant's own value stands."""

KEPT_BYTES = 128 << 20
"""What is kept of tensors that are read several times; those that come later are computed each time."""


def _as_it_is(_: str) -> None:
    """Change nothing."""


class ComputedCheckpoint(Checkpoint):
    """A variant seen as a checkpoint, some of whose tensors are computed when they are asked for.

    Parameters
    ----------
    variant : Variant
        Gives names, dtypes, shapes and ties, and all values that are not computed.
    compute : Compute
    keep : int
        Bytes of tensors that are kept once they were read.
    """

    def __init__(self, variant: Variant, compute: Compute = _as_it_is, keep: int = KEPT_BYTES) -> None:
        layout = variant.layout
        self.path = Path()
        self.is_directory, self.format, self.ties = layout.is_directory, layout.format, layout.ties
        self.tensors = {name: TensorInfo(name, tensor.dtype, tensor.shape) for name, tensor in layout.tensors.items()}
        self.files = tuple(
            WeightFile(file.name, file.tensors, file.metadata, file.module, file.format) for file in layout.files
        )
        self.side_files = {}
        self.left_out = {}
        self.structure = read_structure(variant.objects, layout)
        self._variant, self._compute = variant, compute
        self._kept: dict[str, torch.Tensor] = {}
        self._room = keep

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """See :attr:`Checkpoint.quantisation`."""
        return quantisation_of(self._variant.objects, self._variant.layout)

    def read(self, name: str) -> torch.Tensor:
        """See :meth:`Checkpoint.read`."""
        if name in self._kept:
            return self._kept[name]
        computed = self._compute(self._variant.layout.tensors[name].key)
        tensor = self._variant.tensor(name) if computed is None else computed
        size = tensor.numel() * tensor.element_size()
        if size <= self._room:  # an encoder reads several times, and a sum of many terms takes long
            self._room -= size
            self._kept[name] = tensor
        return tensor

    def rows_from(self, name: str, start: int) -> torch.Tensor:
        """See :meth:`Checkpoint.rows_from`; rows that the base lacks are taken from the variant, which holds them."""
        entry, variant = self._variant.layout.tensors[name], self._variant
        base = None if entry.key in variant.manifest.dense else variant.base.get(entry.key)
        if base is None or start != matrix_shape(base.shape)[0]:
            return super().rows_from(name, start)
        rows = variant.added_rows(entry.key, entry.dtype, (entry.shape[0] - start, *entry.shape[1:]))
        return as_tensor(rows, torch_dtype(entry.dtype))

    def close(self) -> None:
        """See :meth:`Checkpoint.close`."""


@dataclass(frozen=True)
class ComputedDeltas(DeltaSource):
    """Differences of a variant from a parent, of which factors are computed once.

    Attributes
    ----------
    variant : Variant
    differences : Differences
    dense : CheckpointDeltas
        For tensors that the variant holds whole; it has the parent.
    left, right : TensorSpool
        Factors, float64.
    base_multiples : dict of str to float
        Of the tensors whose factors are kept.
    """

    variant: Variant
    differences: Differences
    dense: CheckpointDeltas
    left: TensorSpool
    right: TensorSpool
    base_multiples: dict[str, float] = field(default_factory=dict)

    def profile(self, target: Target, quality: Quality) -> Profiled:
        """See :meth:`DeltaSource.profile`."""
        if target.key in self.variant.manifest.dense:
            return self.dense.profile(target, quality)
        difference = self.differences.of(target)
        if quality.keeps_exact(target.role):
            return profile_exact(self._opened(target, difference))
        if difference is not None and isinstance(difference.rest, Product):
            self.left.put(target.key, difference.rest.left)
            self.right.put(target.key, difference.rest.right)
            self.base_multiples[target.key] = difference.base_multiple
        return profile(self._opened(target, difference), objective_of(quality))

    def encoder(self, target: Target, profiled: Profiled, basis: torch.Tensor | None) -> TensorEncoder:
        """See :meth:`DeltaSource.encoder`."""
        if target.key in self.variant.manifest.dense:
            return self.dense.encoder(target, profiled, basis)
        if target.key in self.base_multiples:
            product = Product(self.left.get(target.key), self.right.get(target.key))
            return ComputedEncoder(
                profiled, basis, self._opened(target, Difference(product, self.base_multiples[target.key]))
            )
        return ComputedEncoder(profiled, basis, self._opened(target, self.differences.of(target)))

    def _opened(self, target: Target, difference: Difference | None) -> ComputedTarget:
        return opened(target, self.dense.parent, difference)


def opened(target: Target, parent: Variant, difference: Difference | None) -> ComputedTarget:
    """Open one target that differs from its parent by so much."""
    return ComputedTarget(target, parent.base_rows(target.key), difference, parent.terms(target.key))


def on_terms(objects: ObjectStore, variant: Variant, terms: tuple[Term, ...]) -> Variant:
    """Open a combination of residuals, which a variant may be added to, under the variant's layout."""
    manifest = replace(variant.manifest, terms=terms, patch=None, digests={})
    return Variant(objects, manifest, layout=variant.layout)


def difference_from(variant: Variant, parent: Variant) -> SummedTerms:
    """Return what a variant's terms add to a parent's; what both have is no part of it."""
    negated = (Term(term.residual, -term.coefficient) for term in parent.manifest.terms)
    terms = normal_terms((*variant.manifest.terms, *negated))
    return SummedTerms(on_terms(parent.objects, variant, terms))


@contextmanager
def computed_deltas(variant: Variant, parent: Variant, differences: Differences) -> Iterator[ComputedDeltas]:
    """Hold a variant against a parent.

    Parameters
    ----------
    variant, parent : Variant
    differences : Differences
        What is added to the parent.
    """
    dense = CheckpointDeltas(ComputedCheckpoint(variant, differences.tensor, keep=0), parent)
    with TensorSpool(torch.float64) as left, TensorSpool(torch.float64) as right:
        yield ComputedDeltas(variant, differences, dense, left, right)
