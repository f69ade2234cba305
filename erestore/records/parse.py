"""Strict reading of JSON: types, ranges and fields."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from erestore.errors import CorruptionError, UnsupportedFormatError

_LARGEST = 2**63


class reading:  # noqa: N801 - used as a statement
    """Turn what strict reading trips over into the one error that names the kind."""

    def __init__(self, kind: str, record: Mapping[str, Any], fields: set[str], optional: Collection[str] = ()) -> None:
        self.kind = kind
        if unknown := sorted(set(record) - fields - set(optional)):
            raise UnsupportedFormatError(
                f"A {kind} has the unknown field '{unknown[0]}'.",
                hint="A newer erestore wrote it; upgrade to read it.",
            )
        if missing := sorted(fields - set(record)):
            raise CorruptionError(f"A {kind} lacks the field '{missing[0]}'.")

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, TypeError | ValueError | KeyError | AttributeError):
            raise CorruptionError(f"A {self.kind} is malformed.") from error


def read_typed(value: Any, kind: Any) -> Any:
    """Return a value if it is of a type."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def read_text(value: Any) -> str:
    """Return text."""
    text: str = read_typed(value, str)
    return text


def read_texts(value: Any) -> tuple[str, ...]:
    """Return an array of texts."""
    return tuple(map(read_text, read_typed(value, list)))


def read_text_map(value: Any) -> dict[str, str]:
    """Return an object whose values are texts."""
    return {read_text(key): read_text(text) for key, text in read_typed(value, dict).items()}


def read_number(value: Any, limit: int = _LARGEST) -> int:
    """Return a whole number from 0 to below `limit`."""
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError
    return value


def read_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor."""
    return check_shape(map(read_number, read_typed(value, list)))


def check_shape(sizes: Iterable[int]) -> tuple[int, ...]:
    """Return a shape if a tensor can have it: at most 64 dimensions, and sizes whose product is below 2**60.

    Raises
    ------
    ValueError
        If not.
    """
    shape = tuple(sizes)
    if len(shape) > 64 or math.prod(max(1, size) for size in shape) >= 1 << 60:
        raise ValueError
    return shape
