"""A variant's change carried to another base: a three-way merge of the old base, the variant and the new base.

Numbers are added: ``new + (variant - old)``. What cannot be added (integers, codes and scales, other shapes, files of weights
that are not read) is the side's that changed it; where both did, it is a conflict, never silently one side's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from erestore.arrays import as_tensor, matrix_shape, row_blocks, widen
from erestore.checkpoint.dtypes import array_dtype, is_floating, torch_dtype
from erestore.checkpoint.quantised_weights import find_quantised
from erestore.checkpoint.unread_weights import START, holds_weights
from erestore.errors import CombinationError, Conflict
from erestore.objects.structure import quantisation_of
from erestore.records import LayoutTensor
from erestore.residual.rounding import round_to
from erestore.variant.variant import Variant

if TYPE_CHECKING:
    import torch

_HINT = "Choose with --ours (the new base's, as git rebase calls it) or --theirs (the variant's)."


@dataclass
class Carried:
    """Computes a variant's tensors as if it had been tuned from another base.

    Parameters
    ----------
    variant, base : Variant
        What is carried, and the new base.
    names : (str, str)
        What people call them.
    keys : dict of str to str
        Keys of the variant's tensors to those of the new base.
    old_side_files : Mapping[str, str]
        Of the old base.
    choose : str or None
        ``ours`` (the new base's) or ``theirs`` (the variant's) where both sides changed what cannot be added.

    Attributes
    ----------
    conflicts : list of Conflict
    notes : list of str
    """

    variant: Variant
    base: Variant
    names: tuple[str, str]
    keys: dict[str, str]
    old_side_files: Mapping[str, str]
    choose: str | None = None
    conflicts: list[Conflict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tensors = {tensor.key: tensor for tensor in self.variant.layout.tensors.values()}
        self._sums: set[str] = set()
        self._new: set[str] = set()
        self._decide_tensors()
        self.side_files = self._decide_side_files()
        if self.conflicts and self.choose is None:
            first, more = self.conflicts[0], len(self.conflicts) - 1
            others = f" So {'is' if more == 1 else 'are'} {more} more." if more else ""
            raise CombinationError(
                f"'{first.subject}' cannot be carried to '{self.names[1]}': {first.reason}.{others}",
                tuple(self.conflicts),
                hint=_HINT,
            )

    def __call__(self, key: str) -> torch.Tensor | None:
        """Return the value of a tensor of the result, None where it is the variant's own."""
        tensor = self._tensors[key]
        if key in self._new:
            value = self.base.rounded(self.keys[key], tensor.dtype, tensor.shape)
            return as_tensor(value, torch_dtype(tensor.dtype))
        return self._sum(key, tensor) if key in self._sums else None

    def _sum(self, key: str, tensor: LayoutTensor) -> torch.Tensor:
        """Return ``new + (variant - old)``; rows that one of the three lacks keep the variant's value."""
        old, new = self.variant.linear(key), self.base.linear(self.keys[key]).base
        result = np.array(self.variant.rounded(key, tensor.dtype, tensor.shape).reshape(matrix_shape(tensor.shape)))
        is_whole = key in self.variant.manifest.dense
        rows = min(len(result), len(old.base), len(new))
        for start, stop in row_blocks(rows, result.shape[1]):
            value = widen(result[start:stop]) if is_whole else old.rows(start, stop)
            change = value - widen(old.base[start:stop])
            result[start:stop] = round_to(widen(new[start:stop]) + change, array_dtype(tensor.dtype))
        return as_tensor(result.reshape(tensor.shape), torch_dtype(tensor.dtype))

    def _decide_tensors(self) -> None:
        quantisation = quantisation_of(self.variant.objects, self.variant.layout)
        quantised = [weight.members for weight in find_quantised(self.variant.base, quantisation)]
        for members in quantised:
            self._decide([key for key in members if key in self._tensors], "quantised")
        for key in sorted(self._tensors.keys() - {key for members in quantised for key in members}):
            if self._is_sum(key):
                self._sums.add(key)
                self._note_rows(key)
            else:
                self._decide([key], "tensor")

    def _is_sum(self, key: str) -> bool:
        tensor, old, new = self._tensors[key], self.variant.base.get(key), self.base.base.get(self.keys[key])
        if old is None or new is None or not all(map(is_floating, (tensor.dtype, old.dtype, new.dtype))):
            return False
        same = (old.shape, new.shape) == (tensor.shape, tensor.shape)
        return same or (
            key not in self.variant.manifest.dense
            and bool(tensor.shape)
            and old.shape[1:] == new.shape[1:] == tensor.shape[1:]
        )

    def _decide(self, keys: Iterable[str], kind: str) -> None:
        """Take tensors that belong together from the side that changed one of them."""
        keys = list(keys)
        theirs = [key for key in keys if self._is_changed(key)]
        ours = [key for key in keys if self._differs(key)]
        if not ours:
            return
        fits = all(self._fits(key) for key in keys)
        if not theirs and fits:
            self._new.update(keys)
            return
        subject = (theirs or ours)[0]
        reason = (
            "both sides changed it, and it is not a sum" if theirs else "the new base has it in another shape or dtype"
        )
        self.conflicts.append(Conflict(kind, subject, reason, self.names))
        if self.choose == "ours":
            if not fits:
                raise CombinationError(
                    f"'{subject}' of '{self.names[1]}' does not fit where '{self.names[0]}' has it.",
                    tuple(self.conflicts),
                    hint="Add --theirs for the variant's.",
                )
            self._new.update(keys)

    def _is_changed(self, key: str) -> bool:
        """Return whether a tensor of the variant is not its old base's."""
        old, tensor = self.variant.base.get(key), self._tensors[key]
        if old is None or (old.dtype, old.shape) != (tensor.dtype, tensor.shape) or self.variant.terms(key):
            return True
        parts = self.variant.manifest.dense.get(key)
        return parts is not None and any(part.tensor.digest != old.digest for part in parts)

    def _differs(self, key: str) -> bool:
        """Return whether the new base has another value than the old one, and than the variant."""
        old, new = self.variant.base.get(key), self.base.base.get(self.keys[key])
        if new is None or (old is not None and old.digest == new.digest):
            return False
        parts = self.variant.manifest.dense.get(key, ())
        return not (len(parts) == 1 and parts[0].coefficient == 1 and parts[0].tensor.digest == new.digest)

    def _fits(self, key: str) -> bool:
        new, tensor = self.base.base.get(self.keys[key]), self._tensors[key]
        return new is not None and (new.dtype, new.shape) == (tensor.dtype, tensor.shape)

    def _note_rows(self, key: str) -> None:
        tensor, new = self._tensors[key], self.base.base[self.keys[key]]
        if tensor.shape and new.shape[0] != tensor.shape[0]:
            self.notes.append(
                f"'{key}' has the {tensor.shape[0]} rows of '{self.names[0]}', not the {new.shape[0]} of '{self.names[1]}'."
            )

    def _decide_side_files(self) -> dict[str, str]:
        """Return the result's side files; those of weights are taken from the side that changed them."""
        result = dict(self.variant.layout.side_files)
        old, new = self.old_side_files, self.base.layout.side_files
        both: list[str] = []
        for path, oid in sorted(new.items()):
            mine = result.get(path)
            if oid in (mine, old.get(path)):
                continue  # alike, or changed by the variant alone
            if not (self._is_weights(path, oid) or (mine is not None and self._is_weights(path, mine))):
                both += [path] * (mine is not None)
            elif mine == old.get(path) and mine is not None:
                result[path] = oid
            else:
                self.conflicts.append(Conflict("file", path, self._file_reason(mine), self.names))
                if self.choose == "ours":
                    result[path] = oid
        if both:
            self.notes.append(
                f"Files that '{self.names[1]}' has too: the result has those of '{self.names[0]}': {', '.join(both)}."
            )
        return result

    def _file_reason(self, mine: str | None) -> str:
        if mine is None:
            return "it holds weights that are not read, and only the new base has it"
        return "it holds weights that are not read, and both sides changed it"

    def _is_weights(self, path: str, oid: str) -> bool:
        return holds_weights(path, self.variant.objects.blob_start(oid, START))
