"""One tensor in a file of its own, in the format that the file's name says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from erestore.arrays import as_array, raw_bytes
from erestore.checkpoint.safetensors_header import build_header
from erestore.errors import UsageError

if TYPE_CHECKING:
    import torch

Writer = Callable[[BinaryIO, str, str, "torch.Tensor"], None]
"""Takes the file, and the tensor's name, safetensors dtype and value."""


def write_safetensors(file: BinaryIO, name: str, dtype: str, value: torch.Tensor) -> None:
    """Write a safetensors file of one tensor."""
    header, _ = build_header({name: (dtype, tuple(value.shape))}, {})
    file.write(header)
    file.write(raw_bytes(as_array(value)))


def write_npy(file: BinaryIO, name: str, dtype: str, value: torch.Tensor) -> None:
    """Write an array as :func:`numpy.load` reads it.

    Raises
    ------
    UsageError
        If numpy has no such dtype: a file of one that is registered with it, such as bfloat16, is read as raw bytes.
    """
    import numpy as np

    array = as_array(value)
    if array.dtype.isbuiltin != 1:
        raise UsageError(
            f"A .npy file cannot hold '{name}': numpy has no {dtype}.", hint="Name the file .safetensors or .pt."
        )
    np.save(file, array, allow_pickle=False)


def write_torch(file: BinaryIO, _name: str, _dtype: str, value: torch.Tensor) -> None:
    """Write a tensor as :func:`torch.load` reads it."""
    import torch

    torch.save(value.clone(), file)  # a view would take its whole storage along


WRITERS: Mapping[str, Writer] = {
    ".safetensors": write_safetensors,
    ".npy": write_npy,
    ".pt": write_torch,
    ".pth": write_torch,
}


def writer_for(path: Path) -> Writer:
    """Return what writes a tensor to a file of this name.

    Raises
    ------
    UsageError
        If its suffix is that of none.
    """
    if path.suffix.lower() not in WRITERS:
        kind = f"'{path.suffix}' is not a format for one tensor" if path.suffix else f"'{path}' has no suffix"
        raise UsageError(f"{kind}.", hint=f"Name the file {', '.join(WRITERS)}.")
    return WRITERS[path.suffix.lower()]
