"""Reports in words and plain tables, for people."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from erestore.report.columns import Column, table
from erestore.report.numbers import count_text, listed, percent, rank_text, ratio_text
from erestore.report.spectral import Compared, DiffResult, FileChange, TensorDiff

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LEGEND = "share: of the squared change. moved: norm of the change over that of the tensor."
_SPECTRAL_LEGEND = (
    " eff. rank: effective rank of the change / full rank; × base: over that of the base's tensor. "
    "rN, 10 %: share of the change in its best N ranks, in a tenth of its ranks."
)
_SHOWN_RANKS = (1, 4, 16, 64)
_LONGEST_VALUE = 40


def diff_text(result: DiffResult, *, width: int | None = 100, limit: int | None = 20) -> str:
    """Return a spectral diff as text: a summary in sentences, then a table of the tensors that moved.

    Parameters
    ----------
    result : DiffResult
    width : int or None
        Columns of the terminal; None where there is none, and nothing needs to be shortened.
    limit : int or None
        Most tensors to list; None for all.
    """
    lines = [line for sentence in sentences(result) for line in _wrapped(sentence, width)]
    lines += _table(result, width, limit)
    return "\n".join(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", line).rstrip() for line in lines)


def sentences(result: DiffResult) -> Iterator[str]:
    """Yield what a person wants to know first, a sentence each."""
    a, b, summary = result.a.name, result.b.name, result.summary
    counts = summary.counts
    common = summary.tensors - counts.get("added", 0) - counts.get("removed", 0)
    matching = f" matching '{summary.pattern}'" if summary.pattern else ""
    tensors = f"{count_text(common, 'tensor')}{matching}"
    changed = common - counts.get("unchanged", 0) - counts.get("retyped", 0)
    if summary.identical:
        yield f"{b} and {a} are identical: {tensors}."
    elif not common:
        yield f"{b} and {a} have no tensors{matching} in common."
    elif not changed:
        yield f"{b} has the same values as {a} in {tensors}."
    else:
        moved = f", by {percent(summary.relative_norm, 3)} of their norm" if summary.norm else ""
        yield f"{b} differs from {a} in {changed} of {tensors}{moved}."
    yield from _concentration(result)
    yield from _other_tensors(result)
    yield from _files(result)
    yield from _certainty(result)


def _concentration(result: DiffResult) -> Iterator[str]:
    summary = result.summary
    sizes = {tensor.name: tensor.relative_norm for tensor in result.tensors}
    for share in summary.outstanding:
        moved = sizes[share.name] or 0.0
        how = f", which moved by {moved:.2g} times its norm" if 2 <= moved < 1e6 else ""
        yield f"{percent(share.share)} of the change is in {share.name}{how}."
    if len(summary.top) == 1:
        yield f"All of the change is in {summary.top[0].name}."
    elif summary.top and not summary.outstanding:
        yield f"The {len(summary.top)} tensors that moved most hold {percent(summary.top_share)} of the change."
    if summary.rank_share_for_half is None or summary.rank_share_for_ninety is None:
        return
    rest = "the rest" if summary.outstanding else "it" if len(summary.top) == 1 else "the change"
    text = f"Half of {rest} lies in {percent(summary.rank_share_for_half)} of the ranks, "
    text += f"90 % in {percent(summary.rank_share_for_ninety)}"
    if summary.effective_rank_ratio is not None:
        text += f"; its effective rank is {ratio_text(summary.effective_rank_ratio)} times the base's"
    yield text + "."


def _other_tensors(result: DiffResult) -> Iterator[str]:
    titles = {
        "added": f"Tensors only in {result.b.name}",
        "removed": f"Tensors only in {result.a.name}",
        "reshaped": "Of another shape",
        "resized": "With other rows, compared where both have them",
        "replaced": "Different, but not comparable as numbers",
    }
    for status, title in titles.items():
        names = [_with_shapes(tensor) for tensor in result.tensors if tensor.status == status]
        if names:
            yield f"{title}: {listed(names)}."
    types = Counter((t.dtype_before, t.dtype) for t in result.tensors if t.dtype_before)
    for (before, after), count in types.most_common():
        yield f"{count_text(count, 'tensor')} {'is' if count == 1 else 'are'} {after} instead of {before}."


def _with_shapes(tensor: TensorDiff) -> str:
    shapes = [_shape(shape) for shape in (tensor.shape_before, tensor.shape) if shape is not None]
    return f"{tensor.name} [{' → '.join(shapes)}]"


def _files(result: DiffResult) -> Iterator[str]:
    for change in result.summary.layout:
        yield f"{change.what.capitalize()}: {change.before} → {change.after}."
    for status in ("added", "removed"):
        names = [file.name for file in result.summary.side_files if file.status == status]
        if names:
            yield f"Files only in {result.b.name if status == 'added' else result.a.name}: {listed(names)}."
    for file in result.summary.side_files:
        if file.status == "changed":
            yield _changed_file(file)


def _changed_file(file: FileChange) -> str:
    if file.keys is None:
        return f"{file.name} differs."
    if not file.keys:
        return f"{file.name} has the same values, written differently."
    changed = [
        f"{key} {_value(one)} → {_value(two)}"
        for key, (one, two) in file.keys.items()
        if one is not None and two is not None
    ]
    new = [key for key, (one, _) in file.keys.items() if one is None]
    gone = [key for key, (_, two) in file.keys.items() if two is None]
    parts = [listed(changed, 4, "; ")] if changed else []
    parts += [f"{verb} {listed(keys)}" for verb, keys in (("adds", new), ("drops", gone)) if keys]
    return f"{file.name}: {'; '.join(parts)}."


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _certainty(result: DiffResult) -> Iterator[str]:
    if not result.summary.same_base:
        paths = [side.path for side in (result.a, result.b) if side.path]
        bases = f"They have different bases ({result.a.base} and {result.b.base})"
        yield f"{'The files at ' + paths[0] + ' are not in the store' if paths else bases}: whole values were compared."
    lossy: Sequence[Compared] = [side for side in (result.a, result.b) if not side.exact and side.relative_error]
    for side in lossy:
        kept = 1 - (side.relative_error or 0.0)
        yield f"{side.name} keeps {percent(kept, 3)} of its own change (relative error {side.relative_error:.2g})."


def _table(result: DiffResult, width: int | None, limit: int | None) -> Iterator[str]:
    rows = [tensor for tensor in result.tensors if tensor.norm]
    if not rows:
        return
    shown = rows[:limit]
    largest = max((tensor.full_rank for tensor in shown if tensor.energy), default=0)
    columns = [
        Column("tensor", [tensor.name for tensor in shown], drop=0, right=False),
        Column("shape", [_shape(tensor.shape) for tensor in shown], drop=5),
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
    yield ""
    yield from table(columns, width)
    if len(rows) > len(shown):
        share = sum(tensor.share or 0.0 for tensor in rows[len(shown) :])
        yield f"and {len(rows) - len(shown)} more, with {percent(share)} of the change"
    yield ""
    yield from _wrapped(_LEGEND + (_SPECTRAL_LEGEND if largest else ""), width)


def _wrapped(text: str, width: int | None) -> list[str]:
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "1"
