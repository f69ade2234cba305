"""Exact ways to store a fine-tune beside its base, to compare ``--exact`` with: pure functions of two state dicts to bytes.

No function charges for names, shapes or any container. Tensors that the base lacks are treated as if it had zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

LEVEL = 3
"""Of zstandard."""

Bits = NDArray[np.unsignedinteger]


def xor(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> int:
    """Return the bytes of zstandard over the exclusive or."""
    return sum(_packed((one ^ other).tobytes()) for one, other in _pairs(base, tuned))


def xor_planes(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> int:
    """Return the bytes of zstandard over every byte plane of the exclusive or (as BitX does)."""
    return sum(_planes(one ^ other) for one, other in _pairs(base, tuned))


def difference_planes(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> int:
    """Return the bytes of zstandard over every byte plane of the difference of bits read as ordered integers."""
    return sum(_planes(_zigzag(_ordered(one) - _ordered(other))) for one, other in _pairs(base, tuned))


def zipnn(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> int:
    """Return the bytes of the package zipnn over the fine-tune itself; it has no base."""
    return sum(_zipped(one) for one, _ in _pairs(base, tuned))


def zipnn_xor(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> int:
    """Return the bytes of the package zipnn over the exclusive or."""
    return sum(_zipped(one ^ other) for one, other in _pairs(base, tuned))


METHODS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], int]] = {
    "xor": xor,
    "xor-planes": xor_planes,
    "difference-planes": difference_planes,
    "zipnn": zipnn,
    "zipnn-xor": zipnn_xor,
}
"""By name; those of zipnn raise ImportError where it is not installed."""


def _pairs(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> Iterator[tuple[Bits, Bits]]:
    """Yield the bits of every tensor and of its base's, as unsigned integers."""
    for name, own in tuned.items():
        known = name in base and (base[name].dtype, base[name].shape) == (own.dtype, own.shape)
        bits = _bits(own)
        yield bits, _bits(base[name]) if known else np.zeros_like(bits)


def _bits(tensor: Tensor) -> Bits:
    found: Bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().view(f"<u{tensor.element_size()}")
    return found


def _ordered(bits: Bits) -> Bits:
    """Map the bits of a float so that unsigned integers grow with its value."""
    top = bits.dtype.type(1) << bits.dtype.type(8 * bits.itemsize - 1)
    return np.where(bits & top, ~bits, bits | top)


def _zigzag(difference: Bits) -> Bits:
    """Give small differences of both signs small codes."""
    signed = difference.view(f"<i{difference.itemsize}")
    return ((signed << 1) ^ (signed >> (8 * difference.itemsize - 1))).view(difference.dtype)


def _planes(bits: Bits) -> int:
    planes = bits.view(np.uint8).reshape(-1, bits.itemsize).T
    return sum(_packed(plane.tobytes()) for plane in planes)


def _packed(content: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=LEVEL).compress(content))


def _zipped(bits: Bits) -> int:
    from zipnn import ZipNN

    return len(ZipNN(input_format="byte", bytearray_dtype="float32", threads=1).compress(bytearray(bits.tobytes())))
