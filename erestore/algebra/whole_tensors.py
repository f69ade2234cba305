"""Whole tensors of a combination: heads, rows that were added, integers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fractions import Fraction

from erestore.algebra.buffers import is_buffer
from erestore.algebra.chosen_tensors import ChosenTensors
from erestore.algebra.conflicts import LABELS, Conflicts
from erestore.algebra.operands import Combined
from erestore.algebra.side_weights import SideWeights
from erestore.algebra.sums import Parts, sum_parts
from erestore.algebra.vocabulary import OTHER_CLASSES, class_labels, same_vocabulary
from erestore.checkpoint.dtypes import is_floating
from erestore.records import Manifest, Part, WholeTensor


class WholeTensors:
    """Combines what variants hold whole; conflicts are noted, and decided as chosen.

    Parameters
    ----------
    combined : Combined
    conflicts : Conflicts
    side_weights : SideWeights
    selection : ChosenTensors
        Is told what is taken from one variant.
    decided : collection of str
        Keys of tensors that are not combined here.
    """

    def __init__(
        self,
        combined: Combined,
        conflicts: Conflicts,
        side_weights: SideWeights,
        selection: ChosenTensors,
        decided: Collection[str] = (),
    ) -> None:
        self.combined = combined
        self.conflicts = conflicts
        self.side_weights = side_weights
        self.selection = selection
        self.decided = decided

    def dense(self) -> dict[str, Parts]:
        """Combine tensors in place of the base's, or that the base does not have."""
        return self._all(lambda manifest: manifest.dense, self._dense)

    def rows(self) -> dict[str, Parts]:
        """Combine rows below the base's."""
        return self._all(lambda manifest: manifest.rows, self._rows)

    def _all(
        self,
        parts_of: Callable[[Manifest], Mapping[str, Parts]],
        combined: Callable[[str, Mapping[int, Parts]], Parts],
    ) -> dict[str, Parts]:
        results = {}
        keys = dict.fromkeys(key for operand in self.combined.operands for key in parts_of(operand.manifest))
        for key in sorted(keys.keys() - self.decided):
            having = {
                index: parts_of(operand.manifest)[key]
                for index, operand in enumerate(self.combined.operands)
                if key in parts_of(operand.manifest)
            }
            if parts := combined(key, having):
                results[key] = parts
        return results

    def _dense(self, key: str, having: Mapping[int, Parts]) -> Parts:
        if (decided := self.side_weights.parts(key, having)) is not None:
            return decided
        base = self.combined.base.get(key)
        if base is None and (parts := self._buffer(key, having)):
            return parts
        tensors = [part.tensor for parts in having.values() for part in parts]
        if not all(is_floating(tensor.dtype) for tensor in tensors):
            return self._integers(key, having)
        if base is not None and is_floating(base.dtype) and all(tensor.shape == base.shape for tensor in tensors):
            return self._over_base(key, having, base)
        parts = self._sum(having)
        if base is not None and any(self.combined.touches(operand, key) for operand in self.combined.others(having)):
            return self.conflicts.decide("tensor", key, "some variants hold it in another shape than the base", having)
        if len({part.tensor.shape for part in parts}) > 1:
            shapes = sorted({"x".join(map(str, part.tensor.shape)) for part in parts})
            return self.conflicts.decide("tensor", key, f"it has the shapes {', '.join(shapes)}", having)
        if reason := self._partly(having):
            return self.conflicts.decide("tensor", key, reason, having)
        if len(parts) > 1 and not self._same_labels(having, parts):
            return self.conflicts.decide(LABELS, key, OTHER_CLASSES, having)
        return parts

    def _buffer(self, key: str, having: Mapping[int, Parts]) -> Parts:
        """Return a buffer that only some variants have, and have alike; empty where it is none."""
        weight = self.combined.weight(having)
        parts = next(iter(having.values()))
        if len(having) == len(self.combined.operands) or not weight or any(other != parts for other in having.values()):
            return ()
        if not is_buffer(key, parts[0].tensor.shape):
            return ()
        verb = "has" if len(having) == 1 else "have"
        self.conflicts.notes.append(
            f"Only {self.combined.listed(having)} {verb} the buffer '{key}'; the result has it too."
        )
        return parts

    def _rows(self, key: str, having: Mapping[int, Parts]) -> Parts:
        parts = self._sum(having)
        if len({part.tensor.shape for part in parts}) > 1:
            sizes = sorted({str(part.tensor.shape[0]) for part in parts})
            return self.conflicts.decide("rows", key, f"{', '.join(sizes)} rows were added to it", having)
        if reason := self._partly(having):
            return self.conflicts.decide("rows", key, reason, having)
        if len(parts) > 1 and not same_vocabulary(self.combined, having):
            return self.conflicts.decide("vocabulary", key, "the added rows stand for other words", having)
        return parts

    def _integers(self, key: str, having: Mapping[int, Parts]) -> Parts:
        """Integers are not combined: what is left after equal ones are summed is one tensor, or a conflict."""
        base = self.combined.base.get(key)
        total: dict[str, Fraction] = {}
        parts_by_digest: dict[str, Parts] = {}
        for index, operand in enumerate(self.combined.operands):
            parts = having.get(index)
            if parts is None and (base is None or not self.combined.has(operand, key)):
                continue
            digest = parts[0].tensor.digest if parts else base.digest if base else ""
            total[digest] = total.get(digest, Fraction(0)) + operand.coefficient
            parts_by_digest[digest] = parts or ()
        left = [digest for digest, weight in total.items() if weight] or list(total)[:1]
        if len(left) > 1:
            return self._decide_among_all("integers", key, "its values differ, and integers are not averaged", having)
        return parts_by_digest[left[0]]

    def _over_base(self, key: str, having: Mapping[int, Parts], base: WholeTensor) -> Parts:
        """Combine what the base has too and some variants hold whole: the base's own value is a part like others."""
        if any(self.combined.touches(operand, key) for operand in self.combined.others(having)):
            return self._decide_among_all(
                "tensor", key, "some variants hold it whole and others as a difference", having
            )
        rest = 1 - self.combined.weight(having)
        parts = sum_parts([*self._weighted(having), (rest, (Part(Fraction(1), base),))])
        return () if len(parts) == 1 and parts[0] == Part(Fraction(1), base) else parts

    def _decide_among_all(self, kind: str, key: str, reason: str, having: Mapping[int, Parts]) -> Parts:
        """Note a conflict over a tensor that the base has; return what the result holds whole of the chosen operand's."""
        index = self.conflicts.decide_among_all(kind, key, reason, having)
        if index is None or not self.combined.has(self.combined.operands[index], key):
            return ()
        return self.selection.take(index, key)

    def _sum(self, having: Mapping[int, Parts]) -> Parts:
        return sum_parts(self._weighted(having))

    def _weighted(self, having: Mapping[int, Parts]) -> list[tuple[Fraction, Parts]]:
        return [(self.combined.operands[index].coefficient, parts) for index, parts in having.items()]

    def _partly(self, having: Mapping[int, Parts]) -> str:
        """Say why what only some variants have cannot be taken; empty where it can."""
        if len(having) == len(self.combined.operands):
            return ""
        weight = self.combined.weight(having)
        if weight in (0, 1) and (weight or not self._sum(having)):
            return ""
        verb = "has" if len(having) == 1 else "have"
        return f"only {self.combined.listed(having)} {verb} it, and it would be scaled by {weight}"

    def _same_labels(self, having: Mapping[int, Parts], parts: Parts) -> bool:
        """Return whether the variants whose tensors are left name their classes alike."""
        left = {part.tensor.digest for part in parts}
        places = [
            index for index, tensor_parts in having.items() if any(part.tensor.digest in left for part in tensor_parts)
        ]
        return len({class_labels(self.combined, self.combined.operands[index]) for index in places}) == 1
