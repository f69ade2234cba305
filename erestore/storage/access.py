"""What the operating system refuses, as one sentence with a next step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erestore.errors import AccessError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_PERMISSION = {errno.EACCES, errno.EPERM}


@contextmanager
def refusals(doing: str, path: Path | str) -> Iterator[None]:
    """Turn an OSError in the body into an AccessError that says what was being done to which path.

    Parameters
    ----------
    doing : str
        A verb: ``write``, ``read``, ...
    path : Path or str

    Raises
    ------
    AccessError
        In place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise access_error(error, doing, path) from error


def access_error(error: OSError, doing: str, path: Path | str) -> AccessError:
    """Name the path and the reason of a failed system call."""
    if error.errno in _NO_SPACE:
        return AccessError(
            f"There is no space left to {doing} '{path}'.",
            hint="Free some space there (or raise the quota) and repeat the command; nothing half-written is kept.",
        )
    if error.errno == errno.EROFS:
        return AccessError(
            f"Cannot {doing} '{path}': the file system is read-only.",
            hint="Mount it writable, or use a store elsewhere with --store.",
        )
    if error.errno in _NO_PERMISSION:
        return AccessError(
            f"There is no permission to {doing} '{path}'.",
            hint="Ask its owner for access, or use a store elsewhere with --store.",
        )
    reason = error.strerror or type(error).__name__
    return AccessError(f"Cannot {doing} '{path}': {reason}.", hint="Check the disk and the path, then repeat.")


def is_full(error: AccessError) -> bool:
    """Return whether the disk, or what its owner may use of it, is full."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
