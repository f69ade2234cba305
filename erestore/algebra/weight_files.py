"""Tensors put into the weight files of a layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from erestore.records import LayoutFile


def with_tensors(files: Sequence[LayoutFile], homes: Mapping[str, LayoutFile]) -> tuple[LayoutFile, ...]:
    """Return weight files with more tensors in them.

    Parameters
    ----------
    files : sequence of LayoutFile
    homes : Mapping[str, LayoutFile]
        By own name, a file like the one that a tensor belongs into: it goes into the last file of the same folder, after
        what is there, which in most models is next to a head; into a new one of this path where the folder has none.
    """
    extended = list(files)
    for name, home in homes.items():
        position = next(
            (index for index in reversed(range(len(extended))) if extended[index].module == home.module), None
        )
        if position is None:
            extended.append(replace(home, tensors=(name,)))
        else:
            file = extended[position]
            extended[position] = replace(file, tensors=(*file.tensors, name))
    return tuple(extended)
