"""Reading the index of an object strictly: what a newer version put there is named and refused, never ignored."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.records import check_shape

RESIDUAL_OPTIONAL = frozenset({"bands"})
"""Fields that a residual's index may lack."""
_HINT = "A newer erestore wrote it, or a codec's package is not installed; upgrade or install to read it."


def check_fields(
    what: str, record: Mapping[str, Any], fields: set[str], optional: AbstractSet[str] = frozenset()
) -> None:
    """Refuse a JSON object that lacks one of `fields`, or has others than these and the `optional` ones.

    Raises
    ------
    UnsupportedFormatError
        If it has more.
    CorruptionError
        If it is not an object, or has fewer.
    """
    if not isinstance(record, dict):
        raise CorruptionError(f"{what} is not a JSON object.")
    if unknown := sorted(set(record) - fields - optional):
        raise UnsupportedFormatError(f"{what} has the unknown field '{unknown[0]}'.", hint=_HINT)
    if missing := sorted(fields - set(record)):
        raise CorruptionError(f"{what} lacks the field '{missing[0]}'.")


def check_index(
    kind: str,
    oid: str,
    index: Mapping[str, Any],
    fields: set[str],
    readable: Container[str],
    optional: AbstractSet[str] = frozenset(),
) -> None:
    """Check an index's fields (``features`` and ``segments`` are expected everywhere) and the features it names.

    Parameters
    ----------
    kind, oid : str
        Of the object, for the message.
    index : Mapping[str, Any]
    fields : set of str
        Those that this kind has beside ``features`` and ``segments``.
    readable : container of str
        Features that this version can read.
    optional : set of str
        Fields that may be missing.

    Raises
    ------
    UnsupportedFormatError
        If a field or a feature is unknown; it is named.
    CorruptionError
        If a field is missing or malformed.
    """
    what = f"The {kind} {oid[:12]}"
    check_fields(what, index, fields | {"features", "segments"}, optional)
    features = index["features"]
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise CorruptionError(f"{what} has a malformed list of features.")
    if unknown := [feature for feature in features if feature not in readable]:
        raise UnsupportedFormatError(f"{what} needs the feature '{unknown[0]}', which is unknown here.", hint=_HINT)


class Placement:
    """Where parts are: each begins in its segment where the part before it in the same segment ended.

    Parameters
    ----------
    lengths : sequence of int
        Bytes of every segment before its entropy stage.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)
        self._used = [0] * len(lengths)

    def take(self, part: Any) -> tuple[int, int, int]:
        """Return segment, offset and length of the next part, stored as segment and length.

        Raises
        ------
        ValueError, TypeError, IndexError
            If it is malformed or its segment has no room for it.
        """
        number, length = map(check_size, part)
        start = self._used[number]
        self._used[number] += length
        if self._used[number] > self._lengths[number]:
            raise ValueError
        return number, start, length

    def finish(self) -> None:
        """Make sure that every segment is used up.

        Raises
        ------
        ValueError
            If not.
        """
        if self._used != self._lengths:
            raise ValueError


def read_shape(value: Any) -> tuple[int, ...]:
    """Return a stored shape.

    Raises
    ------
    ValueError
        If no tensor can have it.
    """
    if not isinstance(value, list):
        raise ValueError  # noqa: TRY004 - one error for all that is malformed
    return check_shape(map(check_size, value))


def check_size(value: Any) -> int:
    """Return `value` if it is a size: an integer, not negative.

    Raises
    ------
    ValueError
        If not.
    """
    if type(value) is not int or value < 0:
        raise ValueError
    return value
