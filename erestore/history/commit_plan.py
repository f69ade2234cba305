"""Base, parents and edge type of a new commit; a base is imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from erestore.checkpoint.default_name import default_name
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import ConflictError, UnknownRevisionError, UsageError
from erestore.history.revision import require_commit
from erestore.ingest.base_writer import base_commit, import_checkpoint
from erestore.ingest.locate import find_source
from erestore.operation import Operation
from erestore.progress import Progress
from erestore.storage.leases import Lease
from erestore.storage.refs import check_name
from erestore.store import Store


@dataclass(frozen=True)
class Lineage:
    """Parent, edge type and candidate parents to encode against, of a new commit."""

    parent: str
    edge: str
    candidates: tuple[str, ...]


def find_lineage(store: Store, base: str | None, parent: str | None, previous: str | None, branch: str) -> Lineage:
    """Choose base, parents and edge of a new commit.

    Parameters
    ----------
    store : Store
    base : str or None
        A ref of the store.
    parent : str or None
        Revision that is continued.
    previous : str or None
        Commit that `branch` is at.
    branch : str

    Raises
    ------
    UsageError
        If `base` is a variant.
    ConflictError
        If the parent does not continue the branch, or is on another base.
    """
    if base is not None and store.commit_record(store.resolve(base)).edge != "imported":
        raise UsageError(f"'{base}' is a variant, not a base.", hint=f"Use --parent {base} to continue from it.")
    if parent is not None:
        oid = require_commit(store, parent, "A parent")
        if previous is not None and not store.is_ancestor(previous, oid):
            raise ConflictError(
                f"'{branch}' exists and '{parent}' does not continue it, so its versions would be lost from sight.",
                hint=f"Give another --name, or delete it first: `erestore branch -d {branch}`.",
            )
        lineage = Lineage(oid, "adapted", (oid,))
    elif previous is not None:
        lineage = Lineage(previous, "versioned", (previous, store.root(previous)))
    else:
        assert base is not None
        oid = store.resolve(base)
        return Lineage(oid, "adapted", (oid,))
    if base is not None and store.manifest_of(base).base != store.manifest_of(lineage.parent).base:
        raise ConflictError(
            f"'{parent or branch}' is not a variant of '{base}'.", hint="Give another --name, or leave --base out."
        )
    return lineage


def find_base(store: Store, base: str | None) -> tuple[str, Path | None]:
    """Return the name of a base in the store, or what was given and where it is imported from."""
    names = store.base_names()
    if base is None:
        if len(names) == 1:
            return names[0], None
        reason = "the store has none yet" if not names else f"the store has {len(names)}: {', '.join(names)}"
        raise UsageError(f"Specify the base with --base; {reason}.", hint="Add --base NAME_OR_PATH.")
    return base, None if store.has_ref(base) or _is_revision(store, base) else find_source(base)


def imported_name(base: str) -> str:
    """Return the name under which a base that is a path, or a model in the cache, is imported."""
    return check_name(base if not Path(base).expanduser().exists() else default_name(base))


def _is_revision(store: Store, base: str) -> bool:
    """Return whether a base is given by its oid or a former place of its name; a path of that name goes first."""
    if Path(base).expanduser().exists():
        return False
    try:
        store.resolve(base)
    except (UnknownRevisionError, UsageError):
        return False
    return True


@dataclass(frozen=True)
class ImportedBase:
    """A base that was imported on the way: its name, the bytes that it added, and its files that were not kept."""

    name: str
    stored_bytes: int
    left_out: Mapping[str, str]


def import_source(
    store: Store, base: str, source: Path, operation: Operation, lease: Lease, progress: Progress
) -> tuple[str, ImportedBase | None]:
    """Return the name of the base in the store, and what importing it did; None if it was there already."""
    name = imported_name(base)
    with open_checkpoint(source) as checkpoint:
        stored = import_checkpoint(store.objects, checkpoint, store.bases(), progress)
        entry = store.refs.read(name)
        if entry is not None and entry.oid is not None:
            if store.commit_record(entry.oid).manifest == stored.manifest_oid:
                return name, None
            raise ConflictError(
                f"'{name}' already names something other than {source}.",
                hint=f"`erestore import {base} --name OTHER`, then --base OTHER.",
            )
        record = base_commit(stored, checkpoint, operation.author, operation.time, "")
        lease.confirm()
        recorded = store.record(record, name, operation, expected=entry.number if entry else 0)
        return name, ImportedBase(name, recorded.stored_bytes, dict(checkpoint.left_out))
