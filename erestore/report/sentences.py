"""The summary of a diff in sentences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from erestore.checkpoint.module_kind import places
from erestore.report.words import listed, percent, plural, ratio_text, shape_text
from erestore.results.diff import Compared, DiffResult, FileChange, TensorDiff

_LONGEST_VALUE = 40


def sentences(result: DiffResult) -> Iterator[str]:
    """Yield the summary of a diff, sentence by sentence: how much, where, heads and vocabulary, files, what is certain."""
    a, b, summary = result.a.name, result.b.name, result.summary
    counts = summary.counts
    common = summary.tensors - counts.get("added", 0) - counts.get("removed", 0)
    matching = f" matching '{summary.pattern}'" if summary.pattern else ""
    tensors = f"{plural(common, 'tensor')}{matching}"
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
    a, b = result.a.name, result.b.name
    titles = {
        ("added", True): f"Head only in {b}",
        ("removed", True): f"Head only in {a}",
        ("reshaped", True): "Head of another shape",
        ("added", False): f"Tensors only in {b}",
        ("removed", False): f"Tensors only in {a}",
        ("reshaped", False): "Of another shape",
        ("replaced", False): "Different, but not comparable as numbers",
    }
    positions = places(tensor.name for tensor in result.tensors)
    heads = {name for name, position in positions.items() if position.kind == "head"}
    for (status, of_head), title in titles.items():
        names = [
            _with_shapes(tensor)
            for tensor in result.tensors
            if tensor.status == status and (status == "replaced" or (tensor.name in heads) == of_head)
        ]
        if names:
            yield f"{title}: {listed(names)}."
    yield from _rows(result)
    types = Counter((t.dtype_before, t.dtype) for t in result.tensors if t.dtype_before)
    for (before, after), count in types.most_common():
        yield f"{plural(count, 'tensor')} {'is' if count == 1 else 'are'} {after} instead of {before}."


def _rows(result: DiffResult) -> Iterator[str]:
    """Say what has grown or shrunk: vocabularies, for the most part."""
    changes: dict[int, list[TensorDiff]] = {}
    for tensor in result.tensors:
        if tensor.status == "resized" and tensor.shape_before:
            changes.setdefault(tensor.shape[0] - tensor.shape_before[0], []).append(tensor)
    for rows, tensors in changes.items():
        names = listed([_with_shapes(tensor) for tensor in tensors])
        yield f"{plural(abs(rows), 'row')} {'more' if rows > 0 else 'fewer'}: {names}; compared where both have them."


def _with_shapes(tensor: TensorDiff) -> str:
    shapes = [shape_text(shape) for shape in (tensor.shape_before, tensor.shape) if shape is not None]
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
        share = 1 - (side.relative_error or 0.0)
        yield f"{side.name} keeps {percent(share, 3)} of its own change (relative error {side.relative_error:.2g})."
        if side.dropped:
            tensors = "1 tensor" if side.dropped == 1 else f"{side.dropped} tensors"
            yield f"Of {tensors} that its original changed, {side.name} keeps nothing (dropped)."
