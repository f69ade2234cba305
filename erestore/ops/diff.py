"""``diff``: how far one revision is from another, tensor by tensor, and in how many ranks."""

from __future__ import annotations

import difflib
import glob
import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erestore.analysis.diff import details as page_details
from erestore.analysis.diff.base_spectra import BaseSpectra
from erestore.analysis.diff.compare import Change, Comparison, Pair
from erestore.analysis.diff.side import CheckpointSide, Side, VariantSide
from erestore.arrays import matrix_shape
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import NotFoundError, UnknownRevisionError, UsageError, similar_names
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.history.revision import Revision, open_revision, require_commit
from erestore.progress import Progress, silent
from erestore.records import dropped_tensors, relative_error
from erestore.report.summary import relative, summarise
from erestore.residual.spectrum import effective_rank, energy_captured
from erestore.results.diff import Compared, DiffResult, FileChange, LayoutChange, TensorDiff
from erestore.store import Store

if TYPE_CHECKING:
    import torch

SORTS = ("share", "norm", "erank", "energy", "name")
_LARGEST_JSON = 4 << 20


def diff(
    store: Store,
    a: str,
    b: str | Path | None = None,
    *,
    tensors: str | None = None,
    sort: str = "share",
    details: bool = False,
    spectra_directory: Path | None = None,
    progress: Progress = silent,
) -> DiffResult:
    """Compare two revisions, or a revision with a checkpoint.

    Parameters
    ----------
    store : Store
    a : str
        A revision.
    b : str or Path, optional
        A revision or, where there is none of that name, the path of a checkpoint. Without it, `a` is compared with its first
        parent.
    tensors : str, optional
        Compare only tensors whose names match this pattern (``*attention*``).
    sort : str
        Of the tensors: ``share`` of the whole squared change, relative ``norm``, ``erank`` (effective rank) or ``energy``
        (share of its own change in a tenth of the ranks), the largest first; or ``name``.
    details : bool
        Also return what a page shows: curves, rows and columns, angles; see
        :class:`erestore.results.diff_details.TensorDetails`.
    spectra_directory : Path, optional
        Where spectra of base tensors are kept between runs; see :class:`erestore.analysis.diff.base_spectra.BaseSpectra`.
    progress : Progress

    Returns
    -------
    DiffResult

    Raises
    ------
    UnknownRevisionError
        If a revision names nothing.
    NotFoundError
        If no tensor matches `tensors`.
    """
    if sort not in SORTS:
        raise UsageError(f"Tensors cannot be sorted by '{sort}'.", hint=f"Use one of {', '.join(SORTS)}.")
    if b is None:
        a, b = _parent(store, a), a
    with ExitStack() as stack:
        before, one = _open(store, a, stack)
        after, two = _open(store, b, stack)
        comparison = Comparison(one, two, BaseSpectra(spectra_directory))
        pairs = _chosen(comparison, tensors)
        changes = _compare(comparison, pairs, progress)
        total = math.fsum(change.norm**2 for change in changes if change.norm)
        tensor_diffs = [_describe(comparison, pair, change, total) for pair, change in zip(pairs, changes, strict=True)]
        spectra = {
            pair.name: change.singular_values
            for pair, change in zip(pairs, changes, strict=True)
            if change.singular_values is not None
        }
        summary = summarise(
            tensor_diffs,
            spectra,
            same_base=comparison.variants is not None,
            pattern=tensors,
            layout=_layout_changes(one, two),
            side_files=_file_changes(one, two),
        )
        more = None
        if details:
            more = page_details.details(
                comparison, pairs, changes, page_details.own_tensors(store, after.commit), progress
            )
    return DiffResult(before, after, tuple(sorted(tensor_diffs, key=_order(sort))), summary, more)


def _parent(store: Store, revision: str) -> str:
    parents = store.commit_record(require_commit(store, revision, "A comparison with the parent")).parents
    if not parents:
        raise UsageError(f"'{revision}' has no parent to compare it with.", hint="Name two revisions.")
    return parents[0]


def _open(store: Store, name: str | Path, stack: ExitStack) -> tuple[Compared, Side]:
    opened = None if isinstance(name, Path) else _look_up(store, name)
    if opened is None:
        path = Path(name).expanduser()
        checkpoint = stack.enter_context(open_checkpoint(path))
        return Compared(str(name), None, None, str(path), exact=True, relative_error=None), CheckpointSide(checkpoint)
    variant = opened.variant(store)
    base, exact = store.base_name(variant.manifest.base), opened.commit.quality.get("exact") == "yes"
    shown = _name(store, str(name), opened.oid)
    lost = relative_error(opened.commit), dropped_tensors(opened.commit)
    return Compared(shown, opened.oid, base, None, exact, *lost), VariantSide(variant)


def _look_up(store: Store, name: str) -> Revision | None:
    """Return what a name stands for, None if it is a path and nothing else."""
    try:
        return open_revision(store, name)
    except (UnknownRevisionError, UsageError):
        if Path(name).expanduser().exists():
            return None
        raise


def _name(store: Store, revision: str, oid: str | None) -> str:
    """Return what people call a commit: the revision as given, else a ref that points to it, else the start of its oid."""
    if oid is None or revision != oid:
        return revision
    return next((name for name, entry in store.refs.all().items() if entry.oid == oid), oid[:12])


