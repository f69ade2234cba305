"""Writing a whole checkpoint as users' libraries read it, all at once or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.conversion import convert, fitting_index, is_index
from erestore.checkpoint.dtypes import DTYPES
from erestore.checkpoint.marker import NAME as MARKER
from erestore.checkpoint.replace import replacing
from erestore.checkpoint.safetensors_file import write_safetensors
from erestore.checkpoint.side_names import check_side_names
from erestore.checkpoint.streams import Block, Work, write_exactly
from erestore.checkpoint.torch_writer import write_torch
from erestore.errors import CorruptionError, UnsupportedFormatError, UsageError
from erestore.records import Layout, LayoutFile


def write_checkpoint(
    target: Path | str,
    layout: Layout,
    read: Callable[[str], Iterable[Block]],
    side_files: Callable[[str], Iterable[bytes]],
    *,
    format: str | None = None,  # noqa: A002 - the option's name
    force: bool = False,
    structure: Any = None,
    work: Work = map,
    marker: bytes | None = None,
) -> None:
    """Write a checkpoint.

    It is written to a hidden directory beside `target`, synced to the disk and renamed; whatever fails, `target` is
    either what it was or complete.

    Parameters
    ----------
    target : Path or str
        The directory to make, or the file if ``layout.is_directory`` is false.
    layout : Layout
    read : Callable
        Gives a tensor's bytes by its own name, as blocks in order; called once a tensor, and of tied names for the
        first only where the format can share memory.
    side_files : Callable
        Gives a side file's content by its POSIX path.
    format : str or None
        ``safetensors`` or ``torch`` to convert (see :func:`erestore.checkpoint.conversion.convert`), None: as it was.
    force : bool
        Replace what is at `target`.
    structure : object or None
        Skeletons of torch files by file name (see :attr:`erestore.checkpoint.abc.Checkpoint.structure`).
    work : Callable
        ``map``, or what does several tensors at a time.
    marker : bytes, optional
        Content of the file that says what a directory was checked out from; see :mod:`erestore.checkpoint.marker`.

    Raises
    ------
    TargetExistsError
        If `target` exists.
    AccessError
        If there is no space or no permission.
    CheckpointError
        If a file's name is not safe to write.
    CorruptionError
        If the layout contradicts itself or the data.
    UsageError
        If a sharded checkpoint would have to become one file, or the format is unknown.
    """
    layout, generated = convert(layout, format)
    for name in (layout.format, *(file.format for file in layout.files if file.module)):
        if name not in ("safetensors", "torch"):
            raise UnsupportedFormatError(f"A layout has the unknown format '{name[:40]}'.")
    check_side_names([*(file.name for file in layout.files), *layout.side_files, *generated])
    if not layout.is_directory and len(layout.files) != 1:
        raise UsageError("A checkpoint of several files cannot be written as one file.")
    skeletons = structure if isinstance(structure, dict) else {}
    with replacing(Path(target), is_directory=layout.is_directory, force=force) as target_path:
        for file in layout.files:
            path = target_path / file.name if layout.is_directory else target_path
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_weights(path, layout, file, read, skeletons.get(file.name), work)
        if layout.is_directory:
            for name, content in generated.items():
                _write_file(target_path / name, [content])
            for name in layout.side_files:
                if is_index(name):
                    _write_file(target_path / name, [fitting_index(layout, name, b"".join(side_files(name)))])
                else:
                    _write_file(target_path / name, side_files(name))
            if marker is not None and not (target_path / MARKER).exists():
                _write_file(target_path / MARKER, [marker])


def _write_weights(
    path: Path, layout: Layout, file: LayoutFile, read: Callable[[str], Iterable[Block]], skeleton: Any, work: Work
) -> None:
    inside = {name: name.removeprefix(file.prefix) for name in file.tensors}
    tensors = {inside[name]: _info(layout, name) for name in file.tensors}
    if len(tensors) != len(file.tensors):
        raise CorruptionError(f"A layout lists a tensor of '{file.name}' twice.")

    def read_inside(name: str) -> Iterable[Block]:
        return read(file.prefix + name)

    if (file.format or layout.format) == "safetensors":
        write_safetensors(path, tensors, file.metadata, read_inside, work)
        return
    ties = [[inside[name] for name in group if name in inside] for group in layout.ties]
    same = [group for group in ties if len({(tensors[name].dtype, tensors[name].shape) for name in group}) == 1]
    write_torch(path, tensors, same, skeleton, read_inside, work)


def _info(layout: Layout, name: str) -> TensorInfo:
    tensor = layout.tensors.get(name)
    if tensor is None or tensor.dtype not in DTYPES:
        raise CorruptionError(f"A layout does not say what the tensor '{name}' is.")
    return TensorInfo(name, tensor.dtype, tensor.shape)


def _write_file(path: Path, content: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb", buffering=0) as file:
        for block in content:
            write_exactly(file, block)
