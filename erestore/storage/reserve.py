"""Space that is kept in a store on a disk, so that on a full disk what frees space can run: it has to write a little first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from erestore.storage.sharing import Permissions, make_folder, widen

NAME = "gc/reserved space"
"""Relative path of the file; the blank is in no key."""

BYTES = 64 << 10
_STEP = 16 << 10  # freed at once: some blocks for a lease, an entry and their folders


class Reserve:
    """A file of bytes that nothing can compress, which is cut shorter where space is needed.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users = 0
        self._lock = threading.Lock()

    def fill(self, bits: Permissions) -> None:
        """Fill up to the full size, as far as the disk and the owner of the file allow."""
        with suppress(OSError):
            missing = BYTES - (self._path.stat().st_size if self._path.exists() else 0)
            if missing > 0:
                make_folder(self._path.parent, bits.folder)
                with self._path.open("ab", buffering=0) as file:
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
        """Free some space; tell whether there was any left to free, and it may be."""
        with self._lock, suppress(OSError):
            size = self._path.stat().st_size
            if self._users and size:
                os.truncate(self._path, max(0, size - _STEP))
                return True
        return False
