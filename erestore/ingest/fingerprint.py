"""Telling whether two checkpoints are the same, without keeping either."""

from __future__ import annotations

from blake3 import blake3

from erestore.arrays import as_array, raw_bytes
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.streams import file_blocks


def original_digest(checkpoint: Checkpoint) -> str:
    """Return the BLAKE3 of everything that a commit keeps: names, dtypes, shapes, ties, values and side files."""
    hasher = blake3()
    for name in sorted(checkpoint.tensors):
        info = checkpoint.tensors[name]
        hasher.update(f"{name} {info.dtype} {list(info.shape)}\0".encode())
        hasher.update(raw_bytes(as_array(checkpoint.read(name))))
    hasher.update(repr(sorted(checkpoint.ties)).encode())
    for name, path in sorted(checkpoint.side_files.items()):
        hasher.update(f"{name} {path.stat().st_size}\0".encode())
        for block in file_blocks(path):
            hasher.update(block)
    return str(hasher.hexdigest())
