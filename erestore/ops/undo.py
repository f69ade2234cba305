"""``undo``: take back an operation by pointing every name that it moved to where it pointed before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from erestore.errors import (
    AccessError,
    ConflictError,
    ErestoreError,
    MissingObjectError,
    NotFoundError,
    RefConflictError,
    RemoteError,
)
from erestore.objects.references import Reference, walk
from erestore.storage.holder import Holder
from erestore.storage.lease_records import LeaseRecord, read_leases
from erestore.storage.leases import Lease
from erestore.storage.reflogs import LoggedEntry, in_order, read_reflogs
from erestore.storage.refs import RefEntry
from erestore.storage.sequence import is_same_writer
from erestore.store import Store


@dataclass(frozen=True)
class UndoneRef:
    """One name: its commit before and after undoing (None: there was, or is, no such name)."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class UndoResult:
    """What ``undo`` did; the fields are those of its JSON.

    Attributes
    ----------
    operation : str or None
        Id of this undoing; to undo it is to redo what was undone. None for a dry run.
    undone : str
        Id of the operation that was taken back.
    message : str
        Of that operation.
    refs : tuple of UndoneRef
    time : datetime
        When that operation moved its last name, UTC.
    author : str or None
        Who ran it, as the commit that it made says; None for one that made no commit.
    dry_run : bool
    repeated : bool
        Whether an earlier call had done this and never learnt so: nothing was changed now.
    """

    operation: str | None
    undone: str
    message: str
    refs: tuple[UndoneRef, ...]
    time: datetime
    author: str | None = None
    dry_run: bool = False
    repeated: bool = False


@dataclass
class _Past:
    """One operation as the logs show it: its entries in each name, oldest first."""

    id: str
    time: int = 0
    undoes: str | None = None
    entries: dict[str, list[RefEntry]] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    """Names in which it was taken back."""

    @property
    def is_undone(self) -> bool:
        return self.entries.keys() <= self.undone

    @property
    def message(self) -> str:
        """What was done: of a commit that imported its base, the commit."""
        messages = [entries[-1].message for entries in self.entries.values()]
        return next((message for message in messages if message.removeprefix("undo: ") != "imported"), messages[0])


def undo(store: Store, operation: str | None = None, *, dry_run: bool = False) -> UndoResult:
    """Take back one operation.

    Parameters
    ----------
    store : Store
    operation : str, optional
        Start of an operation's id, of at least four digits; by default the last operation that is not an undo and has
        not been undone, so that one goes further back with every call. Undoing an undo does again what it took back. Where
        the last operation is an undo of this user on this machine that was killed, or whose answer was lost, that one
        is reported and nothing else undone.
    dry_run : bool
        Say what would be taken back, and change nothing.

    Returns
    -------
    UndoResult

    Raises
    ------
    NotFoundError
        If there is nothing to undo, no such operation, or garbage collection has taken what would come back.
    ConflictError
        If a name was moved again since, the operation was undone before, or a protected branch would be deleted or rewound;
        nothing is changed then.
    """
    if dry_run:
        return _plan(store, read_reflogs(store.storage), operation).result(store, None)
    begun = store.begin()
    with store.storage.spending_reserve(), Lease(store.storage, "writer", begun.writer) as lease:
        logs = read_reflogs(store.storage)
        if operation is None and (unanswered := _unanswered(store, _operations(logs), lease)):
            return _repeated(store, *unanswered)
        plan = _plan(store, logs, operation)
        lease.confirm()
        done: list[UndoneRef] = []
        for move in plan.moves:
            try:
                store.refs.update(
                    move.newest.name,
                    move.after,
                    expected=move.newest.number,
                    kind=move.kind,
                    operation=begun.id,
                    writer=begun.writer,
                    message=f"undo: {plan.target.message}",
                    undoes=plan.target.id,
                )
            except RemoteError as error:
                raise RemoteError(
                    f"It is not known whether '{move.newest.name}' was moved: {error.message}",
                    hint=f"`erestore undo {plan.target.id[:12]}` does it, unless it was done, and nothing else.",
                ) from error
            except RefConflictError as error:
                if not done:
                    raise
                raise ConflictError(
                    f"{error.message} Undone so far: {', '.join(ref.name for ref in done)}.",
                    hint=f"`erestore undo {plan.target.id[:12]}` undoes the rest.",
                ) from error
            done.append(move.ref)
    return plan.result(store, begun.id)


@dataclass(frozen=True)
class _Plan:
    """The operation to take back, the moves that do it, and the commits that it made."""

    target: _Past
    moves: tuple[_Move, ...]
    created: tuple[str, ...]

    def result(self, store: Store, operation: str | None) -> UndoResult:
        """Describe what was done by `operation`, or would be done where it is None."""
        return UndoResult(
            operation=operation,
            undone=self.target.id,
            message=self.target.message,
            refs=tuple(move.ref for move in self.moves),
            time=datetime.fromtimestamp(self.target.time / 1e6, UTC),
            author=_author(store, self.created),
            dry_run=operation is None,
        )


def _plan(store: Store, logs: Mapping[str, list[LoggedEntry]], operation: str | None) -> _Plan:
    past = _operations(logs)
    selected = _choose(past, operation)
    entries = reversed(selected.entries.items())  # the last move first: at no time does a commit lose its last name
    moves = tuple(_move(logs[name], moved) for name, moved in entries if name not in selected.undone)
    _require_stored(store, [move.after for move in moves if move.after])
    for move in moves:
        if move.newest.kind == "branch":
            store.require_forward(move.newest.name, move.newest.oid, (move.after,) if move.after else ())
    return _Plan(selected, moves, _created(selected, past))


