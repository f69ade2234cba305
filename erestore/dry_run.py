"""Dry runs: a store on top of another, or of none, that is forgotten afterwards.

A verb that runs there does all that it would do, and so says exactly what would come out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from erestore.storage.local import LocalStorage
from erestore.storage.overlay import Overlay
from erestore.store import Store

_S = TypeVar("_S", bound=Store)


@contextmanager
def scratch_store(store: _S) -> Iterator[_S]:
    """Show a store whose writes go to a temporary directory, which is removed on leaving; the store stays as it is."""
    with _directory() as place:
        yield store.on(Overlay(store.storage, LocalStorage(place), refresh=False))


@contextmanager
def empty_store(kind: type[_S]) -> Iterator[_S]:
    """Make an empty store in a temporary directory, which is removed on leaving."""
    with _directory() as place:
        yield kind.init(place / "store")


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="erestore-dry-run-", ignore_cleanup_errors=True) as place:
        yield Path(place)
