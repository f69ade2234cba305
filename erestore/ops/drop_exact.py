"""``gc --drop-exact``: give up the exact remainder of a variant and keep its lossy part.

Commits are immutable: the branch moves to a copy of its commit whose manifest has no patch. What it pointed to stays
until its reflog forgets it, so ``undo`` takes this back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from erestore.errors import ConflictError, UsageError
from erestore.objects.references import Reference, walk
from erestore.records import Commit, Manifest
from erestore.storage.leases import Lease
from erestore.storage.refs import RefEntry
from erestore.store import Store
from erestore.variant.error_bound import lossy_error, require_lossy


@dataclass(frozen=True)
class DropResult:
    """What was given up, or would be in a dry run; the fields are those of the JSON.

    Attributes
    ----------
    ref, before : str
        The branch, and the commit that it pointed to.
    after : str or None
        The commit that it points to now; None in a dry run.
    patch : str
        Oid of the exact remainder.
    bytes : int
        Its stored size, which garbage collection frees once no reflog leads to `before`.
    relative_error : float
        Of what is left.
    operation : str or None
        For ``undo``; None in a dry run.
    """

    ref: str
    before: str
    after: str | None
    patch: str
    bytes: int
    relative_error: float
    operation: str | None


class _Examined(NamedTuple):
    """A branch that can do without its exact remainder, and what is said of a dry run."""

    entry: RefEntry
    commit: Commit
    manifest: Manifest
    result: DropResult


def drop_exact(store: Store, name: str, *, dry_run: bool = False) -> DropResult:
    """Move a branch to its commit without the exact remainder.

    Message, author, time, parents, metrics and residuals stay as they are.

    Parameters
    ----------
    store : Store
    name : str
        A branch.
    dry_run : bool
        Say what would be done, and do nothing.

    Returns
    -------
    DropResult

    Raises
    ------
    UnknownRevisionError
        If there is no such branch.
    UsageError
        If its commit has no exact remainder, or nothing but that.
    ConflictError
        If `name` is a tag, or something else needs the exact remainder, so that giving it up would free nothing.
    RefConflictError
        If another writer moved the branch meanwhile.
    """
    operation = store.begin()
    if dry_run:
        return _examine(store, name).result
    with Lease(store.storage, "writer", operation.writer) as lease:
        entry, commit, manifest, result = _examine(store, name)
        lossy_manifest = store.objects.put_record("manifest", replace(manifest, patch=None).to_record())
        # What the commit takes once garbage collection has taken what it took before.
        stored = commit.stored_bytes - result.bytes - store.objects.size(commit.manifest) + lossy_manifest.added_bytes
        quality = _quality(commit, result.relative_error)
        lossy = replace(commit, manifest=lossy_manifest.oid, quality=quality, stored_bytes=max(0, stored))
        lease.confirm()
        subject = "exact remainder dropped"
        recorded = store.record(lossy, name, operation, expected=entry.number, subject=subject)
    return replace(result, after=recorded.oid, operation=operation.id)


def _examine(store: Store, name: str) -> _Examined:
    """Read what is to be changed, and refuse what cannot be."""
    entry = store.ref(name)
    assert entry.oid is not None
    if entry.kind == "tag":
        raise ConflictError(f"'{name}' is a tag, and a tag never moves.", hint="Name a branch.")
    commit = store.commit_record(entry.oid)
    store.require_forward(name, entry.oid, commit.parents)
    require_lossy(commit, name, hint="Commit it again without --exact-only, or delete it.")
    manifest = store.manifest(commit)
    if manifest.patch is None:
        raise UsageError(f"'{name}' has no exact remainder.", hint="`erestore log` says which commits are exact.")
    _require_unneeded(store, entry, manifest.patch, commit.parents)
    size, error = store.objects.size(manifest.patch), lossy_error(store.objects, commit)
    if error is None:
        raise UsageError(
            f"How much '{name}' would lose without its exact remainder was not recorded.",
            hint="Commit it again: that measures it.",
        )
    result = DropResult(name, entry.oid, None, manifest.patch, size, error, None)
    return _Examined(entry, commit, manifest, result)


def _quality(commit: Commit, error: float) -> dict[str, str]:
    """Return the record of quality as if the commit had never been exact."""
    fields = {key: value for key, value in commit.quality.items() if key not in ("lossy_error", "relative_error")}
    return fields | {"relative_error": repr(error), "asked_exact": "no", "exact": "no"}


def _require_unneeded(store: Store, entry: RefEntry, patch: str, parents: Iterable[str]) -> None:
    """Refuse if anything but the branch itself leads to its exact remainder."""
    tips = {ref.oid: ref for ref in store.refs.all().values() if ref.oid and ref.name != entry.name}
    roots = [Reference("commit", oid) for oid in (*tips, *parents)]
    needed_by: dict[str, list[str]] = {}
    for visit in walk(store.objects, roots, set()):
        for needed in visit.needs:
            needed_by.setdefault(needed.oid, []).append(visit.reference.oid)
    dependents, waiting = {patch}, [patch]
    while waiting:
        for oid in needed_by.get(waiting.pop(), ()):
            if oid not in dependents:
                dependents.add(oid)
                waiting.append(oid)
    users = sorted((ref.kind, ref.name, oid) for oid, ref in tips.items() if oid in dependents)
    if users:
        kind, name, oid = users[-1]  # a tag first: it is what is forgotten most easily
        reason = _reason(store, entry, kind, oid)
        raise ConflictError(
            f"The exact remainder of '{entry.name}' is still needed by the {kind} '{name}', {reason}.",
            hint=f"`erestore {kind} -d {name}` deletes that, if it is not needed any more.",
        )
    if len(dependents) > 1:
        raise ConflictError(
            f"The exact remainder of '{entry.name}' is also that of an earlier version, '{entry.name}~1' or before.",
            hint="It stays as long as the history does.",
        )


def _reason(store: Store, entry: RefEntry, kind: str, oid: str) -> str:
    assert entry.oid is not None
    if oid == entry.oid:
        return "which names the same commit"
    if store.is_ancestor(entry.oid, oid):
        return "which goes back to it"
    return "which shares it" if kind == "tag" else "whose own exact remainder builds on it"
