"""``log``: commits, newest first."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.commit_graph import by_time, children_first
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.history.revision import require_commit
from erestore.progress import Progress, silent
from erestore.records import Commit
from erestore.store import Store, stored_bytes
from erestore.variant.error_bound import lossy_error, recorded_error

if TYPE_CHECKING:
    from erestore.analysis.similarity.ancestors import AncestorOverlap


@dataclass(frozen=True)
class LogEntry:
    """One commit; the fields are those of its JSON.

    Attributes
    ----------
    commit : str
    parents : tuple of str
    edge : str
        One of :data:`erestore.records.EDGES`.
    refs, tags : tuple of str
        Branches and tags that point to it; a tag is among both.
    author, message : str
    time : datetime
        UTC.
    stored_bytes : int
        What this commit added to the store.
    original_bytes : int
        Size of the checkpoint that was committed.
    relative_error : float or None
        None where nothing was measured: a merge has no original.
    exact : bool
    error_bound : float or None
        Where nothing was measured, an upper bound: see :func:`erestore.variant.error_bound.error_bound`.
    lossy_error : float or None
        What is left without the exact remainder.
    metrics : Mapping[str, str]
        As they were given at the commit.
    overlaps : tuple of AncestorOverlap or None
        Where asked for: how the commit's own residual lies to those of its ancestors, without the tensors.
    """

    commit: str
    parents: tuple[str, ...]
    edge: str
    refs: tuple[str, ...]
    tags: tuple[str, ...]
    author: str
    message: str
    time: datetime
    stored_bytes: int
    original_bytes: int
    relative_error: float | None
    exact: bool
    error_bound: float | None
    lossy_error: float | None
    metrics: Mapping[str, str]
    overlaps: tuple[AncestorOverlap, ...] | None = None


class Log(tuple[LogEntry, ...]):
    """Commits, newest first; a tuple that shows itself in notebooks."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from erestore.report.notebook import log_html

        return log_html(self)


def log(
    store: Store,
    revisions: Sequence[str] = (),
    *,
    limit: int | None = None,
    topological: bool = False,
    overlap: bool = False,
    products_directory: Path | None = None,
    known: MutableMapping[str, LogEntry] | None = None,
    progress: Progress = silent,
) -> Log:
    """List commits, newest first.

    Parameters
    ----------
    store : Store
    revisions : sequence of str
        Where to start; every branch and tag by default.
    limit : int, optional
        List at most this many.
    topological : bool
        Never list a parent before its children, even where the clocks of two machines disagree; reads the whole
        lineage.
    overlap : bool
        Also say how every commit's own residual lies to those of its ancestors; reads and multiplies them.
    products_directory : Path, optional
        See :func:`erestore.analysis.similarity.ancestors.ancestor_overlaps`.
    known : MutableMapping[str, LogEntry], optional
        Entries of commits of this store that were made before, by oid; grows. Of these only the names are looked up: bounds
        of errors take long where many residuals are combined, and never change.
    progress : Progress

    Returns
    -------
    Log

    Raises
    ------
    UnknownRevisionError
        If a revision names nothing.
    """
    refs = {name: entry for name, entry in store.refs.all().items() if entry.oid is not None}
    names: dict[str, list[str]] = {}
    for name, entry in refs.items():
        names.setdefault(str(entry.oid), []).append(name)
    tips = [require_commit(store, revision, "The log") for revision in revisions] or list(names)
    commits = by_time(tips, store.commit_record)
    if topological:
        commits = children_first(dict(commits))
    described, entries = {} if known is None else known, list[LogEntry]()
    for oid, commit in islice(commits, limit):
        described[oid] = described.get(oid) or _entry(store, oid, commit)
        ref_names = tuple(names.get(oid, ()))
        tags = tuple(sorted(name for name in ref_names if refs[name].kind == "tag"))
        entries.append(replace(described[oid], refs=ref_names, tags=tags))
        progress("reading", len(entries), max(len(entries), len(names)))
    if not overlap:
        return Log(entries)
    from erestore.analysis.similarity.ancestors import ancestor_overlaps

    return Log(
        replace(
            entry,
            overlaps=tuple(
                replace(ancestor, tensors=())
                for ancestor in ancestor_overlaps(
                    store, entry.commit, products_directory=products_directory, progress=progress
                )
            ),
        )
        for entry in entries
    )


def _entry(store: Store, oid: str, commit: Commit) -> LogEntry:
    """Describe a commit without its names."""
    error = recorded_error(store.objects, commit)
    try:
        lossy = lossy_error(store.objects, commit)
    except (CorruptionError, UnsupportedFormatError):  # of a residual: history can be read without it
        lossy = None
    return LogEntry(
        commit=oid,
        parents=commit.parents,
        edge=commit.edge,
        refs=(),
        tags=(),
        author=commit.author,
        message=commit.message,
        time=datetime.fromtimestamp(commit.time / 1e6, UTC),
        stored_bytes=stored_bytes(commit),
        original_bytes=commit.original_bytes,
        relative_error=error.measured,
        exact=commit.quality.get("exact") == "yes",
        error_bound=error.bound,
        lossy_error=lossy,
        metrics=commit.metrics,
    )
