"""Give a finished file its final name unless something already has it: the atomic step of local writes."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from erestore.errors import UnsafeRemoteError

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # Linux, renameat2(2)
_RENAME_EXCL = 4  # macOS, renamex_np(2)


def publish(finished: Path, target: Path) -> bool:
    """Make `finished` appear as `target` if nothing is there; afterwards `finished` is gone or may be removed.

    Returns
    -------
    bool
        False if `target` existed; it is untouched then.

    Raises
    ------
    UnsafeRemoteError
        If the file system can do this neither by a hard link nor by a rename that refuses to replace.
    OSError
        Whatever else the system refuses.
    """
    try:
        os.link(finished, target)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then reports our own link as a stranger's.
        return target.exists() and finished.samefile(target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _rename_without_replacing(finished, target)
    return True


def _rename_without_replacing(finished: Path, target: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    old, new = os.fsencode(finished), os.fsencode(target)
    if sys.platform == "darwin":
        failed = libc.renamex_np(old, new, _RENAME_EXCL)
    elif hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE)
    else:
        failed = -1
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number in _CANNOT:
        raise UnsafeRemoteError(
            f"The file system of '{target.parent}' has neither hard links nor renames that refuse to replace, so "
            "concurrent writers would lose data.",
            hint="Put the store on another file system.",
        )
    raise OSError(number, os.strerror(number), str(target))