def _created(selected: _Past, past: list[_Past]) -> tuple[str, ...]:
    """Return the commits that no other operation had pointed a name to: those that it made itself."""
    earlier = {
        entry.oid for other in past[: past.index(selected)] for entries in other.entries.values() for entry in entries
    }
    commits = (entry.oid for entries in selected.entries.values() for entry in entries)
    return tuple(oid for oid in commits if oid and oid not in earlier)


def _author(store: Store, commits: tuple[str, ...]) -> str | None:
    with suppress(ErestoreError):  # undoing must work where the commit itself is damaged
        for oid in commits:
            return store.commit_record(oid).author
    return None


def _operations(logs: Mapping[str, list[LoggedEntry]]) -> list[_Past]:
    """Return all operations, in the order in which they were finished, with what was taken back of each."""
    by_id: dict[str, _Past] = {}
    for entry in (logged.entry for logged in in_order(logs)):
        assert entry is not None
        past = by_id.pop(entry.operation, None) or _Past(entry.operation)
        by_id[entry.operation] = past  # at the end: what counts is its last entry
        past.undoes = entry.undoes
        past.time = max(past.time, entry.time)
        past.entries.setdefault(entry.name, []).append(entry)
    ordered = list(by_id.values())
    # An undo that was itself undone has taken nothing back: later operations decide first.
    for past in reversed(ordered):
        if past.undoes in by_id:
            by_id[past.undoes].undone |= past.entries.keys() - past.undone
    return ordered


def _choose(past: list[_Past], operation: str | None) -> _Past:
    if operation is None:
        for candidate in reversed(past):
            if candidate.undoes is None and not candidate.is_undone:
                return candidate
        raise NotFoundError("There is nothing to undo.", hint="`erestore reflog` lists all operations.")
    matches = [candidate for candidate in past if len(operation) >= 4 and candidate.id.startswith(operation)]
    if len(matches) != 1:
        reason = "There is no operation" if not matches else f"{len(matches)} operations start with"
        raise NotFoundError(f"{reason} '{operation}'.", hint="`erestore reflog` lists them; give at least 4 digits.")
    if matches[0].is_undone:
        raise ConflictError(
            f"The operation {matches[0].id[:12]} was undone already.", hint="`erestore reflog` shows by which."
        )
    return matches[0]


def _unanswered(store: Store, past: list[_Past], lease: Lease) -> tuple[_Past, LeaseRecord] | None:
    """Return the last operation if it is an undo whose lease is left: whoever called it does not know that it was done."""
    if not past or past[-1].undoes is None:
        return None
    writers = [entry.writer for entries in past[-1].entries.values() for entry in entries]
    here = Holder.current()
    records = read_leases(store.storage)
    for name in lease.others():
        content = records[name].read(store.storage) if name in records else None
        if content is None or content.holder is None:
            continue
        is_mine = (content.holder.user, content.holder.host) == (here.user, here.host)
        if is_mine and any(is_same_writer(writer, content.writer) for writer in writers):
            return past[-1], records[name]
    return None


def _repeated(store: Store, past: _Past, record: LeaseRecord) -> UndoResult:
    """Report an undo that was done before, and end the lease that its process left, where that is known to be gone."""
    holder = record.read(store.storage).holder
    for key in record.keys if holder is not None and holder.is_gone else ():
        with suppress(AccessError):
            store.storage.delete(key)
    refs = tuple(UndoneRef(name, entries[0].previous, entries[-1].oid) for name, entries in past.entries.items())
    return UndoResult(
        operation=past.id,
        undone=str(past.undoes),
        message=past.message.removeprefix("undo: "),
        refs=refs,
        time=datetime.fromtimestamp(past.time / 1e6, UTC),
        repeated=True,
    )


class _Move(NamedTuple):
    """How to take back an operation in one name: the newest entry, and the commit and kind that it had before."""

    newest: RefEntry
    after: str | None
    kind: str

    @property
    def ref(self) -> UndoneRef:
        return UndoneRef(self.newest.name, self.newest.oid, self.after)


def _move(log: list[LoggedEntry], entries: list[RefEntry]) -> _Move:
    """Return how to take back an operation's entries in one name.

    What matters is where the name points, not how often it was moved: after an undo it points there again.
    """
    newest = log[-1].entry
    if newest is None:
        raise log[-1].error or ConflictError(f"The log of '{log[-1].name}' is damaged.")
    if newest.oid != entries[-1].oid:
        raise ConflictError(
            f"'{newest.name}' was moved again since that operation.",
            hint=f"Undo the later one first: it is operation {newest.operation[:12]}.",
        )
    return _Move(newest, entries[0].previous, entries[0].kind)


def _require_stored(store: Store, commits: list[str]) -> None:
    """Make sure that garbage collection has not taken what names are to point to."""
    gone: list[Reference] = []

    def note(reference: Reference, error: ErestoreError) -> None:
        if not isinstance(error, MissingObjectError):
            raise error
        gone.append(reference)

    visits = list(walk(store.objects, [Reference("commit", oid) for oid in commits], set(), note))
    gone += [visit.reference for visit in visits if not visit.needs and not store.objects.exists(visit.reference.oid)]
    if gone:
        raise NotFoundError(
            f"Cannot undo: the {gone[0].kind} {gone[0].oid[:12]} is no longer in the store.",
            hint="Garbage collection deletes what no branch or tag has pointed to for gc.reflog_days (see `erestore config`).",
        )
