"""``tag``: names that never move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from erestore.errors import ConflictError, TargetExistsError
from erestore.history.revision import require_commit
from erestore.storage.leases import Lease
from erestore.storage.refs import check_name
from erestore.store import Store


@dataclass(frozen=True)
class Tag:
    """One tag: name, commit, message, and when it was made (UTC); the fields are those of its JSON."""

    name: str
    commit: str
    message: str
    time: datetime


@dataclass(frozen=True)
class TagChange:
    """How one tag was changed: its commit before and after (None: there was, or is, no such tag), and the operation."""

    name: str
    before: str | None
    after: str | None
    operation: str


def tags(store: Store) -> tuple[Tag, ...]:
    """List the tags, sorted by name."""
    return tuple(
        Tag(name, entry.oid, entry.message, datetime.fromtimestamp(entry.time / 1e6, UTC))
        for name, entry in store.refs.all().items()
        if entry.oid is not None and entry.kind == "tag"
    )


def tag(store: Store, name: str, revision: str, *, message: str = "") -> TagChange:
    """Give a commit a name that never moves.

    Parameters
    ----------
    store : Store
    name, revision : str
    message : str
        By default the revision as it was given.

    Raises
    ------
    TargetExistsError
        If there is a tag or branch of that name, even for the same commit.
    UnknownRevisionError
        If `revision` names nothing.
    """
    check_name(name)
    operation = store.begin()
    with Lease(store.storage, "writer", operation.writer) as lease:
        oid = require_commit(store, revision, "A tag")
        entry = store.refs.read(name)
        if entry is not None and entry.oid is not None:
            if entry.kind == "branch":
                raise TargetExistsError(f"There is a branch '{name}' already.", hint="Give the tag another name.")
            raise TargetExistsError(
                f"The tag '{name}' exists, and a tag never moves.",
                hint=f"Choose another name, or delete it first: erestore tag -d {name}",
            )
        lease.confirm()
        store.refs.update(
            name,
            oid,
            expected=entry.number if entry else 0,
            kind="tag",
            operation=operation.id,
            writer=operation.writer,
            message=message or revision,
        )
    return TagChange(name, None, oid, operation.id)


def delete_tags(store: Store, names: Sequence[str]) -> tuple[TagChange, ...]:
    """Delete tags; ``undo`` brings all of them back.

    Raises
    ------
    UnknownRevisionError
        If one does not exist; nothing is deleted then.
    ConflictError
        If one is a branch.
    """
    operation = store.begin()
    entries = [store.ref(name) for name in dict.fromkeys(names)]
    for entry in entries:
        if entry.kind != "tag":
            raise ConflictError(
                f"'{entry.name}' is a branch, not a tag.", hint=f"`erestore branch -d {entry.name}` deletes it."
            )
    for entry in entries:
        with store.storage.spending_reserve():
            store.refs.update(
                entry.name,
                None,
                expected=entry.number,
                kind="tag",
                operation=operation.id,
                writer=operation.writer,
                message="deleted",
            )
    return tuple(TagChange(entry.name, entry.oid, None, operation.id) for entry in entries)
