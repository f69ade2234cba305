"""``reflog``: where names pointed before, and which operation moved them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from erestore.errors import UnknownRevisionError
from erestore.storage.reflogs import in_order, read_reflogs
from erestore.store import Store


@dataclass(frozen=True)
class ReflogEntry:
    """One move of a name; the fields are those of its JSON.

    Attributes
    ----------
    ref : str
    selector : str
        Revision that names the commit after this move: ``name@{n}``.
    kind : str
        ``branch`` or ``tag``.
    commit, previous : str or None
        After and before; None where there was no such name.
    operation : str
        Id of the operation; moves of one operation share it.
    undoes : str or None
        Id of the operation that was taken back.
    time : datetime
        UTC, by the clock of who moved it.
    message : str
    """

    ref: str
    selector: str
    kind: str
    commit: str | None
    previous: str | None
    operation: str
    undoes: str | None
    time: datetime
    message: str


def reflog(store: Store, name: str | None = None, *, limit: int | None = None) -> tuple[ReflogEntry, ...]:
    """List moves, newest first.

    Parameters
    ----------
    store : Store
    name : str, optional
        Branch or tag, deleted ones included; by default all.
    limit : int, optional
        List at most this many.

    Raises
    ------
    UnknownRevisionError
        If there never was such a name.
    """
    logs = read_reflogs(store.storage)
    if name is not None and name not in logs:
        raise UnknownRevisionError(name, store.near(name))
    back = {logged.key: back for log in logs.values() for back, logged in enumerate(reversed(log))}
    moves = [
        ReflogEntry(
            ref=logged.name,
            selector=f"{logged.name}@{{{back[logged.key]}}}",
            kind=entry.kind,
            commit=entry.oid,
            previous=entry.previous,
            operation=entry.operation,
            undoes=entry.undoes,
            time=datetime.fromtimestamp(entry.time / 1e6, UTC),
            message=entry.message,
        )
        for logged in reversed(in_order(logs))
        if (entry := logged.entry) is not None and name in (None, logged.name)
    ]
    return tuple(moves[:limit])
