"""Permissions of files and folders in a store that several people share, whatever the umask of who writes."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CHOICES = ("folder", "group", "all", "umask")
"""How a store is shared: as its folder's mode says, with the group, readable by all as well, or as each umask says."""


class Permissions(NamedTuple):
    """Bits that folders and files get beyond what the umask leaves."""

    folder: int = 0
    file: int = 0


_FIXED = {"group": Permissions(0o2070, 0o060), "all": Permissions(0o2075, 0o064), "umask": Permissions()}


def permissions(directory: Path, shared: str) -> Permissions:
    """Return what new folders and files of the store in `directory` get.

    With ``folder`` what counts is the mode of the store's folder, if the group may write to it; a store that is to be made
    is shared if the folder that it will be in is one of a group: writable by it, and handing it on (setgid).
    """
    if shared != "folder":
        return _FIXED[shared]
    try:
        mode = directory.stat().st_mode
    except FileNotFoundError:
        mode = next(parent for parent in directory.parents if parent.exists()).stat().st_mode
        if not mode & stat.S_ISGID:
            return Permissions()
    if not mode & stat.S_IWGRP:
        return Permissions()
    others = mode & (stat.S_IROTH | stat.S_IXOTH)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        others |= stat.S_IWOTH
    return Permissions(mode & stat.S_ISGID | 0o070 | others, 0o060 | others & 0o006)


def widen(path: Path | int, bits: int) -> None:
    """Give a file or folder, or what a descriptor stands for, more permissions; of somebody else's nothing is changed."""
    with suppress(OSError):
        mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 - descriptors, too
        if mode & bits != bits:
            os.chmod(path, mode | bits)  # noqa: PTH101


def make_folder(folder: Path, bits: int) -> None:
    """Make a folder and those above it that are missing, with permissions."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(folder.parent, bits)
        make_folder(folder, bits)
        return
    widen(folder, bits)
