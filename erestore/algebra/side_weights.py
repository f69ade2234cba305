"""Side files of a combination: those that hold weights are a conflict where variants differ, all others are one variant's.

A pickled classifier beside a model cannot be averaged, and one that was trained with another model is as wrong as a head of
other classes. Coefficients count as they do for tensors: a file that is left with a coefficient after equal ones are summed,
alone, is the result's, so that a pick brings the file that the picked commit changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from erestore.algebra.conflicts import Conflicts
from erestore.algebra.operands import Combined, Operand
from erestore.algebra.sums import Parts
from erestore.checkpoint.conversion import is_index
from erestore.checkpoint.unread_weights import START, holds_weights, may_hold_weights
from erestore.records import Layout
from erestore.storage.frames import is_oid

_LISTED = 5
"""Names of files in one note."""

_AS_TENSORS = "tensors"
"""State of a file whose tensors are known one by one: it is not a side file of that variant."""


class SideWeights:
    """Decides which side files with weights a result has; conflicts are noted, and decided as chosen.

    Attributes
    ----------
    files : Mapping[str, int or None]
        By path, the index of the operand whose file the result has, None where it has none; paths alone in which operands
        differ.
    """

    def __init__(self, combined: Combined, conflicts: Conflicts) -> None:
        self.combined = combined
        self.conflicts = conflicts
        self._states = [self._known(operand) for operand in combined.operands] if combined.differ else []
        paths = sorted({path for states in self._states for path, state in states.items() if state != _AS_TENSORS})
        differing = [path for path in paths if len({states.get(path) for states in self._whole()}) > 1]
        self.files = {path: self._decided(path) for path in differing if self._holds_weights(path)}

    def parts(self, key: str, having: Mapping[int, Parts]) -> Parts | None:
        """Return what the result has of a tensor whose file other variants hold as a side file; None where none does."""
        path = next((path for path in self.files if self._is_in(key, path)), None)
        if path is None:
            return None
        index = self.files[path]
        return () if index is None else having.get(index, ())

    def put_into(self, layout: Layout) -> Layout:
        """Return a layout with the side files that were decided on, and no others of theirs."""
        side_files = dict(layout.side_files)
        for path, index in self.files.items():
            side_files.pop(path, None)
            state = None if index is None else self._states[index].get(path)
            if state not in (None, _AS_TENSORS):
                side_files[path] = state
        return layout if side_files == layout.side_files else replace(layout, side_files=side_files)

    def note_others(self, primary: Operand, layout: Layout) -> None:
        """Say of the side files that are one variant's, and differ in others, whose they are."""
        layouts = [self.combined.layout(operand) for operand in self.combined.operands if is_oid(operand.commit)]
        differing = sorted(
            path
            for path, oid in layout.side_files.items()
            if path not in self.files
            and not is_index(path)
            and any(other.side_files.get(path) != oid for other in layouts)
        )
        if differing:
            self.conflicts.notes.append(
                f"Side files differ between the variants; the result has those of '{primary.name}': {_listed(differing)}."
            )
        weights = {file.name for file in layout.files}
        missing = {
            path: operand.name
            for operand in reversed(self.combined.operands)
            if is_oid(operand.commit)
            for path in self.combined.layout(operand).side_files
            if path not in (layout.side_files.keys() | self.files.keys() | weights) and not is_index(path)
        }
        for name in dict.fromkeys(reversed(missing.values())):
            paths = sorted(path for path, holder in missing.items() if holder == name)
            self.conflicts.notes.append(
                f"Side files of '{name}' that '{primary.name}' lacks are left out of the result: {_listed(paths)}."
            )

    def _whole(self) -> list[Mapping[str, str]]:
        """Return the states of operands that are commits; of a part of one, its tensors alone are meant."""
        pairs = zip(self.combined.operands, self._states, strict=True)
        return [states for operand, states in pairs if is_oid(operand.commit)]

    def _known(self, operand: Operand) -> dict[str, str]:
        layout = self.combined.layout(operand)
        states = {path: oid for path, oid in layout.side_files.items() if may_hold_weights(path)}
        return states | {file.name: _AS_TENSORS for file in layout.files if file.module}

    def _holds_weights(self, path: str) -> bool:
        """Return whether any operand has weights in a side file."""
        states = {states[path] for states in self._states if path in states}
        return any(
            state == _AS_TENSORS or holds_weights(path, self.combined.objects.blob_start(state, START))
            for state in states
        )

    def _is_in(self, key: str, path: str) -> bool:
        return any(
            file.name == path and any(layout.tensors[name].key == key for name in file.tensors)
            for layout in map(self.combined.layout, self.combined.operands)
            for file in layout.files
        )

    def _decided(self, path: str) -> int | None:
        total: dict[str | None, Fraction] = {}
        places: dict[str | None, list[int]] = {}
        for index, operand in enumerate(self.combined.operands):
            if is_oid(operand.commit):
                state = self._states[index].get(path)
                total[state] = total.get(state, Fraction(0)) + operand.coefficient
                places.setdefault(state, []).append(index)
        left = [state for state, weight in total.items() if weight] or list(total)[:1]
        if len(left) == 1:
            owner = places[left[0]][0] if left[0] is not None else None
            whose = "is left out" if owner is None else f"is that of '{self.combined.operands[owner].name}'"
            self.conflicts.notes.append(f"The file of weights '{path}' {whose}.")
            return owner
        having = sorted(index for state in left if state is not None for index in places[state])
        self.conflicts.note("file", path, self._reason(path, having), self.combined.names(having))
        if self.conflicts.choose == "drop":
            return None
        return having[-1] if self.conflicts.choose == "theirs" else having[0]

    def _reason(self, path: str, having: list[int]) -> str:
        if any(self._states[index][path] == _AS_TENSORS for index in having):
            return "some variants hold it as a file, committed before such files were read, and others as tensors"
        if len(having) == 1:
            return f"only {self.combined.listed(having)} has this file of weights, which is not read and not averaged"
        return "this file of weights differs, and is not read, so not averaged"


def _listed(paths: Sequence[str]) -> str:
    rest = len(paths) - _LISTED
    return ", ".join(paths[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
