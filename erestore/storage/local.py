"""A storage in a directory of this machine or of a network file system.

Values are written to a temporary file beside their final place, flushed to the disk, and given their name by a hard
link, which fails when the name is taken: readers see nothing or everything, and one of many writers wins. The system
calls are made directly: fsspec's local files are neither atomic nor exclusive, and cost start-up time.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from erestore.errors import AccessError, KeyNotFoundError
from erestore.storage import reserve
from erestore.storage.abc import Data, Entry, Storage
from erestore.storage.access import access_error, is_full, refusals
from erestore.storage.keys import FOLDERS, check_key, is_component, is_own_folder, is_own_key
from erestore.storage.publish import publish
from erestore.storage.reserve import Reserve
from erestore.storage.sharing import Permissions, make_folder, permissions, widen

TEMPORARY = "#new-"
"""How names of unfinished files start; '#' is in no key."""

_TEMPORARY = re.compile(rf"{TEMPORARY}[0-9a-f]{{16}}")

_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}  # directories of some network file systems
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStorage(Storage):
    """Files below one directory, which is made by the first write.

    Parameters
    ----------
    directory : Path or str
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory).absolute()
        self.url = str(directory)
        self.shared = "folder"
        self._ignores_case: bool | None = None
        self._durable: set[Path] = set()
        self._reserve = Reserve(self.directory)

    @property
    def ignores_case(self) -> bool:
        """See :attr:`Storage.ignores_case`; what is there is looked for under another spelling."""
        if self._ignores_case is None:
            with suppress(OSError):
                names = {name for name in os.listdir(self.directory) if is_component(name)}  # noqa: PTH208 - names only
                other = next((name.swapcase() for name in names if name.swapcase() not in names), None)
                if other is not None:
                    self._ignores_case = self._path(other).exists()
        return bool(self._ignores_case)

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        return self._read(key, 0, -1)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        return self._read(key, start, max(0, stop - start))

    def _read(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        try:
            with path.open("rb") as file:  # never a memory map: a file truncated under one kills the process
                available = max(0, os.fstat(file.fileno()).st_size - start)  # read() allocates what it is asked for
                file.seek(start)
                return file.read(available if length < 0 else min(length, available))
        except _ABSENT:
            raise KeyNotFoundError(key) from None
        except OSError as error:
            raise access_error(error, "read", path) from error

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`."""
        target = self._path(key)
        if self._refresh(target):
            return False
        if not isinstance(data, bytes):
            return self._create(target, data)
        while True:
            try:
                return self._create(target, (data,))
            except AccessError as error:
                if not (is_full(error) and self._reserve.spend()):
                    raise

    def _create(self, target: Path, chunks: Iterable[bytes]) -> bool:
        temporary = target.with_name(TEMPORARY + secrets.token_hex(8))
        try:
            self._write(temporary, target, chunks)
            with refusals("write", target):
                created = publish(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
        if not created:
            self._refresh(target)
        with refusals("write", target):
            _flush_directory(target.parent)
        return created

    def _write(self, temporary: Path, target: Path, chunks: Iterable[bytes]) -> None:
        descriptor = self._open_new(temporary, target)
        try:
            with refusals("write", target):
                self._keep_directory(target.parent)
            for chunk in chunks:  # what the caller's iterator raises is not a refusal of ours
                with refusals("write", target):
                    _write_all(descriptor, chunk)
            with refusals("write", target):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open_new(self, temporary: Path, target: Path) -> int:
        for _ in range(100):
            with refusals("write", target):
                bits = self._permissions
                if target.parent not in self._durable:
                    make_folder(target.parent, bits.folder)
                # Somebody may remove a directory that is still empty before the file is in it.
                with suppress(FileNotFoundError):
                    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                    if bits.file:
                        widen(descriptor, bits.file)
                    return descriptor
                self._durable.discard(target.parent)
        raise AccessError(
            f"Cannot write '{target}': its directory keeps disappearing.",
            hint="Another program removes directories of this store; stop it.",
        )

    @property
    def _permissions(self) -> Permissions:
        return permissions(self.directory, self.shared)

    def share(self, shared: str) -> None:
        """Let new and existing files and folders of the store have the permissions of a way of sharing.

        What somebody else put into the store's folder is left as it is, and so is what other users own.

        Parameters
        ----------
        shared : str
            One of :data:`erestore.storage.sharing.CHOICES`.
        """
        self.shared = shared
        bits = self._permissions
        if self.directory.is_dir():
            widen(self.directory, bits.folder)
        for folder, names in self._walk():
            paths = {name: (folder / name).relative_to(self.directory).as_posix() for name in names}
            files = [name for name, path in paths.items() if is_own_key(path) or path in reserve.NAMES]
            for name in files:
                widen(folder / name, bits.file)
            if files or is_own_folder(folder.relative_to(self.directory).as_posix()):
                for part in (folder, *folder.parents):
                    if part == self.directory:
                        break
                    widen(part, bits.folder)

    def _keep_directory(self, directory: Path) -> None:
        """See to it that a power failure cannot take away the name of `directory`, which has a file in it by now."""
        if directory in self._durable:
            return
        for part in (directory, *directory.parents):
            if part == self.directory.parent:
                break
            _flush_directory(part.parent)
        self._durable.add(directory)

    def _refresh(self, target: Path) -> bool:
        """Return whether `target` exists, making it look young to a concurrent garbage collection."""
        try:
            os.utime(target)
        except _ABSENT:
            return False
        except OSError:  # another user's file, or a read-only file system
            return target.exists()
        return True

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        path = self._path(key)
        with refusals("read", path):
            return path.is_file()

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        folder, _, start = prefix.rpartition("/")
        directory = self._path(folder) if folder else self.directory
        return self._scan(directory, f"{folder}/" if folder else "", start)

    def _scan(self, directory: Path | str, key: str, start: str, *, linked: bool = False) -> Iterator[Entry]:
        try:
            with refusals("list", directory), os.scandir(directory) as scan:
                entries = [entry for entry in scan if entry.name.startswith(start) and is_component(entry.name)]
        except AccessError as error:
            if isinstance(error.__cause__, _ABSENT):
                return
            raise
        for entry in entries:
            if entry.is_dir():
                # A link may lead to another disk; one behind a link may lead back, and so on without end.
                is_link = entry.is_symlink()
                if not (linked and is_link):
                    yield from self._scan(entry.path, f"{key}{entry.name}/", "", linked=linked or is_link)
                continue
            with suppress(FileNotFoundError):  # deleted since it was listed
                status = entry.stat()
                yield Entry(key + entry.name, status.st_size, status.st_mtime)

    def delete(self, key: str) -> None:
        """See :meth:`Storage.delete`."""
        path = self._path(key)
        try:
            path.unlink()
        except _ABSENT:
            return
        except OSError as error:
            raise access_error(error, "delete", path) from error

    def reserve(self) -> None:
        """See :meth:`Storage.reserve`."""
        self._reserve.fill(self._permissions)

    def spending_reserve(self) -> AbstractContextManager[None]:
        """See :meth:`Storage.spending_reserve`."""
        return self._reserve.spending(self._permissions)

    def remove_unfinished(self, before: float) -> int:
        """See :meth:`Storage.remove_unfinished`: temporary files of writers that were killed; and empty directories."""
        removed = 0
        for folder, names in self._walk():
            is_own = is_own_folder(folder.relative_to(self.directory).as_posix())
            for path in (folder / name for name in names if is_own or _TEMPORARY.fullmatch(name)):
                if not path.name.startswith(TEMPORARY):
                    continue
                with refusals("delete", path), suppress(FileNotFoundError):  # its writer is done
                    if path.stat().st_mtime < before:
                        path.unlink()
                        removed += 1
            if is_own:
                with suppress(OSError):  # not empty, or not any more
                    if folder.stat().st_mtime < before:
                        folder.rmdir()
        return removed

    def _walk(self) -> Iterator[tuple[Path, Sequence[str]]]:
        """Yield the folders that may hold values, and the names of the files in each, the innermost first."""
        for name in FOLDERS:
            for folder, _, names in os.walk(self.directory / name, topdown=False):
                yield Path(folder), names
        with suppress(FileNotFoundError):
            yield self.directory, [path.name for path in self.directory.iterdir() if path.is_file()]

    def _path(self, key: str) -> Path:
        return self.directory / check_key(key)


def _write_all(descriptor: int, chunk: bytes) -> None:
    rest = memoryview(chunk).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _flush_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # entered but not listed: what is made there cannot be flushed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(descriptor)
