"""``branch``: list, make, delete and rename branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from erestore.errors import ConflictError, TargetExistsError
from erestore.history.branch_filter import matching, ordered
from erestore.history.revision import require_commit
from erestore.operation import Operation
from erestore.storage.leases import Lease
from erestore.storage.refs import RefEntry, check_name
from erestore.store import Store, stored_bytes
from erestore.variant.error_bound import recorded_error


@dataclass(frozen=True)
class Branch:
    """One branch and what it points to; the fields are those of its JSON.

    Attributes
    ----------
    name, commit, edge : str
    base : str
        Name of the base; the branch's own where it is one.
    stored_bytes, original_bytes : int
    relative_error : float or None
    exact : bool
    error_bound : float or None
        Where `relative_error` was not measured, an upper bound, if one follows from what is recorded.
    time : datetime
        When the commit was made, UTC.
    message : str
    metrics : Mapping[str, str]
        Recorded with the commit.
    """

    name: str
    commit: str
    edge: str
    base: str
    stored_bytes: int
    original_bytes: int
    relative_error: float | None
    exact: bool
    time: datetime
    message: str
    error_bound: float | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BranchChange:
    """How one branch was changed: its commit before and after (None: there was, or is, no such branch).

    Attributes
    ----------
    name : str
    before, after : str or None
    operation : str
        For ``undo``.
    variants : tuple of str
        After the deletion of a base: branches and tags that go on using its tensors.
    """

    name: str
    before: str | None
    after: str | None
    operation: str
    variants: tuple[str, ...] = ()


def branches(store: Store, *, sort: str = "name", where: Sequence[str] = ()) -> tuple[Branch, ...]:
    """List the branches.

    Parameters
    ----------
    store : Store
    sort : str
        ``name``, ``time``, ``size``, ``error`` or a metric, with a ``-`` in front for the other way round; see
        :func:`erestore.history.branch_filter.ordered`.
    where : sequence of str
        Conditions on metrics, such as ``acc>=0.8`` or ``task=mnli``, which all have to hold.

    Raises
    ------
    UsageError
        If `sort` or a condition cannot be read.
    """
    matching((), where)  # refuses what is no condition before anything is read
    names = {store.manifest_of(oid).base: name for name, oid in store.base_commits().items()}
    listed = []
    for name, entry in store.refs.all().items():
        if entry.oid is None or entry.kind != "branch":
            continue
        commit = store.commit_record(entry.oid)
        manifest = store.manifest(commit)
        error = recorded_error(store.objects, commit, manifest)
        listed.append(
            Branch(
                name=name,
                commit=entry.oid,
                edge=commit.edge,
                base=name if commit.edge == "imported" else names.get(manifest.base, manifest.base[:12]),
                stored_bytes=stored_bytes(commit),
                original_bytes=commit.original_bytes,
                relative_error=error.measured,
                exact=commit.quality.get("exact") == "yes",
                time=datetime.fromtimestamp(commit.time / 1e6, UTC),
                message=commit.message,
                error_bound=error.bound,
                metrics=dict(commit.metrics),
            )
        )
    return tuple(matching(ordered(listed, sort), where))


def branch(store: Store, name: str, revision: str, *, force: bool = False) -> BranchChange:
    """Make a branch, or with `force` move an existing one.

    Raises
    ------
    TargetExistsError
        If there is a branch or tag of that name (a tag never moves).
    UnknownRevisionError
        If `revision` names nothing.
    """
    check_name(name)
    operation = store.begin()
    with Lease(store.storage, "writer", operation.writer) as lease:
        oid = require_commit(store, revision, "A branch")
        entry = store.refs.read(name)
        if entry is not None and entry.oid is not None:
            if entry.kind == "tag":
                raise TargetExistsError(
                    f"'{name}' is a tag, and a tag never moves.", hint="Give the branch another name."
                )
            if not force:
                raise TargetExistsError(
                    f"There is a branch '{name}' already.",
                    hint=f"`erestore branch --force {name} {revision}` moves it; `erestore undo` takes that back.",
                )
            store.require_forward(name, entry.oid, (oid,))
        lease.confirm()
        _move(store, operation, entry, name, oid, message=f"branch: {revision}")
    return BranchChange(name, entry.oid if entry else None, oid, operation.id)


def delete_branches(store: Store, names: Sequence[str]) -> tuple[BranchChange, ...]:
    """Delete branches; what they pointed to stays until garbage collection, and ``undo`` brings all of them back.

    Raises
    ------
    UnknownRevisionError
        If one does not exist; nothing is deleted then.
    ConflictError
        If one is a tag.
    ProtectedBranchError
        If one is protected; nothing is deleted then.
    """
    operation = store.begin()
    entries = [_existing(store, name) for name in dict.fromkeys(names)]
    for entry in entries:
        store.require_forward(entry.name, entry.oid, ())
    gone = {entry.name for entry in entries}
    changes = []
    for entry in entries:
        assert entry.oid is not None
        variants: tuple[str, ...] = ()
        if store.commit_record(entry.oid).edge == "imported":
            variants = _variants(store, store.manifest_of(entry.oid).base, gone)
        with store.storage.spending_reserve():
            _move(store, operation, entry, entry.name, None, message="deleted")
        changes.append(BranchChange(entry.name, entry.oid, None, operation.id, variants))
    return tuple(changes)


def rename_branch(store: Store, old: str, new: str) -> BranchChange:
    """Give a branch another name; its log stays under the old one.

    Raises
    ------
    UnknownRevisionError
        If there is no branch `old`.
    TargetExistsError
        If there is a `new` already.
    ProtectedBranchError
        If `old` is protected.
    """
    check_name(new)
    operation = store.begin()
    with Lease(store.storage, "writer", operation.writer) as lease:
        entry = _existing(store, old)
        store.require_forward(old, entry.oid, ())
        target = store.refs.read(new)
        if target is not None and target.oid is not None:
            raise TargetExistsError(f"There is a '{new}' already.", hint="Delete it first, or choose another name.")
        lease.confirm()
        # The new name first: whatever happens in between, the commit keeps a name.
        _move(store, operation, target, new, entry.oid, message=f"renamed from {old}")
        _move(store, operation, entry, old, None, message=f"renamed to {new}")
    return BranchChange(new, None, entry.oid, operation.id)


def _existing(store: Store, name: str) -> RefEntry:
    entry = store.ref(name)
    if entry.kind == "tag":
        raise ConflictError(f"'{name}' is a tag, not a branch.", hint=f"`erestore tag -d {name}` deletes it.")
    return entry


def _variants(store: Store, base: str, besides: set[str]) -> tuple[str, ...]:
    entries = store.refs.all().values()
    return tuple(
        entry.name
        for entry in entries
        if entry.oid is not None and entry.name not in besides and store.manifest_of(entry.oid).base == base
    )


def _move(
    store: Store, operation: Operation, entry: RefEntry | None, name: str, oid: str | None, *, message: str
) -> None:
    store.refs.update(
        name,
        oid,
        expected=entry.number if entry else 0,
        kind="branch",
        operation=operation.id,
        writer=operation.writer,
        message=message,
    )
