"""The layout of a combination: an operand's, with the tensors that the result has, in the shapes that it has them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from erestore.algebra.conflicts import Conflicts
from erestore.algebra.operands import Combined, Operand
from erestore.algebra.sums import Parts
from erestore.algebra.weight_files import with_tensors
from erestore.checkpoint.dtypes import is_floating
from erestore.errors import CombinationError, Conflict
from erestore.records import Layout, LayoutFile, LayoutTensor


class ResultLayout:
    """Finds the layout of a result that holds `dense` tensors and added `rows`; conflicts are noted, and decided as chosen.

    `present` says of the base's tensors whether the result has them; it has those of which it says nothing.
    """

    def __init__(
        self,
        combined: Combined,
        conflicts: Conflicts,
        dense: Mapping[str, Parts],
        rows: Mapping[str, Parts],
        present: Mapping[str, bool],
    ) -> None:
        self.combined = combined
        self.conflicts = conflicts
        self.dense = dense
        self.rows = rows
        self.present = present

    def find(self) -> tuple[Operand, Layout]:
        """Return the operand whose layout it is, perhaps but for some tensors, and the layout.

        Raises
        ------
        CombinationError
            If the operand's files have no place for the tensors.
        """
        heights = self._heights() if self.combined.differ else {}
        primary = self._primary(heights)
        primary_layout = self.combined.layout(primary)
        layout = self._fit(primary_layout)
        if (
            layout != primary_layout
            and layout.structure is not None
            and layout.tensors.keys() != primary_layout.tensors.keys()
        ):
            reason = "the torch file around the weights has no place for tensors that come or go"
            raise CombinationError(
                f"The variants cannot be combined as they are: {reason}.",
                (Conflict("layout", "", reason, (primary.name,)),),
                hint=f"`erestore checkout {primary.name} --format safetensors`, commit that, and combine it instead.",
            )
        return primary, layout

    def _heights(self) -> dict[str, int]:
        """Return how many of the base's rows the result has of its tensors, where variants have different numbers of them."""
        weights_by_key: dict[str, dict[int, Fraction]] = {}
        names: dict[tuple[str, int], list[str]] = {}
        for operand in self.combined.operands:
            for key, tensor in {
                tensor.key: tensor for tensor in self.combined.layout(operand).tensors.values()
            }.items():
                if key in self.combined.base and tensor.shape and key not in operand.manifest.dense:
                    height = min(tensor.shape[0], self.combined.base[key].shape[0])
                    weights = weights_by_key.setdefault(key, {})
                    weights[height] = weights.get(height, Fraction(0)) + operand.coefficient
                    names.setdefault((key, height), []).append(operand.name)
        heights = {}
        for key, weights in weights_by_key.items():
            left = [height for height, weight in weights.items() if weight] or [max(weights)]
            if len(left) > 1:
                reason = f"the variants have {' and '.join(map(str, sorted(left)))} of its rows"
                self.conflicts.note("rows", key, reason, [names[key, height][0] for height in left])
            elif len(weights) > 1:
                heights[key] = left[0]
        return heights

    def _primary(self, heights: Mapping[str, int]) -> Operand:
        """Return the operand whose layout the result has: the first, or if asked for the last, that has all tensors of it.

        Of several, one that lacks what the result lacks: its configuration describes a model without these, as that of a
        model whose head is its embedding does. A base that is averaged with variants comes after them: their configuration
        and tokenizer are those that were tuned.
        """
        ordered = (
            list(reversed(self.combined.operands))
            if self.conflicts.choose == "theirs"
            else list(self.combined.operands)
        )

        def unlike(operand: Operand) -> tuple[int, int, bool]:
            shapes = {tensor.key: tensor.shape for tensor in self.combined.layout(operand).tensors.values()}
            missing = sum(key not in shapes for key in self.dense)
            missing += sum(
                key not in shapes or shapes[key][0] < self._height(key, rows) for key, rows in self.rows.items()
            )
            missing += sum(key in shapes and shapes[key][0] < height for key, height in heights.items())
            missing += sum(is_there and key not in shapes for key, is_there in self.present.items())
            surplus = sum(not self._is_wanted(key) for key in shapes)
            return missing, surplus, operand.coefficient < 1 and self.combined.is_base(operand)

        return min(ordered, key=unlike)

    def _height(self, key: str, parts: Parts) -> int:
        return self.combined.base[key].shape[0] + parts[0].tensor.shape[0]

    def _fit(self, layout: Layout) -> Layout:
        """Return a layout with the tensors that the result has, no others, in the shapes that it has them in."""
        tensors = {
            name: fitted
            for name, tensor in layout.tensors.items()
            if (fitted := self._fitted(tensor)) is not None and self._is_wanted(tensor.key)
        }
        named = {tensor.key for tensor in tensors.values()}
        for key in dict.fromkeys((*self.dense, *self.rows, *self.present)):
            if key not in named and self._is_wanted(key):
                name, tensor = self._named(key, tensors)
                fitted = self._fitted(tensor)
                assert fitted is not None
                tensors[name] = fitted
        if tensors == dict(layout.tensors):
            return layout
        listed = {name for file in layout.files for name in file.tensors}
        added = [name for name in tensors if name not in listed]
        trimmed = [
            replace(file, tensors=tuple(name for name in file.tensors if name in tensors)) for file in layout.files
        ]
        files = [file for file in trimmed if file.tensors or not file.module]
        homes = self._homes(next((file for file in files if not file.module), layout.files[-1]), added)
        placed = with_tensors(files, homes)
        ties = tuple(
            group
            for group in layout.ties
            if all(name in tensors for name in group) and len({tensors[name].key for name in group}) == 1
        )
        fresh = {file.name for file in placed[len(files) :]}
        side_files = {name: oid for name, oid in layout.side_files.items() if name not in fresh}
        return replace(layout, tensors=tensors, files=placed, ties=ties, side_files=side_files)

    def _homes(self, fallback: LayoutFile, names: Iterable[str]) -> dict[str, LayoutFile]:
        """Return the file that each tensor is in in the first operand that has it."""
        homes = {
            name: file
            for operand in reversed(self.combined.operands)
            for file in self.combined.layout(operand).files
            for name in file.tensors
        }
        return {name: homes.get(name, fallback) for name in names}

    def _is_wanted(self, key: str) -> bool:
        return self.present.get(key, True) and key not in self.conflicts.dropped

    def _fitted(self, tensor: LayoutTensor) -> LayoutTensor | None:
        """Return a layout's tensor in the shape and dtype that the result has it in; None where it does not have it."""
        if tensor.key in self.dense:
            stored = self.dense[tensor.key][0].tensor
            floating = is_floating(tensor.dtype) and is_floating(stored.dtype)
            return replace(tensor, shape=stored.shape, dtype=tensor.dtype if floating else stored.dtype)
        if tensor.key not in self.combined.base:
            return None
        base = self.combined.base[tensor.key]
        if not is_floating(base.dtype):
            return replace(tensor, dtype=base.dtype, shape=base.shape)
        if tensor.key in self.rows:
            return replace(tensor, shape=(self._height(tensor.key, self.rows[tensor.key]), *tensor.shape[1:]))
        if tensor.shape and base.shape and tensor.shape[0] > base.shape[0] and tensor.shape[1:] == base.shape[1:]:
            return replace(tensor, shape=base.shape)
        return tensor

    def _named(self, key: str, tensors: Mapping[str, LayoutTensor]) -> tuple[str, LayoutTensor]:
        """Return a name for a tensor which the result's layout lacks: one that an operand has for it, if it is free.

        A name is free as well if it is another's second name there, as a head is that is saved beside its embedding.
        """
        count = Counter(tensor.key for tensor in tensors.values())
        names = {
            name: tensor
            for operand in self.combined.operands
            for name, tensor in self.combined.layout(operand).tensors.items()
            if tensor.key == key
        }
        for name, tensor in names.items():
            if name not in tensors or count[tensors[name].key] > 1:
                return name, tensor
        tensor = next(iter(names.values()))
        numbered = (f"{key}#{number}" for number in range(2, len(tensors) + 3))
        return next(name for name in (key, *numbered) if name not in tensors), tensor
