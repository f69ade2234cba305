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
    found = list(files)
    for name, home in homes.items():
        place = next((at for at in reversed(range(len(found))) if found[at].module == home.module), None)
        if place is None:
            found.append(replace(home, tensors=(name,)))
        else:
            found[place] = replace(found[place], tensors=(*found[place].tensors, name))
    return tuple(found)
