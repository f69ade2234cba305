"""Reports in words and plain tables, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from erestore.report.columns import Column, table, wrapped
from erestore.report.kinds import KindDiff, by_kind
from erestore.report.sentences import sentences
from erestore.report.stat import stat
from erestore.report.strip import strip
from erestore.report.words import listed, percent, printable_line, rank_text, ratio_text, shape_text
from erestore.results.diff import DiffResult

_LEGEND = "share: of the squared change. moved: norm of the change over that of the tensor."
_SPECTRAL_LEGEND = (
    " eff. rank: effective rank of the change / full rank; × base: over that of the base's tensor. "
    "rN, 10 %: share of the change in its best N ranks, in a tenth of its ranks."
)
_KINDS_LEGEND = (
    " × base: effective rank of the change over that of the base's tensor, in the median. "
    "10 %: share of the change in a tenth of the ranks."
)
_SHOWN_RANKS = (1, 4, 16, 64)


def diff_text(
    result: DiffResult,
    *,
    width: int | None = 100,
    limit: int | None = 20,
    color: bool = False,
    by_kinds: str | None = None,
) -> str:
    """Return a spectral diff as text: a summary in sentences, the layers as a strip, a table of the tensors that moved.

    Parameters
    ----------
    result : DiffResult
    width : int or None
        Columns of the terminal; None where there is none, and nothing needs to be shortened.
    limit : int or None
        Most tensors to list; None for all.
    color : bool
        Whether the terminal shows 256 colours.
    by_kinds : str, optional
        List kinds of modules instead of tensors, in this order; see :func:`erestore.report.stat.stat`.
    """
    kinds = [replace(kind, kind=printable_line(kind.kind)) for kind in by_kind(result.tensors)]
    blocks = [
        [line for sentence in sentences(result) for line in wrapped(printable_line(sentence), width)],
        [*strip(kinds, width, color=color), *_outside(kinds, width)],
        map(printable_line, _table(result, width, limit)) if by_kinds is None else stat(kinds, width, by_kinds),
        wrapped(_legend(result, limit if by_kinds is None else None, by_kinds), width),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in map(list, blocks) if block)


def _outside(kinds: Sequence[KindDiff], width: int | None) -> list[str]:
    """Say how far things outside of layers moved, where there are layers."""
    moved = [kind for kind in kinds if None in kind.norms and kind.norms[None].relative]
    texts = [f"{kind.kind} {percent(kind.norms[None].relative)}" for kind in moved]
    if not texts or not any(kind.inside for kind in kinds):
        return []
    return wrapped(f"Outside the layers: {listed(texts, 8)}.", width)


def _table(result: DiffResult, width: int | None, limit: int | None) -> Iterator[str]:
    rows = [tensor for tensor in result.tensors if tensor.norm]
    if not rows:
        return
    shown = rows[:limit]
    largest = max((tensor.full_rank for tensor in shown if tensor.energy), default=0)
    columns = [
        Column("tensor", [tensor.name for tensor in shown], drop=0, right=False),
        Column("shape", [shape_text(tensor.shape) for tensor in shown], drop=5),
        Column("share", [percent(tensor.share) for tensor in shown], drop=0),
        Column("moved", [percent(tensor.relative_norm) for tensor in shown], drop=0),
    ]
    if largest:
        columns += [
            Column("eff. rank", [rank_text(t.effective_rank, t.full_rank) for t in shown], drop=2),
            Column("× base", [ratio_text(t.effective_rank_ratio) for t in shown], drop=3),
            *(
                Column(f"r{rank}", [percent(t.energy.get(rank)) for t in shown], drop=4 + (rank != 16) * 2)
                for rank in _SHOWN_RANKS
                if rank < largest
            ),
            Column("10 %", [percent(t.energy_in_tenth) for t in shown], drop=1),
        ]
    yield from table(columns, width)
    if len(rows) > len(shown):
        share = sum(tensor.share or 0.0 for tensor in rows[len(shown) :])
        yield f"and {len(rows) - len(shown)} more, with {percent(share)} of the change"


def _legend(result: DiffResult, limit: int | None, by_kinds: str | None) -> str:
    """Explain the columns of the table, empty where there is none."""
    rows = [tensor for tensor in result.tensors if tensor.norm]
    if not rows:
        return ""
    if not any(tensor.energy for tensor in rows[:limit]):
        return _LEGEND
    return _LEGEND + (_SPECTRAL_LEGEND if by_kinds is None else _KINDS_LEGEND)
