"""Space that is kept in a store on a disk, so that on a full disk what frees space can run: it has to write a little first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from erestore.storage.sharing import Permissions, make_folder, widen

NAMES = ("gc/reserved space", *(f"gc/reserved space {number}" for number in range(2, 17)))
"""Relative paths of the files; the blank is in no key."""

BYTES = 4 << 10
"""Of each file: a block, and an entry in the table of files, for a lease, an entry of a log or a folder."""


class Reserve:
    """Files of bytes that nothing can compress, which are removed where space is needed, or where files are counted.

    Parameters
    ----------
    directory : Path
        Of the store.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = tuple(directory / name for name in NAMES)
        self._users = 0
        self._lock = threading.Lock()

    def fill(self, bits: Permissions) -> None:
        """Fill up to the full size, as far as the disk and the owners of the files allow."""
        with suppress(OSError):
            for path in self._paths:
                missing = BYTES - (path.stat().st_size if path.exists() else 0)
                if missing > 0:
                    make_folder(path.parent, bits.folder)
                    with path.open("ab", buffering=0) as file:
                        widen(file.fileno(), bits.file)
                        file.write(os.urandom(missing))

    @contextmanager
    def spending(self, bits: Permissions) -> Iterator[None]:
        """Let :meth:`spend` do something in the body; fill up afterwards."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
            self.fill(bits)

    def spend(self) -> bool:
        """Free some space; return whether there was any left to free, and it may be."""
        with self._lock:
            for path in self._paths if self._users else ():
                with suppress(OSError):  # spent before, or not this user's to remove
                    path.unlink()
                    return True
        return False
