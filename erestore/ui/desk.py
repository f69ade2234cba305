"""What the views work with: the store as it is now, and threads for what takes long."""

from __future__ import annotations

from pathlib import Path

from erestore.api import Store
from erestore.ui.jobs import Jobs
from erestore.ui.snapshots import Snapshot, Snapshots

READERS = 2
"""Threads that read the store; what is computed from weights has one of its own, so that it never holds up a list."""


class Desk:
    """A store that is being looked at.

    Parameters
    ----------
    store : Store
    products_directory, spectra_directory : Path or None
        See :meth:`erestore.api.Store.similar` and :meth:`erestore.api.Store.diff`.

    Attributes
    ----------
    reading, computing : Jobs
    """

    def __init__(self, store: Store, products_directory: Path | None, spectra_directory: Path | None) -> None:
        self.products_directory, self.spectra_directory = products_directory, spectra_directory
        self.reading, self.computing = Jobs(READERS), Jobs(1)
        self._snapshots = Snapshots(store)

    def now(self) -> Snapshot:
        """Return the store as it is now."""
        return self._snapshots.now()
