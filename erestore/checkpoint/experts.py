"""Mixtures of experts: all experts of a layer fused in one tensor, as modules of transformers 5 hold them, or one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_SINGLE = re.compile(r"(?:^|\.)experts\.\d+\.")
_FUSED = re.compile(r"(?:^|\.)experts\.[A-Za-z_][^.]*(?:\.weight|\.bias)?$")


class FusedAgainstSingle(NamedTuple):
    """An example of each: a name of fused experts, and of a single one; whether the checkpoint has the fused one."""

    fused: str
    single: str
    own_is_fused: bool

    @property
    def sentence(self) -> str:
        """What the matter is."""
        sides = ("fused", "one by one") if self.own_is_fused else ("one by one", "fused")
        names = (self.fused, self.single) if self.own_is_fused else (self.single, self.fused)
        return (
            f"The checkpoint holds its experts {sides[0]} ('{names[0]}') and the base {sides[1]} ('{names[1]}'), "
            "which are not compared"
        )

    @property
    def hint(self) -> str:
        """What to do about it."""
        side = "the base" if self.own_is_fused else "the checkpoint"
        return (
            f"Fuse those of {side}: with transformers 5, load it and write it with "
            "`model.save_pretrained(FOLDER, save_original_format=False)`."
        )


def fused_against_single(tensors: Iterable[str], base: Iterable[str]) -> FusedAgainstSingle | None:
    """Return whether of two checkpoints one has experts fused and the other one by one.

    Parameters
    ----------
    tensors, base : iterable of str
        Names without a counterpart, without wrappers.
    """
    ours, theirs = list(tensors), list(base)
    for ours_are_fused, fused_names, single_names in ((True, ours, theirs), (False, theirs, ours)):
        fused = next((name for name in fused_names if _FUSED.search(name)), None)
        single = next((name for name in single_names if _SINGLE.search(name)), None)
        if fused is not None and single is not None:
            return FusedAgainstSingle(fused, single, ours_are_fused)
    return None
