"""What a user may write as the place of a store."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from posixpath import normpath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from erestore.errors import UnsupportedFormatError, UsageError

_OF_FILES = ("file", "local")
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_FOLDERS = ("sftp", "ssh", "ftp", "webdav", "webdavs", "dav", "davs", "http", "https", "smb", "hdfs", "webhdfs", "hf")
_OTHERS = ("github", "git", "dbfs", "dropbox", "gdrive", "zip", "tar", "blockcache", "filecache", "simplecache")
_UNSUPPORTED = (*_FOLDERS, *_OTHERS)
"""Protocols of fsspec that keep folders or no values at all, or cannot create exclusively."""

_KNOWN = (*_OF_FILES, "memory", *_OBJECT_STORES, *_UNSUPPORTED)
_ONE_SLASH = re.compile(rf"(?P<scheme>{'|'.join(_KNOWN)}):(?!//)/?(?P<rest>.*)", re.IGNORECASE)


_NO_FOLDERS = {"", ".", ".."}
"""What lists of keys leave out or normalise: what is written below would not be found again."""


class Location(NamedTuple):
    """Where a store is: ``file`` and a path, ``memory`` and a name, or another protocol and the whole URL."""

    scheme: str
    path: str


def parse_location(url: str | Path) -> Location:
    """Read what a user wrote as the place of a store.

    Parameters
    ----------
    url : str or Path

    Raises
    ------
    UsageError
        If it is empty, a URL that lost a slash, as paths do to URLs, or has a query, which would name something else than a
        place, or folders without a name.
    UnsupportedFormatError
        If no store can be kept by that protocol yet.
    """
    text = str(url)
    scheme, separator, rest = text.partition("://")
    if not text:
        raise UsageError("The location of the store is empty.", hint="Write a folder, or s3://bucket/path.")
    if not separator:
        _refuse_lost_slash(text)
        return Location("file", text)
    scheme = scheme.lower()  # RFC 3986, 3.1; fsspec knows them in small letters only
    text = f"{scheme}://{rest}"
    if "?" in rest:
        raise UsageError(
            f"'{text}' has a query, and a store is not in one version of one object.",
            hint=f"Leave it out: {text.partition('?')[0]}",
        )
    if scheme == "memory":
        return Location(scheme, rest)
    if scheme in _OF_FILES:
        return Location("file", _file_path(text, scheme))
    if scheme in _OBJECT_STORES and rest.startswith("/"):
        raise UsageError(
            f"'{text}' does not name a bucket.", hint=f"Write {scheme}://{rest.lstrip('/') or 'bucket/store'}"
        )
    if scheme in _OBJECT_STORES and not _NO_FOLDERS.isdisjoint(rest.rstrip("/").split("/")[1:]):
        bucket, _, folders = rest.partition("/")
        raise UsageError(
            f"'{text}' has an empty folder, '.' or '..' in it, which object stores take for names.",
            hint=f"Write {scheme}://{normpath(f'{bucket}/{folders}')}",
        )
    if scheme in _UNSUPPORTED:
        raise UnsupportedFormatError(
            f"This version keeps no stores at {scheme}:// URLs.",
            hint="Use a folder (one that is mounted from there as well), or an object store: s3://bucket/path.",
        )
    return Location(scheme, text)


def _file_path(text: str, scheme: str) -> str:
    if scheme == "local":
        return text.partition("://")[2]
    split = urlsplit(text)
    if split.netloc not in ("", "localhost"):
        raise UsageError(
            f"'{text}' names a file on the machine '{split.netloc}'.", hint=f"Write file:///{split.netloc}{split.path}"
        )
    return unquote(split.path)


def _refuse_lost_slash(text: str) -> None:
    match = _ONE_SLASH.fullmatch(text)
    parts = PurePath(text).parts
    for number, part in enumerate(parts):
        match = match or _ONE_SLASH.fullmatch("/".join(parts[number:])) if part.lower()[:-1] in _KNOWN else match
    if match:
        rest = match["rest"] if match["scheme"].lower() not in _OF_FILES else f"/{match['rest']}"
        raise UsageError(
            f"'{text}' is a URL that lost a slash, as happens where one is taken for a path.",
            hint=f"Write {match['scheme'].lower()}://{rest} and, in Python, pass it as text.",
        )
