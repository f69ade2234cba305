"""Numpy arrays of every data type, and torch tensors of the same memory: what decodes is numpy's, what encodes is torch's.

Numpy has bfloat16 and the numbers of eight bits by way of ``ml_dtypes``; torch's pairs of four bits are bytes in an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
"""An array of any data type; a section's values are float64."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


BLOCK = 1 << 18
"""Elements evaluated at a time: float64 temporaries of a block stay in a core's own cache."""


def named_dtype(name: str) -> np.dtype[Any]:
    """Return the data type that torch calls `name`."""
    if name == "float4_e2m1fn_x2":
        return np.dtype(np.uint8)
    return np.dtype(getattr(ml_dtypes, name, name))


def fraction_bits(dtype: np.dtype[Any]) -> int:
    """Return the bits of the significand that a floating data type stores."""
    return int(_information(dtype).nmant)


def largest_value(dtype: np.dtype[Any]) -> float:
    """Return the largest finite value of a floating data type."""
    return float(_information(dtype).max)


def _information(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call] # its library has no types


def without_warnings() -> np.errstate:
    """Return a context in which numpy does not warn of overflow and NaN: they are values like others, as in torch."""
    return np.errstate(all="ignore")


def as_array(tensor: torch.Tensor) -> Array:
    """Return a tensor's values as an array, without a copy if it is contiguous and on the CPU."""
    import torch

    held, dtype = tensor.detach().cpu().contiguous(), named_dtype(str(tensor.dtype).removeprefix("torch."))
    if not held.numel():
        return np.empty(tuple(held.shape), dtype)
    found: Array = held.reshape(-1).view(torch.uint8).numpy().view(dtype).reshape(tuple(held.shape))
    return found


def as_tensor(array: Array, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return an array's values as a tensor on the CPU, without a copy if it is contiguous and may be written to.

    Parameters
    ----------
    array : ndarray
    dtype : torch.dtype, optional
        Where bytes are to be seen as pairs of four bits; else of the array's own name.
    """
    import torch

    dtype = dtype or getattr(torch, array.dtype.name)
    if not array.size:
        return torch.empty(array.shape, dtype=dtype)
    held = np.require(array, requirements=["C", "W"]).reshape(-1).view(np.uint8)
    return torch.from_numpy(held).view(dtype).reshape(array.shape)


def widen(array: Array) -> Array:
    """Return an array's values in float64; may be the array itself."""
    if array.dtype == BFLOAT16:  # the upper half of a float32; several times faster than a conversion
        array = (array.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    with without_warnings():  # of a signalling NaN, which becomes a quiet one
        return array.astype(np.float64, copy=False)


def regrouped(arrays: Iterable[Array], size: int) -> Iterator[Array]:
    """Yield the elements of arrays of one data type, flat, so many at a time; the last may be fewer.

    What is yielded may be a part of what came; it is good until the next is asked for.
    """
    waiting: list[Array] = []
    missing = size
    for array in arrays:
        flat = array.reshape(-1)
        while flat.size >= missing:
            waiting.append(flat[:missing])
            yield waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            flat, waiting, missing = flat[missing:], [], size
        if flat.size:
            waiting.append(flat.copy())  # what it is a part of may not last
            missing -= flat.size
    if waiting:
        yield np.concatenate(waiting)


def raw_bytes(array: Array) -> memoryview:
    """Return the bytes of an array of any data type and shape (0-dim and empty too) without copying."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def row_blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield row ranges of about :data:`BLOCK` elements."""
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns that a tensor's shape is seen as."""
    if len(shape) < 2:
        return 1, shape[0] if shape else 1
    columns = 1
    for size in shape[1:]:
        columns *= size
    return shape[0], columns


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors of one dtype and shape have the same bits."""
    import torch

    if not a.numel():
        return True
    return bool(torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)))