def _chosen(comparison: Comparison, pattern: str | None) -> list[Pair]:
    pairs = comparison.pairs()
    if pattern is None:
        return pairs
    groups = {names[0]: names for side in (comparison.a, comparison.b) for names in side.ties}
    selected = [
        pair
        for pair in pairs
        if any(fnmatchcase(tied, pattern) for name in pair if name for tied in groups.get(name, (name,)))
    ]
    if not selected:
        # A pattern without a wildcard is a name.
        name = re.sub(r"\[([*?[])\]", r"\1", pattern)
        if pattern == glob.escape(name):
            raise NotFoundError(f"There is no tensor '{name}'.", hint=_near(name, pairs))
        raise NotFoundError(f"No tensor matches '{pattern}'.", hint=_near(pattern, pairs))
    return selected


def _near(pattern: str, pairs: Sequence[Pair]) -> str:
    """Return what to ask for instead of a name that no tensor has."""
    names = [pair.name for pair in pairs]
    within = [name for name in names if pattern in name]
    near = difflib.get_close_matches(pattern, within, n=3, cutoff=0.0) if within else similar_names(pattern, names)
    return f"Did you mean {' or '.join(near)}?" if near else "Use * for any part of a name: '*attention*'."


def _compare(comparison: Comparison, pairs: Sequence[Pair], progress: Progress) -> list[Change]:
    def compare(pair: Pair) -> Change:
        change = comparison.change(pair)
        if change.singular_values is not None:
            comparison.base_spectrum(pair)
        return change

    changes = []
    with tensor_threads() as executor:
        for change in bounded_map(executor, compare, pairs, in_flight=worker_count()):
            changes.append(change)
            progress("comparing", len(changes), len(pairs))
    return changes


def _describe(comparison: Comparison, pair: Pair, change: Change, total: float) -> TensorDiff:
    before = comparison.a.tensors[pair.before] if pair.before is not None else None
    after = comparison.b.tensors[pair.after] if pair.after is not None else None
    tensor = after or before
    assert tensor is not None
    norm = 0.0 if change.status in ("unchanged", "retyped") else change.norm
    full = min(matrix_shape(tensor.shape))
    rank, ratio, energy, tenth = None, None, {}, None
    if (values := change.singular_values) is not None:
        full = len(values)
        rank = effective_rank(values)
        base = comparison.base_spectrum(pair)
        ratio = rank / effective_rank(base) if base is not None and base[0] else None
        energy = _energy(values)
        tenth = energy_captured(values, [max(1, round(full / 10))])[0]
    return TensorDiff(
        name=pair.name,
        key=before.key if before else tensor.key,
        shape=tensor.shape,
        shape_before=before.shape if before and before.shape != tensor.shape else None,
        dtype=tensor.dtype,
        dtype_before=before.dtype if before and before.dtype != tensor.dtype else None,
        status=change.status,
        computed_from=change.computed_from,
        share=None if norm is None else norm**2 / total if total else 0.0,
        norm=norm,
        norm_before=change.before,
        relative_norm=None if norm is None else relative(norm, change.before or 0.0),
        effective_rank=rank,
        effective_rank_ratio=ratio,
        full_rank=full,
        energy=energy,
        energy_in_tenth=tenth,
    )


def _energy(values: torch.Tensor) -> dict[int, float]:
    ranks = [1 << power for power in range(len(values).bit_length())]
    return dict(zip(ranks, energy_captured(values, ranks), strict=True))


def _order(sort: str) -> Callable[[TensorDiff], tuple[Any, ...]]:
    """Return the key that sorts what has numbers first, then other differences, then what is unchanged."""

    def key(tensor: TensorDiff) -> tuple[Any, ...]:
        sizes = {
            "share": tensor.share,
            "norm": tensor.relative_norm,
            "erank": tensor.effective_rank,
            "energy": tensor.energy_in_tenth,
            "name": 0,
        }
        size = sizes[sort]
        group = 2 if tensor.status == "unchanged" else 0 if tensor.norm is not None or sort == "name" else 1
        return group, size is None, -(size or 0), tensor.name

    return key


def _layout_changes(a: Side, b: Side) -> tuple[LayoutChange, ...]:
    facts = {"format": (a.format, b.format), "weight files": (a.files, b.files), "tied names": (_tied(a), _tied(b))}
    return tuple(LayoutChange(what, str(one), str(two)) for what, (one, two) in facts.items() if one != two)


def _tied(side: Side) -> int:
    return sum(len(group) for group in side.ties)


def _file_changes(a: Side, b: Side) -> tuple[FileChange, ...]:
    changes = []
    for name in sorted({*a.side_files, *b.side_files}):
        if name not in b.side_files:
            changes.append(FileChange(name, "removed"))
        elif name not in a.side_files:
            changes.append(FileChange(name, "added"))
        elif (one := a.side_file(name)) != (two := b.side_file(name)):
            changes.append(FileChange(name, "changed", _changed_keys(name, one, two)))
    return tuple(changes)


def _changed_keys(name: str, one: bytes, two: bytes) -> dict[str, tuple[Any, Any]] | None:
    """Return the top-level keys of JSON objects whose values are not equal (a missing one counts as null), else None."""
    if not name.endswith(".json") or max(len(one), len(two)) > _LARGEST_JSON:
        return None
    try:
        before, after = json.loads(one), json.loads(two)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return None
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}
