"""The two sides of a comparison: a variant, or a checkpoint that is in no store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import Array, as_array, as_tensor, matrix_shape, regrouped, row_blocks, widen
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import is_floating, torch_dtype
from erestore.checkpoint.quantised_weights import QuantisedWeight, find_quantised, stated_quantisation
from erestore.errors import CheckpointError
from erestore.records import LayoutTensor
from erestore.variant.variant import Variant

if TYPE_CHECKING:
    import torch


class Side(ABC):
    """What is compared.

    Attributes
    ----------
    tensors : Mapping[str, LayoutTensor]
        By own name; of tied names the first only.
    format : str
        ``safetensors`` or ``torch``.
    files : int
        Weight files.
    ties : tuple of tuple of str
    side_files : tuple of str
        Their POSIX paths.
    """

    tensors: Mapping[str, LayoutTensor]
    format: str
    files: int
    ties: tuple[tuple[str, ...], ...]
    side_files: tuple[str, ...]

    @cached_property
    def quantised(self) -> Mapping[str, QuantisedWeight]:
        """The quantised weight that a tensor is a part of, by the tensor's name."""
        weights = find_quantised(self.tensors, stated_quantisation(self.side_files, self.side_file))
        return {name: weight for weight in weights for name in weight.members}

    def dequantised(self, name: str) -> Array | None:
        """Return the weight whose codes a tensor holds, or a plain tensor itself, float32; None where that is not known."""
        weight = self.quantised.get(name)
        if weight is not None:
            return weight.dequantise(lambda member: as_array(self.stored(member)))
        if not is_floating(self.tensors[name].dtype):
            return None
        return widen(as_array(self.stored(name))).astype(np.float32)

    @abstractmethod
    def stored(self, name: str) -> torch.Tensor:
        """Return one tensor as a checkout gives it."""

    @abstractmethod
    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield one floating tensor as a checkout gives it, as a matrix, in the blocks of :func:`row_blocks`.

        A block is not to be written to, and good until the next is asked for.
        """

    @abstractmethod
    def side_file(self, name: str) -> bytes:
        """Return the content of a side file."""

    @abstractmethod
    def is_whole(self, name: str) -> bool:
        """Return whether a tensor is held by itself, not as a residual on a base."""


class VariantSide(Side):
    """A variant of a store.

    Parameters
    ----------
    variant : Variant
    """

    def __init__(self, variant: Variant) -> None:
        layout = variant.layout
        self.variant = variant
        first: dict[str, str] = {}
        for name, tensor in layout.tensors.items():
            first.setdefault(tensor.key, name)
        self.tensors = {name: layout.tensors[name] for name in first.values()}
        self.format, self.files, self.ties = layout.format, len(layout.files), layout.ties
        self.side_files = tuple(sorted(layout.side_files))

    def stored(self, name: str) -> torch.Tensor:
        """See :meth:`Side.stored`."""
        return self.variant.tensor(name)

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """See :meth:`Side.blocks`."""
        tensor = self.tensors[name]
        columns = matrix_shape(tensor.shape)[1]
        height = max((stop - start for start, stop in row_blocks(*matrix_shape(tensor.shape))), default=0)
        if height * columns:
            for block in regrouped(self.variant.blocks(name), height * columns):
                yield as_tensor(block.reshape(-1, columns), torch_dtype(tensor.dtype))

    def side_file(self, name: str) -> bytes:
        """See :meth:`Side.side_file`."""
        return self.variant.objects.get_blob(self.variant.layout.side_files[name])

    def is_whole(self, name: str) -> bool:
        """See :meth:`Side.is_whole`."""
        key = self.tensors[name].key
        return key in self.variant.manifest.dense or key not in self.variant.base


def require_whole(checkpoint: Checkpoint, *, hint: str) -> None:
    """Refuse to compare an adapter.

    Raises
    ------
    CheckpointError
        If it is one: it has no values without its base.
    """
    if checkpoint.format == "peft":
        raise CheckpointError(f"{checkpoint.path} is an adapter, which has no values of its own to compare.", hint=hint)


class CheckpointSide(Side):
    """A checkpoint on disk.

    Parameters
    ----------
    checkpoint : Checkpoint
        Stays open as long as this is used.

    Raises
    ------
    CheckpointError
        If it is an adapter, which has no values without its base.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        require_whole(checkpoint, hint="Commit it, then compare the variant.")
        followers = {name for group in checkpoint.ties for name in group[1:]}
        self.checkpoint = checkpoint
        self.tensors = {
            name: LayoutTensor(name, info.dtype, info.shape)
            for name, info in checkpoint.tensors.items()
            if name not in followers
        }
        self.format, self.files, self.ties = checkpoint.format, len(checkpoint.files), checkpoint.ties
        self.side_files = tuple(sorted(checkpoint.side_files))

    def stored(self, name: str) -> torch.Tensor:
        """See :meth:`Side.stored`."""
        return self.checkpoint.read(name)

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """See :meth:`Side.blocks`."""
        shape = self.tensors[name].shape
        rows, columns = matrix_shape(shape)
        for start, stop in row_blocks(rows, columns) if columns else ():
            values = self.checkpoint.rows(name, start, stop) if len(shape) > 1 else self.checkpoint.read(name)
            yield values.reshape(-1, columns)

    def side_file(self, name: str) -> bytes:
        """See :meth:`Side.side_file`."""
        return self.checkpoint.side_files[name].read_bytes()

    def is_whole(self, name: str) -> bool:  # noqa: ARG002 - all of them are
        """See :meth:`Side.is_whole`."""
        return True
