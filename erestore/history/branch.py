"""The next version of a branch: a lease while it is made, and one step that records it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from erestore.errors import ConflictError
from erestore.operation import Operation
from erestore.records import Commit
from erestore.storage.leases import Lease
from erestore.storage.refs import RefEntry, check_name
from erestore.store import CommitReceipt, Store

if TYPE_CHECKING:
    from erestore.ingest.variant_writer import StoredVariant

_OF_VALUE = ("relative_error", "linear_error", "lossy_error", "relative_norm", "exact", "codec")


@dataclass(frozen=True)
class NextVersion:
    """The version of a branch that is being made.

    Attributes
    ----------
    store : Store
    name : str
    operation : Operation
    lease : Lease
        Held meanwhile.
    entry : RefEntry or None
        The newest of the branch.
    """

    store: Store
    name: str
    operation: Operation
    lease: Lease
    entry: RefEntry | None

    @property
    def previous(self) -> str | None:
        """Commit that the branch is at."""
        return self.entry.oid if self.entry else None

    def require_continued(self, sources: Sequence[str]) -> None:
        """Refuse a result that is made of other commits alone where the branch is protected.

        Its former version would be a parent, but one whose value is lost.

        Raises
        ------
        ProtectedBranchError
            If none of `sources` goes back to it.
        """
        self.store.require_forward(self.name, self.previous, sources)

    def record(self, commit: Commit) -> CommitReceipt:
        """Record a commit as this version.

        Raises
        ------
        RefConflictError
            If another writer moved the branch meanwhile.
        """
        self.lease.confirm()
        return self.store.record(commit, self.name, self.operation, expected=self.entry.number if self.entry else 0)

    def record_encoded(
        self,
        stored: StoredVariant,
        former: Commit,
        *,
        parents: Sequence[str],
        edge: str,
        message: str,
        quality: Mapping[str, str],
        exact: bool,
        same_value: bool = True,
        layout_bytes: int = 0,
    ) -> tuple[Commit, CommitReceipt]:
        """Record what a variant was encoded as anew.

        Parameters
        ----------
        stored : StoredVariant
        former : Commit
            The variant's.
        parents : sequence of str
        edge, message : str
        quality : Mapping[str, str]
            What was reached.
        exact : bool
            Whether an exact remainder was written.
        same_value : bool
            Whether the metrics of `former` hold for the result.
        layout_bytes : int
            What storing a layout of its own added.
        """
        commit = encoded(
            Commit(
                manifest="",
                parents=tuple(parents),
                edge=edge,
                author=self.operation.author,
                time=self.operation.time,
                message=message,
                metrics=dict(former.metrics) if same_value else {},
                original_bytes=former.original_bytes,
            ),
            stored,
            {**quality, "exact": "yes", "relative_error": "0.0"} if exact else {**quality, "exact": "no"},
            layout_bytes,
        )
        return commit, self.record(commit)

    def record_same(self, former: Commit, *, parents: Sequence[str], edge: str, message: str) -> CommitReceipt:
        """Record a commit of the same value as another.

        Parameters
        ----------
        former : Commit
            The other.
        parents : sequence of str
        edge, message : str
        """
        commit = Commit(
            manifest=former.manifest,
            parents=tuple(parents),
            edge=edge,
            author=self.operation.author,
            time=self.operation.time,
            message=message,
            metrics=dict(former.metrics),
            quality=of_value(former),
            original_bytes=former.original_bytes,
        )
        return self.record(commit)


@contextmanager
def next_version(store: Store, name: str) -> Iterator[NextVersion]:
    """Start the next version of a branch, or its first; a lease is held until the end.

    Raises
    ------
    ConflictError
        If `name` is a tag or a base.
    """
    operation = store.begin()
    with Lease(store.storage, "writer", operation.writer) as lease:
        yield NextVersion(store, name, operation, lease, free_branch(store, name))


def encoded(commit: Commit, stored: StoredVariant, quality: Mapping[str, str], layout_bytes: int = 0) -> Commit:
    """Return a commit with what was encoded for it."""
    return replace(
        commit,
        manifest=stored.manifest_oid,
        own=stored.residuals,
        quality={"codec": "lowrank", **quality},
        stored_bytes=stored.added_bytes + layout_bytes,
    )


def of_value(commit: Commit) -> dict[str, str]:
    """Return what a commit records of its value, which a commit of the same value has too."""
    return {key: commit.quality[key] for key in _OF_VALUE if key in commit.quality}


def free_branch(store: Store, name: str) -> RefEntry | None:
    """Return the newest entry of a branch that may be moved on, or made.

    Raises
    ------
    ConflictError
        If it is a tag or a base.
    """
    entry = store.refs.read(check_name(name))
    if entry is None or entry.oid is None:
        return entry
    if entry.kind == "tag":
        raise ConflictError(f"'{name}' is a tag, and a tag never moves.", hint="Give another --name.")
    if store.commit_record(entry.oid).edge == "imported":
        raise ConflictError(f"'{name}' is a base, and a base has no versions.", hint="Give another --name.")
    return entry
