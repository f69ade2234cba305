"""One safetensors file: read with pread, written as a stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import torch_dtype, torch_shape
from erestore.checkpoint.safetensors_header import Header, build_header, header_length, parse_header
from erestore.checkpoint.streams import Block, FileExtent, Work, write_exactly, write_tensors
from erestore.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class SafetensorsFile:
    """A safetensors file, opened for reading.

    Data is read with ``pread``: a file that is truncated under an open memory map would kill the process.

    Attributes
    ----------
    tensors : Mapping[str, TensorInfo]
        By name, sorted: order has no meaning inside a safetensors file, and a fixed one lets variants share layouts.
    metadata : Mapping[str, str]
    """

    format = "safetensors"
    module = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._stamp = self._now()
            self._header = self._read_header()
        except BaseException:
            self._file.close()
            raise
        self.tensors = {name: TensorInfo(name, e.dtype, e.shape) for name, e in self._header.entries.items()}
        self.metadata = self._header.metadata
        self.ties: tuple[tuple[str, ...], ...] = ()
        self.structure = None

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in fresh memory.

        Raises
        ------
        CheckpointError
            If the file was changed since it was opened.
        """
        entry = self._header.entries[name]
        return self._read(entry.start, entry.stop, entry.dtype, entry.shape)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows of one tensor of at least two dimensions in fresh memory.

        Raises
        ------
        CheckpointError
            If the file was changed since it was opened.
        """
        entry = self._header.entries[name]
        count, *rest = entry.shape
        stop = min(stop, count)
        width = (entry.stop - entry.start) // max(1, count)
        return self._read(entry.start + start * width, entry.start + stop * width, entry.dtype, (stop - start, *rest))

    def _read(self, start: int, stop: int, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return what is between two offsets of the file."""
        import torch

        if self._now() != self._stamp:
            raise self._changed()
        content = torch.empty(stop - start, dtype=torch.uint8)
        view = content.numpy().data
        done = 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], start + done)
            if count == 0:
                raise self._changed()
            done += count
        return content.view(torch_dtype(dtype)).reshape(torch_shape(dtype, shape))

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _read_header(self) -> Header:
        size = self._stamp[0]
        try:
            length = header_length(os.pread(self._file.fileno(), 8, 0), size)
            content = os.pread(self._file.fileno(), length, 8)
            if len(content) != length:
                raise self._changed()
            return parse_header(content, size)
        except ValueError as error:
            raise CheckpointError(
                f"'{self.path.name}' is not a sound safetensors file: {error}.",
                hint="Copy or download it again, or save it again with save_pretrained.",
            ) from error

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"'{self.path.name}' was changed while it was read.", hint="Repeat the command when nothing writes to it."
        )


def write_safetensors(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
    read: Callable[[str], Iterable[Block]],
    work: Work = map,
) -> None:
    """Write one new file, tensor by tensor.

    Parameters
    ----------
    path : Path
        Must not exist.
    tensors : Mapping[str, TensorInfo]
        By the name to be written.
    metadata : Mapping[str, str]
    read : Callable
        Gives a tensor's bytes by name, as blocks in order.
    work : Callable
        ``map``, or what does several tensors at a time.

    Raises
    ------
    CorruptionError
        If `read` gives another number of bytes than the shape asks for.
    """
    prefix, header = build_header({name: (info.dtype, info.shape) for name, info in tensors.items()}, metadata)
    with path.open("xb", buffering=0) as file:
        write_exactly(file, prefix)
        places = (FileExtent(name, entry.start, entry.stop - entry.start) for name, entry in header.entries.items())
        write_tensors(file, places, read, work)
