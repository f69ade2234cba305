"""Which of a checkpoint's tensors become residuals, and which are kept whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from erestore.arrays import Array, as_array, as_tensor, matrix_shape, row_blocks, same_bits, widen
from erestore.checkpoint.abc import Checkpoint, TensorInfo
from erestore.checkpoint.dtypes import array_dtype, is_floating, torch_dtype
from erestore.checkpoint.quantised_weights import mark_codes
from erestore.checkpoint.roles import Role, roles_of
from erestore.checkpoint.shapes import comparable
from erestore.checkpoint.skeleton import state_dict_names
from erestore.records import WholeTensor, names_inside
from erestore.variant.variant import LinearTensor, Variant


@dataclass(frozen=True)
class Target:
    """One of the checkpoint's tensors that is held against the base's tensor `key`.

    Attributes
    ----------
    key, name : str
        The base's name and the variant's own.
    info : TensorInfo
    shared : int
        Rows of the matrix form that base and variant both have.
    role : Role
    module : str
        Folder of the module that it is in, with its slash; empty at the root.
    """

    key: str
    name: str
    info: TensorInfo
    shared: int
    role: Role = Role.WEIGHT
    module: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the shared rows."""
        return (self.shared, *self.info.shape[1:]) if len(self.info.shape) > 1 else self.info.shape

    @property
    def matrix(self) -> tuple[int, int]:
        """The shared rows, and columns."""
        return self.shared, matrix_shape(self.info.shape)[1]

    @property
    def dtype(self) -> torch.dtype:
        """The variant's own dtype."""
        return torch_dtype(self.info.dtype)

    @property
    def has_added_rows(self) -> bool:
        """Whether the variant has rows below the base's."""
        return matrix_shape(self.info.shape)[0] > self.shared


def fits(info: TensorInfo, base: WholeTensor) -> bool:
    """Return whether a tensor can be a residual on the base's: floats of one shape, up to the number of rows."""
    if not (is_floating(info.dtype) and is_floating(base.dtype)):
        return False
    return info.shape == base.shape or (
        len(info.shape) > 1 and len(base.shape) > 1 and info.shape[1:] == base.shape[1:] and 0 not in info.shape
    )


def is_of_state_dict(name: str, structure: object, entries: frozenset[str]) -> bool:
    """Return whether a tensor is a weight, by its name inside its file.

    What a torch file holds besides its state dict is named by its path, with slashes; some names of weights have slashes too,
    which is why the entries of the state dict (:func:`erestore.checkpoint.skeleton.state_dict_names`) are asked for.
    """
    return structure is None or "/" not in name or name in entries


def divide(
    checkpoint: Checkpoint, keys: Mapping[str, str], base: Mapping[str, WholeTensor]
) -> tuple[list[Target], list[str]]:
    """Divide the checkpoint's own names into residual targets (sorted by key) and names kept whole.

    Parameters
    ----------
    checkpoint : Checkpoint
    keys : Mapping[str, str]
        Own name to manifest key; of names with one key, and of tied names, only the first is looked at.
    base : Mapping[str, WholeTensor]

    Notes
    -----
    What a torch file holds outside its state dict (named by its path, with slashes) is kept whole: the moments of an
    optimizer are many orders of magnitude from the weights, and one error bound over both would ruin one of them.
    """
    followers = {name for group in checkpoint.ties for name in group[1:]}
    inside, entries = names_inside(checkpoint.files), state_dict_names(checkpoint.structure)
    targets, whole_names, roles = [], [], roles_of(checkpoint.tensors, checkpoint.quantisation)
    own_codes, base_codes = mark_codes(checkpoint.tensors), mark_codes(base)
    first: dict[str, str] = {}
    for name, info in checkpoint.tensors.items():
        key = keys[name]
        if name in followers or first.setdefault(key, name) != name:
            continue
        is_weight = is_of_state_dict(inside.get(name, name), checkpoint.structure, entries)
        if is_weight and key in base and fits(info, base[key]) and comparable(own_codes[name], base_codes[key]):
            shared = min(matrix_shape(info.shape)[0], matrix_shape(base[key].shape)[0])
            module = name.removesuffix(inside.get(name, name))
            targets.append(Target(key, name, info, shared, roles[name], module))
        else:
            whole_names.append(name)
    return sorted(targets, key=lambda target: target.key), whole_names


class TargetRows(NamedTuple):
    """Rows of a target.

    Attributes
    ----------
    original, parent : ndarray
        The original and the parent's linear value, float64.
    base : ndarray
        The base, in its own dtype.
    """

    start: int
    stop: int
    original: Array
    parent: Array
    base: Array


class OpenTarget(ABC):
    """One target, opened for encoding.

    Attributes
    ----------
    target : Target
    """

    target: Target

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that base and variant share, and columns."""
        return self.target.matrix

    @abstractmethod
    def blocks(self) -> Iterator[TargetRows]:
        """Yield all shared rows in order."""


@dataclass(frozen=True)
class LoadedTarget(OpenTarget):
    """One target with its tensors in memory.

    Attributes
    ----------
    target : Target
    original : torch.Tensor
        The original, as a matrix, all its rows.
    parent : LinearTensor
    """

    target: Target
    original: torch.Tensor
    parent: LinearTensor

    @classmethod
    def read(cls, target: Target, read: Callable[[str], torch.Tensor], parent: Variant) -> LoadedTarget:
        """Read the original and open the parent's linear value."""
        original = read(target.name).reshape(matrix_shape(target.info.shape))
        return cls(target, original, parent.linear(target.key))

    def blocks(self) -> Iterator[TargetRows]:
        """See :meth:`OpenTarget.blocks`."""
        for start, stop in row_blocks(*self.shape):
            original = widen(as_array(self.original[start:stop]))
            yield TargetRows(start, stop, original, self.parent.rows(start, stop), self.parent.base[start:stop])

    def delta(self) -> torch.Tensor:
        """Return the residual against the parent's linear value, float32 ``(shared, n)``."""
        columns = self.original.shape[1]
        result = torch.empty((self.target.shared, columns), dtype=torch.float32)
        for start, stop in row_blocks(*result.shape):
            result[start:stop] = self.original[start:stop].to(torch.float64) - as_tensor(self.parent.rows(start, stop))
        return result

    def is_unchanged(self) -> bool:
        """Return whether the parent's value, rounded to the variant's dtype, has the original's bits."""
        shared = self.original[: self.target.shared]
        parent = self.parent.rounded(self.target.shared, array_dtype(self.target.info.dtype))
        return same_bits(as_tensor(parent), shared)

    def is_finite(self) -> bool:
        """Return whether neither the original nor the base holds NaN or infinity."""
        return all(
            bool(torch.isfinite(part.to(torch.float32) if part.element_size() < 4 else part).all())
            for matrix in (self.original, as_tensor(self.parent.base))
            for part in (matrix[start:stop] for start, stop in row_blocks(*matrix.shape))
        )
