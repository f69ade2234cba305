"""Arguments that were given in the wrong order: the hint says the right one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erestore.api import Store
from erestore.errors import ErestoreError, UnknownRevisionError


@contextmanager
def hint_at_order(store: Store, command: str, wanted: str | None, other: str | None, *, first: str) -> Iterator[None]:
    """Where `wanted` names no revision but `other` does, say in the error's hint how the two are meant.

    Parameters
    ----------
    store : Store
    command : str
        As it would be right, after ``erestore``.
    wanted, other : str or None
        What stood where a revision is taken, and the argument beside it.
    first : str
        What comes first, in words.
    """
    try:
        yield
    except UnknownRevisionError as error:
        if wanted is not None and other is not None and error.revision == wanted and _is_revision(store, other):
            if first == "path" and not Path(wanted).exists():
                raise
            error.hint = f"The {first} comes first: `erestore {command}`."
        raise


def _is_revision(store: Store, text: str) -> bool:
    try:
        store.resolve(text)
    except ErestoreError:
        return False
    return True
