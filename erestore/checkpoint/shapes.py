"""Which tensors can be variants of each other, by data type and shape alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from erestore.checkpoint.dtypes import is_floating


class Typed(Protocol):
    """Anything with a data type (safetensors code) and a shape."""

    @property
    def dtype(self) -> str:
        """Code of the data type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""


@dataclass(frozen=True)
class QuantisedCodes:
    """Codes of a quantised weight, which no plain weight is a variant of, whatever its shape."""

    dtype: str
    shape: tuple[int, ...]
    scheme: str


def describe_form(tensor: Typed, other: Typed) -> str:
    """Return what tells a tensor from another that it does not fit: its shape, and where the data types do, those."""
    shape = str(list(tensor.shape))
    if isinstance(tensor, QuantisedCodes):
        return f"{tensor.scheme} codes ({tensor.dtype} {shape})"
    return shape if comparable(tensor, other) else f"{tensor.dtype} {shape}"


def fits(tensor: Typed, base: Typed) -> bool:
    """Return whether one tensor can be a variant of another.

    Both hold real numbers or both have the same data type, and the shapes are equal or, for numbers, differ in the
    first of two or more dimensions only.
    """
    if not comparable(tensor, base):
        return False
    if tuple(tensor.shape) == tuple(base.shape):
        return True
    return is_floating(tensor.dtype) and len(tensor.shape) >= 2 and tuple(tensor.shape[1:]) == tuple(base.shape[1:])


def is_alike(tensor: Typed, base: Typed) -> bool:
    """Return whether one tensor can be a variant of another and has its shape."""
    return comparable(tensor, base) and tuple(tensor.shape) == tuple(base.shape)


def comparable(tensor: Typed, base: Typed) -> bool:
    """Return whether both tensors hold real numbers, or both have one data type; codes are comparable to codes."""
    if isinstance(tensor, QuantisedCodes) != isinstance(base, QuantisedCodes):
        return False
    return is_floating(tensor.dtype) == is_floating(base.dtype) and (
        is_floating(tensor.dtype) or tensor.dtype == base.dtype
    )


def elements(tensors: Iterable[Typed]) -> int:
    """Return how many elements tensors have together."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def shared_elements(tensor: Typed, base: Typed) -> int:
    """Return how many elements two tensors that fit have in common."""
    return min(math.prod(tensor.shape), math.prod(base.shape))
