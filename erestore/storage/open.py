"""Choose a storage by URL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erestore.storage.abc import Storage
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.urls import parse_location


def open_storage(
    url: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    cache_directory: Path | None = None,
    cache_limit_bytes: int = 20 << 30,
    single_writer: bool = False,
) -> Storage:
    """Open the storage that `url` names; nothing is read or written yet.

    Parameters
    ----------
    url : str or Path
        A path, ``file://``, ``memory://name``, or the URL of an object store (``s3://bucket/path``).
    options : Mapping[str, Any], optional
        For a remote: what its fsspec file system takes.
    cache_directory : Path, optional
        For a remote: where to keep local copies of what was read.
    cache_limit_bytes : int
        What those copies may take.
    single_writer : bool
        For a remote: skip the check that it lets one of several writers win; the caller promises to be the only one.

    Raises
    ------
    UsageError
        If `url` cannot be the place of a store.
    UnsupportedFormatError
        If it is of a protocol by which no store can be kept yet. One that is unknown is reported by the first use.
    """
    scheme, path = parse_location(url)
    if scheme == "memory":
        return MemoryStorage(path)
    if scheme == "file":
        return LocalStorage(path)
    from erestore.storage.remote import FsspecStorage

    remote = FsspecStorage(path, options)
    storage: Storage = remote
    if not single_writer:
        from erestore.storage.probe import ProbedStorage

        storage = ProbedStorage(remote)
    if cache_directory is not None:
        from erestore.storage.cache import CachedStorage

        storage = CachedStorage(storage, cache_directory, cache_limit_bytes)
    return storage
