"""Putting a file or directory in its place all at once."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from erestore.errors import AccessError, TargetExistsError


@contextmanager
def replacing(target: Path, *, is_directory: bool, force: bool) -> Iterator[Path]:
    """Give a place to write to that becomes `target` when the block ends, and vanishes when it fails.

    The place is inside a hidden directory beside `target`, hence on the same file system, so that a rename moves it.
    With `force` what was at `target` is moved aside before and removed after that rename, and put back if it fails; what
    replaces it is on disk by then. What replaces nothing is left to the system to write when it likes, as `cp` does.

    Parameters
    ----------
    target : Path
    is_directory : bool
        Whether the block makes a directory (which is created for it) or a file (which it creates).
    force : bool
        Whether `target` may exist. Without it only an empty directory may be there.

    Raises
    ------
    TargetExistsError
        If `target` exists; with `force`, if it is a place that nobody means to lose.
    AccessError
        If there is no space or no permission.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link at the target itself
    _check_target(target, is_directory=is_directory, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.parent / f".{target.name[:40]}.erestore-{secrets.token_hex(6)}"
        hidden.mkdir()
        try:
            new = hidden / "new"
            if is_directory:
                new.mkdir()
            yield new
            is_loss = os.path.lexists(target)
            if is_loss:  # what is new can be made again; what it replaces is gone if the power fails too early
                _sync_all(new)
            _move(new, target, hidden / "old", force=force)
            if is_loss:
                _sync(target.parent)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    except OSError as error:
        raise AccessError(
            f"'{target}' cannot be written: {error.strerror or error}.",
            hint="Free some space, or choose another place."
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "Choose a place that you may write to.",
        ) from error


def _check_target(target: Path, *, is_directory: bool, force: bool) -> None:
    if not os.path.lexists(target):
        return
    is_real_directory = target.is_dir() and not target.is_symlink()
    if is_real_directory and not is_directory:
        raise TargetExistsError(
            f"'{target}' is a directory, but this checkpoint is one file.", hint="Give a file name."
        )
    if is_real_directory and not any(target.iterdir()):
        return
    if not force:
        raise TargetExistsError(f"'{target}' already exists.", hint="Choose another place, or replace it with --force.")
    if is_real_directory and (Path.cwd().is_relative_to(target.resolve()) or _holds_a_repository(target)):
        raise TargetExistsError(
            f"'{target}' is the current directory or holds a store or repository; it is not replaced.",
            hint="Choose another place.",
        )


def _holds_a_repository(path: Path) -> bool:
    return any((path / name).exists() for name in (".erestore", "erestore.json", ".git"))


def _move(new: Path, target: Path, aside: Path, *, force: bool) -> None:
    try:
        if force and os.path.lexists(target):
            _swap(new, target, aside)
        elif new.is_dir():
            new.rename(target)  # replaces an empty directory, and fails on anything else
        else:
            _link(new, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise TargetExistsError(
                f"'{target}' appeared while the checkpoint was written; it was not touched.",
                hint="Repeat with --force.",
            ) from error
        raise


def _swap(new: Path, target: Path, aside: Path) -> None:
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        aside.rename(target)
        raise


def _link(new: Path, target: Path) -> None:
    """Move a file to a name that must be free: a hard link, unlike a rename, fails if it is not."""
    try:
        os.link(new, target)
    except FileExistsError:
        raise
    except OSError:  # some file systems have no hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        new.rename(target)


def _sync_all(path: Path) -> None:
    _sync(path)
    for root, directories, files in os.walk(path):
        for name in (*directories, *files):
            _sync(Path(root, name))


def _sync(path: Path) -> None:
    with suppress(PermissionError):  # what may be written but not read cannot be synced
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
