"""One line per kind of module, with a bar: as ``git diff --stat`` has one per file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erestore.report.columns import Column, table
from erestore.report.kinds import KindDiff
from erestore.report.words import percent, ratio_text

_BAR = 40
_SHORTEST = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def stat(kinds: Sequence[KindDiff], width: int | None, sort: str = "share") -> Iterator[str]:
    """Yield a table of the kinds that moved, each with a bar as long as its share of the squared change.

    Parameters
    ----------
    kinds : sequence of KindDiff
        In a model's order, in which those stay that are equal.
    width : int or None
        Characters that a line may have.
    sort : str
        As of tensors in :func:`erestore.ops.diff.diff`; ``name`` keeps a model's order.
    """
    moved = [kind for kind in sorted(kinds, key=lambda kind: _size(kind, sort)) if kind.changed]
    if not moved:
        return
    columns = [
        Column("kind", [kind.kind for kind in moved], drop=0, right=False),
        Column("changed", [f"{kind.changed}/{kind.tensors}" for kind in moved], drop=3),
        Column("share", [percent(kind.share) for kind in moved], drop=0),
        Column("moved", [percent(kind.relative_norm) for kind in moved], drop=0),
    ]
    if any(kind.energy_in_tenth is not None for kind in moved):
        columns += [
            Column("× base", [ratio_text(kind.effective_rank_ratio) for kind in moved], drop=2),
            Column("10 %", [percent(kind.energy_in_tenth) for kind in moved], drop=1),
        ]
    lines = list(table(columns, None if width is None else max(1, width - _SHORTEST - 2)))
    longest = max(map(len, lines))
    length = _BAR if width is None else min(_BAR, width - longest - 2)
    top = max(kind.share for kind in moved)
    yield lines[0]
    for line, kind in zip(lines[1:], moved, strict=True):
        yield f"{line.ljust(longest)}  {_bar(kind.share / top, length)}".rstrip()


def _size(kind: KindDiff, sort: str) -> float:
    value = {
        "share": kind.share,
        "norm": kind.relative_norm,
        "erank": kind.effective_rank,
        "energy": kind.energy_in_tenth,
        "name": 0.0,
    }[sort]
    return -value if value is not None else 1.0


def _bar(part: float, length: int) -> str:
    """Return a bar of part of a length, to an eighth of a character; what is not nothing is seen."""
    eighths = max(round(8 * part * length), 1 if part else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
