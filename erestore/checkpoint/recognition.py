"""Telling a file's format by its content."""

from __future__ import annotations

from pathlib import Path

from erestore.checkpoint.torch_file import ZIP_MAGIC, holds_torch_archive
from erestore.errors import CheckpointError

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar", ".tar")
_PICKLE_MAGIC = b"\x80"
_LFS_MAGIC = b"version https:"


def recognise(path: Path) -> str | None:
    """Tell a file's format by its first bytes: ``safetensors``, ``torch``, or None."""
    start = _start(path)
    if path.suffix == ".safetensors" or (
        start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    ):
        return "safetensors"
    if start.startswith(ZIP_MAGIC):
        return "torch" if holds_torch_archive(path) or path.name.endswith(TORCH_SUFFIXES) else None
    return "torch" if start.startswith(_PICKLE_MAGIC) else None


def is_zip(path: Path) -> bool:
    """Return whether a torch file is of today's format, which can be memory-mapped; the one before is loaded whole."""
    return _start(path).startswith(ZIP_MAGIC)


def refuse_pointer(path: Path) -> None:
    """Refuse what a clone without Git LFS has in place of a big file."""
    if _start(path).startswith(_LFS_MAGIC):
        raise CheckpointError(
            f"'{path.name}' is a Git LFS pointer, not the weights.", hint="Fetch it with `git lfs pull`."
        )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)
