"""Writing values that are computed, not read from a checkpoint, as one residual: flattened sums, non-linear merges.

What is encoded is what a checkout would write, tensor by tensor, without writing it: values rounded to the variant's dtypes,
so that the error that is measured means the same as that of a commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.checkpoint.abc import Checkpoint, TensorInfo, WeightFile
from erestore.checkpoint.dtypes import is_floating
from erestore.model.committing import StoredVariant, VariantWriter
from erestore.model.quality import Quality
from erestore.model.variant import Variant
from erestore.progress import Progress, silent
from erestore.records import Term
from erestore.storage.objects import Objects

if TYPE_CHECKING:
    import torch

Compute = Callable[[str], "torch.Tensor | None"]
"""Key to a tensor in the layout's dtype and shape; None where the variant's own value stands."""


KEPT_BYTES = 128 << 20
"""What is kept of computed tensors; those that come later are computed each time they are asked for."""


def _as_it_is(_: str) -> None:
    """Change nothing."""


class ComputedCheckpoint(Checkpoint):
    """A variant seen as a checkpoint, some of whose tensors are computed when they are asked for.

    Parameters
    ----------
    variant : Variant
        Gives names, dtypes, shapes and ties, and all values that are not computed.
    compute : Compute
    """

    def __init__(self, variant: Variant, compute: Compute = _as_it_is) -> None:
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
        self._room = KEPT_BYTES

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

    def close(self) -> None:
        """See :meth:`Checkpoint.close`."""


def write_computed(
    objects: Objects,
    variant: Variant,
    quality: Quality,
    *,
    compute: Compute = _as_it_is,
    terms: tuple[Term, ...] = (),
    linear: Checkpoint | None = None,
    progress: Progress = silent,
) -> StoredVariant:
    """Encode a variant, or what is computed from it, as one residual on its base, or on a combination of others.

    Parameters
    ----------
    objects : Objects
    variant : Variant
        Its layout has to be stored. Whole tensors and added rows stay where they are if they are not combinations.
    quality : Quality
        Of what is lost of these values, relative to their difference from the base's.
    compute : Compute, optional
    terms : tuple of Term
        Of the residuals that the result shares with others, and that its own is added to.
    linear : Checkpoint, optional
        See :class:`erestore.model.committing.VariantWriter`.
    progress : Progress

    Returns
    -------
    StoredVariant
    """
    whole = variant.manifest
    base = replace(whole, terms=terms, patch=None, digests={})
    keys = {name: tensor.key for name, tensor in variant.layout.tensors.items()}
    checkpoint = ComputedCheckpoint(variant, compute)
    parent = Variant(objects, base, layout=variant.layout)
    writer = VariantWriter(objects, checkpoint, keys, parent, "", quality, progress, layout=whole.layout, linear=linear)
    return writer.write()


def linear_values(variant: Variant) -> ComputedCheckpoint:
    """Return a variant's linear values under its own names, in float64, as a checkpoint."""
    tensors = {
        name: replace(tensor, dtype="F64") if is_floating(tensor.dtype) else tensor
        for name, tensor in variant.layout.tensors.items()
    }
    manifest = replace(variant.manifest, patch=None, digests={})
    return ComputedCheckpoint(Variant(variant.objects, manifest, layout=replace(variant.layout, tensors=tensors)))
