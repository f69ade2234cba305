"""A diff by kind of module: how far the tensors of a kind moved together, and at which depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from erestore.checkpoint.module_kind import Place, kind_order, places
from erestore.report.summary import relative, weighted_median
from erestore.results.diff import TensorDiff


class ChangeNorms(NamedTuple):
    """ChangeNorms of a difference and of the first side's value, of one or more tensors together."""

    norm: float
    before: float

    @property
    def relative(self) -> float:
        """How far they moved; see :func:`erestore.report.summary.relative`."""
        return relative(self.norm, self.before)

    @classmethod
    def together(cls, parts: Iterable[ChangeNorms]) -> ChangeNorms:
        """Return those of all together."""
        parts = list(parts)
        return cls(*(math.sqrt(math.fsum(part[side] ** 2 for part in parts)) for side in (0, 1)))


@dataclass(frozen=True)
class KindDiff:
    """What is known of all tensors of one kind that could be compared.

    Attributes
    ----------
    kind : str
        With its stack, where the model has several; see :attr:`erestore.checkpoint.module_kind.Place.row`.
    tensors, changed : int
    share : float
        Of the squared change of all tensors.
    effective_rank, effective_rank_ratio : float or None
        Medians over tensors, weighted with their squared change.
    energy_in_tenth : float or None
        Share of the squared change of its matrices in a tenth of the ranks of each.
    norms : Mapping[int or None, ChangeNorms]
        By depth; None for what is outside the layers. Tensors that did not change do not count; where none did, both are 0.
    """

    kind: str
    tensors: int
    changed: int
    share: float
    effective_rank: float | None
    effective_rank_ratio: float | None
    energy_in_tenth: float | None
    norms: Mapping[int | None, ChangeNorms]

    @property
    def relative_norm(self) -> float:
        """How far all of them moved together."""
        return ChangeNorms.together(self.norms.values()).relative

    @property
    def inside(self) -> Mapping[int, ChangeNorms]:
        """Of those in layers, by depth."""
        return {depth: norms for depth, norms in self.norms.items() if depth is not None}


def by_kind(tensors: Sequence[TensorDiff]) -> list[KindDiff]:
    """Put tensors of one kind together, in the order in which a model has the kinds.

    Parameters
    ----------
    tensors : sequence of TensorDiff
        Of one diff; those that were not compared by numbers do not count.
    """
    positions = places(tensor.name for tensor in tensors)
    groups: dict[str, list[tuple[Place, TensorDiff]]] = {}
    for tensor in sorted(tensors, key=lambda tensor: _order(positions[tensor.name])):
        if tensor.norm is not None:
            groups.setdefault(positions[tensor.name].row, []).append((positions[tensor.name], tensor))
    return [_merge_kind(kind, members) for kind, members in groups.items()]


def _order(position: Place) -> tuple[bool, str, int, str]:
    """Return the key that puts encoders before decoders, and kinds in a model's order."""
    return "decoder" in position.stack, position.stack, kind_order(position.kind), position.kind


def _merge_kind(kind: str, members: Sequence[tuple[Place, TensorDiff]]) -> KindDiff:
    tensors = [tensor for _, tensor in members]
    by_depth: dict[int | None, list[ChangeNorms]] = {}
    for position, tensor in members:
        norms = by_depth.setdefault(position.depth, [])
        if tensor.norm:
            norms.append(ChangeNorms(tensor.norm, tensor.norm_before or 0.0))
    matrices = [(tensor.energy_in_tenth, tensor.share) for tensor in tensors]
    weighted = [(energy, share) for energy, share in matrices if energy is not None and share]
    total = math.fsum(share for _, share in weighted)
    return KindDiff(
        kind=kind,
        tensors=len(tensors),
        changed=sum(bool(tensor.norm) for tensor in tensors),
        share=math.fsum(tensor.share or 0.0 for tensor in tensors),
        effective_rank=weighted_median([(tensor.effective_rank, tensor.share or 0.0) for tensor in tensors]),
        effective_rank_ratio=weighted_median([(t.effective_rank_ratio, t.share or 0.0) for t in tensors]),
        energy_in_tenth=math.fsum(energy * share for energy, share in weighted) / total if total else None,
        norms={depth: ChangeNorms.together(norms) for depth, norms in by_depth.items()},
    )
