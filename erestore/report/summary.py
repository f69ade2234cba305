"""A spectral diff at a glance: how far, in which tensors, in how many of their ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from erestore.results.diff import FileChange, LayoutChange, Share, Summary, TensorDiff

if TYPE_CHECKING:
    import torch

TOP = 5
_OUTSTANDING = 0.1
"""Share of the change from which one tensor can stand out ..."""
_ABOVE_NEXT = 2.0
"""... if it also has this many times as much as the next that does not."""


def summarise(
    tensors: Sequence[TensorDiff],
    spectra: Mapping[str, torch.Tensor],
    *,
    same_base: bool,
    pattern: str | None = None,
    layout: tuple[LayoutChange, ...] = (),
    side_files: tuple[FileChange, ...] = (),
) -> Summary:
    """Put together what a person wants to know first.

    Parameters
    ----------
    tensors : sequence of TensorDiff
    spectra : Mapping[str, Tensor]
        All singular values of the difference, of every matrix that has one, by name.
    same_base, pattern, layout, side_files
        See :class:`Summary`.
    """
    moved = [tensor for tensor in tensors if tensor.norm]
    norm = math.sqrt(math.fsum((tensor.norm or 0.0) ** 2 for tensor in moved))
    before = math.sqrt(math.fsum((tensor.norm_before or 0.0) ** 2 for tensor in moved))
    top = top_shares(tensors)
    leading = outstanding(top)
    apart = {share.name for share in leading}
    rest = [tensor for tensor in moved if tensor.name not in apart]
    half, ninety = rank_shares([spectra[tensor.name] for tensor in rest if tensor.name in spectra], (0.5, 0.9))
    counts = Counter(tensor.status for tensor in tensors)
    return Summary(
        identical=set(counts) <= {"unchanged"} and not layout and not side_files,
        same_base=same_base,
        pattern=pattern,
        tensors=len(tensors),
        counts=dict(sorted(counts.items())),
        norm=norm,
        relative_norm=relative(norm, before),
        top=top,
        top_share=math.fsum(share.share for share in top),
        outstanding=leading,
        effective_rank_ratio=weighted_median([(t.effective_rank_ratio, t.share or 0.0) for t in rest]),
        rank_share_for_half=half,
        rank_share_for_ninety=ninety,
        layout=layout,
        side_files=side_files,
    )


def relative(norm: float, before: float) -> float:
    """Return ``norm / before``, with 0 / 0 = 0, and infinite where only `before` is zero."""
    return norm / before if before else math.inf if norm else 0.0


def top_shares(tensors: Sequence[TensorDiff]) -> tuple[Share, ...]:
    """Return the tensors with the most of the change, at most :data:`TOP`."""
    shares = [Share(tensor.name, tensor.share) for tensor in tensors if tensor.share]
    return tuple(sorted(shares, key=lambda share: -share.share)[:TOP])


def outstanding(top: Sequence[Share]) -> tuple[Share, ...]:
    """Return the leading tensors that have far more of the change than what comes after them, if anything does."""
    for count in range(len(top) - 1, 0, -1):
        last, following = top[count - 1].share, top[count].share
        if last >= _OUTSTANDING and last >= _ABOVE_NEXT * following:
            return tuple(top[:count])
    return ()


def weighted_median(weighted: Sequence[tuple[float | None, float]]) -> float | None:
    """Return the value at which half of the weight is reached, in ascending order; values of None do not count."""
    pairs = sorted((value, weight) for value, weight in weighted if value is not None)
    half, reached = math.fsum(weight for _, weight in pairs) / 2, 0.0
    for value, weight in pairs:
        reached += weight
        if weight and reached >= half:
            return value
    return None


def rank_shares(spectra: Sequence[torch.Tensor], parts: Sequence[float]) -> list[float | None]:
    """Return the smallest share of all ranks together that holds each part of the energy.

    Parameters
    ----------
    spectra : sequence of Tensor
        All singular values of every matrix, zeros included.
    parts : sequence of float
        Between 0 and 1.
    """
    import torch

    if not spectra:
        return [None] * len(parts)
    energy = torch.cat([values.double().square() for values in spectra]).sort(descending=True).values.cumsum(0)
    if not len(energy) or not energy[-1]:
        return [None] * len(parts)
    counts = torch.searchsorted(energy, torch.tensor(list(parts), dtype=torch.float64) * energy[-1])
    return [(int(count) + 1) / len(energy) for count in counts.clamp(max=len(energy) - 1)]
