"""Writing pages to files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from erestore.checkpoint.replacing import replacing
from erestore.errors import TargetExistsError

_START = b"<!doctype html>"


def write_page(page: str, file: str) -> None:
    """Write a page in one step; what is there is replaced only if it is a page, too.

    Raises
    ------
    TargetExistsError
        If it is anything else.
    AccessError
        If it cannot be written.
    """
    target = Path(file).expanduser()
    _check(target)
    with replacing(target, is_directory=False, force=True) as place:
        place.write_text(page, encoding="utf-8")


def _check(target: Path) -> None:
    if target.is_dir():
        raise TargetExistsError(f"'{target}' is a directory.", hint="Give the name of a file.")
    held = None
    with suppress(FileNotFoundError), target.open("rb") as file:
        held = file.read(len(_START))
    if held is not None and held.lower() != _START:
        raise TargetExistsError(f"'{target}' exists and is not a page.", hint="Give another name.")
