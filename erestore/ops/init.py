"""``init``: a new, empty store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erestore.errors import TargetExistsError
from erestore.storage.local import TEMPORARY
from erestore.storage.urls import parse_location
from erestore.store import MARKER, Store


@dataclass(frozen=True)
class InitResult:
    """What ``init`` did; the fields are those of its JSON: where the store is, and its id."""

    store: str
    id: str


def init(url: str | Path, *, shared: str | None = None, repair: bool = False, **options: Any) -> InitResult:
    """Make a new, empty store.

    Parameters
    ----------
    url : str or Path
        A directory that does not exist or is empty, or any URL that fsspec knows.
    shared : str, optional
        For a directory: who may write besides its owner; ``group``, ``all`` (who may read as well) or ``umask``. By default
        as the mode of the directory says, or of the group's (setgid) that it is in.
    repair : bool
        Write a new marker for a store whose own is missing or damaged, and make nothing else.
    **options
        See :func:`erestore.storage.open.open_storage`.

    Returns
    -------
    InitResult

    Raises
    ------
    TargetExistsError
        If there is a store, or a directory that holds something else.
    UnsafeRemoteError
        If the remote lacks atomic create-if-absent.
    """
    scheme, path = parse_location(url)
    if repair:
        store = Store.repair(url, **options)
        return InitResult(store.url, store.id)
    if scheme == "file":
        directory = Path(path)
        if not (directory / MARKER).exists() and _holds_files(directory):
            raise TargetExistsError(
                f"'{directory}' holds other files, and a store needs a directory of its own.",
                hint=f"`erestore init {directory / '.erestore'}` makes one inside it.",
            )
    store = Store.init(url, shared=shared, **options)
    return InitResult(store.url, store.id)


def _holds_files(directory: Path) -> bool:
    """Return whether there is something besides what an ``init`` that was killed has left."""
    return directory.is_dir() and not all(path.name.startswith(TEMPORARY) for path in directory.iterdir())
