"""Tensors of the base that only some of the combined variants still have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from erestore.algebra.buffers import is_buffer
from erestore.algebra.chosen_tensors import ChosenTensors
from erestore.algebra.conflicts import Conflicts
from erestore.algebra.operands import Combined
from erestore.algebra.sums import Parts


class Presence(NamedTuple):
    """Of the base's tensors, by key, whether the result has them; and what it holds whole of them, as chosen."""

    present: Mapping[str, bool]
    dense: Mapping[str, Parts]


def find_presence(combined: Combined, conflicts: Conflicts, selection: ChosenTensors) -> Presence:
    """Return which of the base's tensors a result has; conflicts are noted, and decided as chosen."""
    if not combined.differ:
        return Presence({}, {})
    operands = range(len(combined.operands))
    keys = {tensor.key for operand in combined.operands for tensor in combined.layout(operand).tensors.values()}
    present: dict[str, bool] = {}
    dense: dict[str, Parts] = {}
    for key in sorted(keys & set(combined.base)):
        having = [index for index in operands if combined.has(combined.operands[index], key)]
        if len(having) == len(operands) or not combined.weight(set(operands) - set(having)):
            present[key] = True
        elif not combined.weight(having):
            present[key] = False
        elif _is_buffer_of_base(combined, key, having):
            present[key] = True
            verb = "has" if len(having) == 1 else "have"
            conflicts.notes.append(
                f"Only {combined.listed(having)} still {verb} the buffer "
                f"'{key}', as it is in the base; the result has it too."
            )
        else:
            verb = "has" if len(having) == 1 else "have"
            reason = f"only {combined.listed(having)} still {verb} this base tensor"
            conflicts.note("tensor", key, reason, combined.names(having))
            index = {"ours": operands[0], "theirs": operands[-1]}.get(conflicts.choose or "")
            present[key] = index in having
            if index is not None and index in having and (parts := selection.take(index, key)):
                dense[key] = parts
    return Presence(present, dense)


def _is_buffer_of_base(combined: Combined, key: str, having: Collection[int]) -> bool:
    """Return whether a tensor is a buffer that those operands which have it have as the base has it."""
    return is_buffer(key, combined.base[key].shape) and not any(
        key in operand.manifest.dense or combined.touches(operand, key)
        for operand in (combined.operands[index] for index in having)
    )
