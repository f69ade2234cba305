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
class Codes:
    """Codes of a quantised weight, which no plain weight is a variant of, whatever its shape."""

    dtype: str
    shape: tuple[int, ...]
    scheme: str


def describe_form(tensor: Typed, other: Typed) -> str:
    """Return what tells a tensor from another that it does not fit: its shape, and where the data types do, those."""
    shape = str(list(tensor.shape))
    if isinstance(tensor, Codes):
        return f"{tensor.scheme} codes ({tensor.dtype} {shape})"
    return shape if comparable(tensor, other) else f"{tensor.dtype} {shape}"


def fits(own: Typed, base: Typed) -> bool:
    """Return whether one tensor can be a variant of another.

    Both hold real numbers or both have the same data type, and the shapes are equal or, for numbers, differ in the
    first of two or more dimensions only.
    """
    if not comparable(own, base):
        return False
    if tuple(own.shape) == tuple(base.shape):
        return True
    return is_floating(own.dtype) and len(own.shape) >= 2 and tuple(own.shape[1:]) == tuple(base.shape[1:])


def is_alike(own: Typed, base: Typed) -> bool:
    """Return whether one tensor can be a variant of another and has its shape."""
    return comparable(own, base) and tuple(own.shape) == tuple(base.shape)


def comparable(own: Typed, base: Typed) -> bool:
    """Return whether both tensors hold real numbers, or both have one data type; codes are comparable to codes."""
    if isinstance(own, Codes) != isinstance(base, Codes):
        return False
    return is_floating(own.dtype) == is_floating(base.dtype) and (is_floating(own.dtype) or own.dtype == base.dtype)


def elements(tensors: Iterable[Typed]) -> int:
    """Return how many elements tensors have together."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def shared_elements(own: Typed, base: Typed) -> int:
    """Return how many elements two tensors that fit have in common."""
    return min(math.prod(own.shape), math.prod(base.shape))
