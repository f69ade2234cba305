"""Writing one torch file in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import tensor_bytes, torch_dtype, torch_shape
from erestore.checkpoint.skeleton import assemble
from erestore.checkpoint.streams import Block, FileExtent, Work, write_tensors

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64
"""As torch aligns the storages in its own files."""


def write_torch(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    ties: Sequence[Sequence[str]],
    structure: Any,
    read: Callable[[str], Iterable[Block]],
    work: Work = map,
) -> None:
    """Write one new file that ``torch.load(weights_only=True)`` reads.

    ``torch.save`` takes whole tensors; these are maps of a temporary file beside `path`, so that the system can drop
    them from memory.

    Parameters
    ----------
    path : Path
        Must not exist.
    tensors : Mapping[str, TensorInfo]
        By name, in the order to be written.
    ties : sequence of sequences of str
        Names that are to share memory; the first of each group is read.
    structure : object or None
        The skeleton, or None for a plain ``dict``.
    read : Callable
        Gives a tensor's bytes by name, as blocks in order.
    work : Callable
        ``map``, or what does several tensors at a time.

    Raises
    ------
    CorruptionError
        If `structure` does not fit the tensors, or `read` gives another number of bytes than a shape asks for.
    OSError
        If the file cannot be written.
    """
    first_name = {name: group[0] for group in ties for name in group if group[0] in tensors}
    staged_path = path.with_name(path.name + ".staged")
    offsets = _stage(staged_path, {n: info for n, info in tensors.items() if first_name.get(n, n) == n}, read, work)
    try:
        memory = _map(staged_path)
        views: dict[str, torch.Tensor] = {}
        for name in offsets:
            views[name] = _view(memory, offsets[name], tensors[name])
        values = {name: views[first_name.get(name, name)] for name in tensors}
        content = values if structure is None else assemble(structure, values)
        _save(content, path)
    finally:
        staged_path.unlink(missing_ok=True)


def _stage(
    path: Path, tensors: Mapping[str, TensorInfo], read: Callable[[str], Iterable[Block]], work: Work
) -> dict[str, int]:
    places: list[FileExtent] = []
    end = 0
    for name, info in tensors.items():
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        places.append(FileExtent(name, offset, tensor_bytes(info.dtype, info.shape)))
        end = offset + places[-1].size
    with path.open("xb", buffering=0) as file:
        file.truncate(end)
        write_tensors(file, places, read, work)
    return {extent.name: extent.offset for extent in places}


def _map(path: Path) -> torch.UntypedStorage:
    import torch

    size = path.stat().st_size
    if not size:
        return torch.empty(0, dtype=torch.uint8).untyped_storage()
    return torch.from_file(os.fspath(path), shared=False, size=size, dtype=torch.uint8).untyped_storage()


def _view(memory: torch.UntypedStorage, offset: int, info: TensorInfo) -> torch.Tensor:
    """Return a tensor with a storage of its own, since torch.save writes whole storages."""
    import torch

    dtype, shape = torch_dtype(info.dtype), torch_shape(info.dtype, info.shape)
    size = tensor_bytes(info.dtype, info.shape)
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.empty(0, dtype=dtype).set_(memory[offset : offset + size]).reshape(shape)


def _save(content: Any, path: Path) -> None:
    import torch

    with path.open("xb") as file:
        torch.save(content, file)
