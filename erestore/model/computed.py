"""Writing values that are computed, not read from a checkpoint, as one residual: flattened sums, non-linear merges.

What is encoded is the difference from the base, as factors or in tiles of rows; what it is measured against is what a checkout
would write, values rounded to the variant's dtypes, so that the error means the same as that of a commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from erestore.arrays import as_tensor
from erestore.checkpoint.abc import Checkpoint, TensorInfo, WeightFile
from erestore.checkpoint.dtypes import torch_dtype
from erestore.model.changes import Changes
from erestore.model.committing import StoredVariant, VariantWriter
from erestore.model.differences import Difference, Differences, SummedTerms
from erestore.model.encoding import CheckpointChanges
from erestore.model.factored import Computed, ComputedItem, profile
from erestore.model.profiles import Profiled, TensorSpool, objective_of
from erestore.model.quality import Quality
from erestore.model.residuals import matrix_shape
from erestore.model.targets import Target
from erestore.model.tensor_encoding import Item
from erestore.model.variant import Variant
from erestore.progress import Progress, silent
from erestore.residual.operators import Product
from erestore.storage.objects import Objects

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
        self.tensors = {name: TensorInfo(name, each.dtype, each.shape) for name, each in layout.tensors.items()}
        self.files = tuple(WeightFile(file.name, file.tensors, file.metadata) for file in layout.files)
        self.side_files = {}
        self.left_out = {}
        self.structure = layout.structure
        self._variant, self._compute = variant, compute
        self._kept: dict[str, torch.Tensor] = {}
        self._room = keep

    def read(self, name: str) -> torch.Tensor:
        """See :meth:`Checkpoint.read`."""
        if name in self._kept:
            return self._kept[name]
        computed = self._compute(self._variant.layout.tensors[name].key)
        found = self._variant.tensor(name) if computed is None else computed
        size = found.numel() * found.element_size()
        if size <= self._room:  # an encoder reads several times, and a sum of many terms takes long
            self._room -= size
            self._kept[name] = found
        return found

    def rows_from(self, name: str, start: int) -> torch.Tensor:
        """See :meth:`Checkpoint.rows_from`; rows that the base lacks are taken from the variant, which holds them."""
        held, variant = self._variant.layout.tensors[name], self._variant
        base = None if held.key in variant.manifest.dense else variant.base.get(held.key)
        if base is None or start != matrix_shape(base.shape)[0]:
            return super().rows_from(name, start)
        rows = variant.added_rows(held.key, held.dtype, (held.shape[0] - start, *held.shape[1:]))
        return as_tensor(rows, torch_dtype(held.dtype))

    def close(self) -> None:
        """See :meth:`Checkpoint.close`."""


@dataclass(frozen=True)
class ComputedChanges(Changes):
    """Differences of a variant from its base, of which factors are computed once.

    Attributes
    ----------
    variant : Variant
    differences : Differences
    whole : CheckpointChanges
        For tensors that the variant holds whole.
    left, right : TensorSpool
        Factors, float64.
    gammas : dict of str to float
        Of the tensors whose factors are kept.
    """

    variant: Variant
    differences: Differences
    whole: CheckpointChanges
    left: TensorSpool
    right: TensorSpool
    gammas: dict[str, float] = field(default_factory=dict)

    def profile(self, target: Target, quality: Quality) -> Profiled:
        """See :meth:`Changes.profile`."""
        if target.key in self.variant.manifest.dense:
            return self.whole.profile(target, quality)
        difference = self.differences.of(target)
        if difference is not None and isinstance(difference.rest, Product):
            self.left.put(target.key, difference.rest.left)
            self.right.put(target.key, difference.rest.right)
            self.gammas[target.key] = difference.gamma
        return profile(self._opened(target, difference), objective_of(quality))

    def item(self, target: Target, profiled: Profiled, basis: torch.Tensor | None) -> Item:
        """See :meth:`Changes.item`."""
        if target.key in self.variant.manifest.dense:
            return self.whole.item(target, profiled, basis)
        if target.key in self.gammas:
            product = Product(self.left.get(target.key), self.right.get(target.key))
            return ComputedItem(profiled, basis, self._opened(target, Difference(product, self.gammas[target.key])))
        return ComputedItem(profiled, basis, self._opened(target, self.differences.of(target)))

    def _opened(self, target: Target, difference: Difference | None) -> Computed:
        return Computed(target, self.variant.base_rows(target.key), difference)


def write_computed(
    objects: Objects,
    variant: Variant,
    quality: Quality,
    *,
    differences: Differences | None = None,
    progress: Progress = silent,
) -> StoredVariant:
    """Encode a variant, or what is computed from it, as one residual on its base.

    Parameters
    ----------
    objects : Objects
    variant : Variant
        Its layout has to be stored. Whole tensors and added rows stay where they are if they are not combinations.
    quality : Quality
        Of what is lost of these values, relative to their difference from the base's.
    differences : Differences, optional
        What the result adds to the base; by default what the variant's terms do.
    progress : Progress

    Returns
    -------
    StoredVariant
    """
    whole = variant.manifest
    keys = {name: tensor.key for name, tensor in variant.layout.tensors.items()}
    differences = differences or SummedTerms(variant)
    checkpoint = ComputedCheckpoint(variant, differences.tensor, keep=0)
    parent = Variant(objects, replace(whole, terms=(), patch=None, digests={}), layout=variant.layout)
    with TensorSpool(torch.float64) as left, TensorSpool(torch.float64) as right:
        changes = ComputedChanges(variant, differences, CheckpointChanges(checkpoint, parent), left, right)
        writer = VariantWriter(
            objects, checkpoint, keys, parent, "", quality, progress, layout=whole.layout, changes=changes
        )
        return writer.write()
