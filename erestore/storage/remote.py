"""A storage at any URL that fsspec knows: S3 and what speaks its protocol, Google Cloud Storage, Azure.

The one thing asked of the remote is that creating a key that exists fails, whoever else is creating it. What fsspec
and the servers make of that differs; the rules here are: look first, create exclusively, and after any failure read
back, since a lost answer makes our own write look like somebody else's. :mod:`erestore.storage.probe` finds out whether
a remote keeps its word.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from erestore.errors import KeyNotFoundError, RemoteError, UnsafeRemoteError, UsageError
from erestore.storage.abc import Data, Entry, Storage
from erestore.storage.keys import check_key, is_component, is_own_object
from erestore.storage.remote_errors import is_taken_or_busy, remote_errors

PART_BYTES = 16 << 20
"""Values up to this size are sent in one request, larger ones in parts of this size."""

SMALLEST_PART = 5 << 20
"""Parts but the last may not be smaller on S3."""

_S3 = {"s3", "s3a"}
_EXCLUSIVE = _S3 | {"gs", "gcs", "az", "abfs", "abfss"}
"""Protocols whose fsspec implementation creates exclusively on the server; others look and then write."""

_OLDEST_S3FS = (2025, 7)  # the first that creates small values exclusively
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds between attempts
_UNCACHED = {"use_listings_cache": False, "skip_instance_cache": True}
_S3_CONFIGURATION = {
    # Some servers answer a range with the checksum of the whole object; what is read is verified by its oid anyway.
    "response_checksum_validation": "when_required",
}
_MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "created")


class FsspecStorage(Storage):
    """Values below a URL.

    Parameters
    ----------
    url : str
    options : Mapping[str, Any], optional
        What the file system of the URL's protocol takes; by default everything comes from the environment.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.protocol, _, rest = url.partition("://")
        self.url = f"{self.protocol}://{rest.rstrip('/')}"
        self.options = dict(options or {})

    @property
    def place(self) -> str:
        """The URL and the endpoint behind it: what tells this remote from every other."""
        client = self.options.get("client_kwargs") or {}
        endpoint = self.options.get("endpoint_url") or client.get("endpoint_url")
        fallback = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        return f"{self.url} {endpoint or (fallback if self.protocol in _S3 else '')}".rstrip()

    @property
    def is_exclusive(self) -> bool:
        """Whether fsspec passes the wish to create exclusively on to the server."""
        return self.protocol in _EXCLUSIVE

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        options = {**_UNCACHED, **self.options}
        if self.protocol in _S3:
            _require_s3fs()
            options["config_kwargs"] = {**_S3_CONFIGURATION, **options.get("config_kwargs", {})}
        if self.url.endswith("://"):
            raise UsageError(f"'{self.url}' does not name a bucket.", hint="Write for example s3://bucket/store.")
        try:
            from fsspec.core import url_to_fs

            filesystem, root = url_to_fs(self.url, **options)
        except ImportError as error:
            raise UsageError(
                f"The library for {self.protocol}:// is not installed.",
                hint=f"{error}.".replace("..", "."),
            ) from error
        except ValueError as error:
            raise UsageError(f"'{self.url}' is not a URL that can hold a store: {error}.") from error
        return filesystem, root.rstrip("/")

    @property
    def _filesystem(self) -> Any:
        return self._opened[0]

    def _path(self, key: str) -> str:
        return f"{self._opened[1]}/{check_key(key)}"

    def read(self, key: str) -> bytes:
        """See :meth:`Storage.read`."""
        return self._read(key, 0, None)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """See :meth:`Storage.read_range`."""
        if stop > start:
            return self._read(key, start, stop)
        if not self.exists(key):
            raise KeyNotFoundError(key)
        return b""

    def _read(self, key: str, start: int, stop: int | None) -> bytes:
        path = self._path(key)
        with remote_errors("read", self.url, key):
            try:
                return bytes(self._filesystem.cat_file(path, start=start, end=stop))
            except FileNotFoundError:
                raise
            except Exception:
                # A range that starts at or after the end is an error to servers, of a kind of each library's own; to us it
                # is empty.
                if self._ends_by(path, start):
                    return b""
                raise

    def _ends_by(self, path: str, start: int) -> bool:
        """Return whether a value is there and has nothing from `start` on; asking may fail as the read before it did."""
        with suppress(Exception):
            return int(self._filesystem.info(path)["size"]) <= start
        return False

    def create(self, key: str, data: Data) -> bool:
        """See :meth:`Storage.create`. Of writers of one *identical* value at one time, several may be told True."""
        if self.exists(key):
            return False
        chunks = iter((data,) if isinstance(data, bytes) else data)
        start = b"".join(_take(chunks, PART_BYTES))
        following = next(chunks, None)
        if following is None:
            return self._create_whole(key, start)
        return self._create_in_parts(key, itertools.chain((start, following), chunks), PART_BYTES)

    def put_if_absent(self, key: str, body: bytes, *, in_parts: bool = False) -> bool:
        """Do what :meth:`create` does, without looking first: for finding out what the remote itself does.

        Parameters
        ----------
        key : str
        body : bytes
            More than :data:`SMALLEST_PART` bytes where `in_parts`.
        in_parts : bool
            Send it as large values are sent.
        """
        return self._create_in_parts(key, (body,), SMALLEST_PART) if in_parts else self._create_whole(key, body)

    def _create_whole(self, key: str, body: bytes) -> bool:
        """Create in one request; what is there after a failure is ours if it is identical."""
        for pause in (*_PAUSES, None):
            try:
                with remote_errors("write", self.url, key):
                    self._filesystem.pipe_file(self._path(key), body, mode="create")
            except RemoteError as error:
                with suppress(KeyNotFoundError):
                    return self.read_range(key, 0, len(body) + 1) == body
                if pause is None or not is_taken_or_busy(error):
                    raise
                # Another creation is under way and not visible yet, or its value was deleted meanwhile.
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads retries
            else:
                return True
        raise AssertionError

    def _create_in_parts(self, key: str, chunks: Iterable[bytes], part_bytes: int) -> bool:
        """Create in many requests; what is there after a failure counts as somebody else's.

        Large values have keys that are digests of them, so the caller need not know who wrote one.
        """
        try:
            self._send_parts(key, chunks, part_bytes)
        except RemoteError as error:
            for pause in _PAUSES:
                if self.exists(key):
                    return False
                if not is_taken_or_busy(error):
                    raise
                time.sleep(pause)
            raise
        return True

    def _send_parts(self, key: str, chunks: Iterable[bytes], part_bytes: int) -> None:
        with remote_errors("write", self.url, key):
            file = self._filesystem.open(self._path(key), "xb", block_size=part_bytes)
        try:
            for chunk in chunks:  # what the caller's iterator raises is not the remote's fault
                with remote_errors("write", self.url, key):
                    file.write(chunk)
            with remote_errors("write", self.url, key):
                file.close()
        except BaseException:
            with suppress(Exception):
                file.discard()
            file.closed = True  # else its finaliser completes what was just discarded
            raise

    def exists(self, key: str) -> bool:
        """See :meth:`Storage.exists`."""
        # One request on every remote; fsspec's exists() also takes a folder for a key and lists.
        try:
            self._read(key, 0, 1)
        except KeyNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See :meth:`Storage.list`."""
        folder, _, start = prefix.rpartition("/")
        root = self._opened[1]
        narrow = {"prefix": start} if start and self.is_exclusive else {}
        try:
            with remote_errors("list", self.url, prefix):
                listing = self._filesystem.find(
                    self._path(folder) if folder else root, detail=True, withdirs=False, **narrow
                )
        except KeyNotFoundError:
            return
        for path, information in listing.items():
            key = path.removeprefix(f"{root}/")
            if key.startswith(prefix) and all(map(is_component, key.split("/"))):
                yield Entry(key, information["size"], _modified(information))

    def delete(self, key: str) -> None:
        """See :meth:`Storage.delete`."""
        with suppress(KeyNotFoundError), remote_errors("delete", self.url, key):
            self._filesystem.rm_file(self._path(key))

    def remove_unfinished(self, before: float) -> int:
        """See :meth:`Storage.remove_unfinished`: uploads in parts that were never completed (S3 only)."""
        if self.protocol not in _S3:
            return 0
        bucket, _, folder = self._opened[1].partition("/")
        removed = 0
        with remote_errors("delete", self.url, "unfinished uploads"):
            for upload in self._filesystem.list_multipart_uploads(bucket):
                key = upload["Key"].removeprefix(f"{folder}/")
                is_own = is_own_object(key) and upload["Key"] == (f"{folder}/{key}" if folder else key)
                if is_own and upload["Initiated"].timestamp() < before:
                    self._filesystem.call_s3(
                        "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    removed += 1
        return removed


def _take(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield chunks until they amount to more than `size` bytes."""
    length = 0
    while length <= size and (chunk := next(chunks, None)) is not None:
        length += len(chunk)
        yield chunk


def _modified(information: Mapping[str, Any]) -> float:
    value = next((information[field] for field in _MODIFIED if information.get(field)), 0.0)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def _require_s3fs() -> None:
    try:
        installed = version("s3fs")
    except PackageNotFoundError:
        raise UsageError("The library for s3:// is not installed.", hint="pip install 'erestore[s3]'") from None
    if tuple(int(part) for part in installed.split(".")[:2]) < _OLDEST_S3FS:
        raise UnsafeRemoteError(
            f"s3fs {installed} lets concurrent writers overwrite each other.",
            hint="pip install --upgrade 's3fs>=2025.7'",
        )
