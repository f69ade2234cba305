"""The data types that erestore keeps: those that safetensors 0.8 writes from torch, by their codes in its header.

``F6_E2M3`` and ``F6_E3M2`` are in the format's list too, but nothing writes them and torch cannot hold them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from erestore.errors import CheckpointError, UnsupportedFormatError

if TYPE_CHECKING:
    import numpy as np
    import torch


class DType(NamedTuple):
    """One data type.

    Attributes
    ----------
    code : str
        As a safetensors header names it.
    torch_name : str
        Attribute of ``torch``; ``F4`` is held as pairs, so a torch tensor has half the elements in its last dimension.
    bits : int
        Per element.
    is_floating : bool
        Whether its values are real numbers with a sign, which linear combinations make sense for. ``F8_E8M0`` (powers
        of two that scale other tensors), ``F4`` (always scaled) and complex numbers are kept as they are.
    """

    code: str
    torch_name: str
    bits: int
    is_floating: bool


DTYPES = {
    row[0]: DType(*row)
    for row in (
        ("F64", "float64", 64, True),
        ("F32", "float32", 32, True),
        ("F16", "float16", 16, True),
        ("BF16", "bfloat16", 16, True),
        ("F8_E4M3", "float8_e4m3fn", 8, True),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz", 8, True),
        ("F8_E5M2", "float8_e5m2", 8, True),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz", 8, True),
        ("F8_E8M0", "float8_e8m0fnu", 8, False),
        ("F4", "float4_e2m1fn_x2", 4, False),
        ("C64", "complex64", 64, False),
        ("I64", "int64", 64, False),
        ("I32", "int32", 32, False),
        ("I16", "int16", 16, False),
        ("I8", "int8", 8, False),
        ("U64", "uint64", 64, False),
        ("U32", "uint32", 32, False),
        ("U16", "uint16", 16, False),
        ("U8", "uint8", 8, False),
        ("BOOL", "bool", 8, False),
    )
}
"""Every data type kept, by code."""

_CODES = {dtype.torch_name: dtype.code for dtype in DTYPES.values()}


def _known(code: str) -> DType:
    """Return a data type; checkpoints are checked when they are opened, so only a record can name one that is unknown."""
    if code not in DTYPES:
        raise UnsupportedFormatError(
            f"There is no data type '{code[:20]}' in this version of erestore.", hint="Upgrade erestore to read it."
        )
    return DTYPES[code]


def tensor_bytes(code: str, shape: Sequence[int]) -> int:
    """Return the size in bytes of a tensor's data; `shape` as in a safetensors header."""
    return math.prod(shape) * _known(code).bits // 8


def is_floating(code: str) -> bool:
    """Return whether a data type holds numbers that linear combinations make sense for."""
    return _known(code).is_floating


def torch_dtype(code: str) -> torch.dtype:
    """Return torch's name for a code.

    Raises
    ------
    CheckpointError
        If the installed torch is too old to have it.
    """
    import torch

    dtype = getattr(torch, _known(code).torch_name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(
            f"torch {torch.__version__} has no data type for {code}.", hint="Upgrade torch to read this checkpoint."
        )
    return dtype


def array_dtype(code: str) -> np.dtype[Any]:
    """Return the data type of arrays that hold a code's values."""
    from erestore.arrays import named_dtype

    return named_dtype(_known(code).torch_name)


def torch_shape(code: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that an array or a torch tensor has for a header's `shape` (they differ for packed ``F4`` only)."""
    return (*shape[:-1], shape[-1] // 2) if code == "F4" and shape else tuple(shape)


def describe(tensor: torch.Tensor, name: str) -> tuple[str, tuple[int, ...]]:
    """Return code and header shape of a torch tensor.

    Raises
    ------
    CheckpointError
        If its data type cannot be kept, naming it and the tensor.
    """
    code = _CODES.get(str(tensor.dtype).removeprefix("torch."))
    if code is None or (code == "F4" and not tensor.ndim):  # a pair of F4 without a dimension has no shape of its own
        raise CheckpointError(
            f"The tensor '{name}' is {tensor.dtype}, which erestore cannot keep.",
            hint="Convert it to a data type that safetensors can hold, then commit again.",
        )
    shape = tuple(tensor.shape)
    return code, (*shape[:-1], shape[-1] * 2) if code == "F4" else shape
