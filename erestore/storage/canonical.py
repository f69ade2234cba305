"""Canonical JSON: one byte string per value, so that equal records have equal oids.

Keys sorted by code point, no white space, UTF-8, no escapes that UTF-8 does not need, no floats, integers within
``-2**63 .. 2**63 - 1``. Reading accepts exactly the bytes that writing would produce.
"""

from __future__ import annotations

import json
from typing import Any

from erestore.errors import CorruptionError, UsageError

_LIMIT = 2**63


def dump_canonical(value: Any) -> bytes:
    """Write `value` canonically.

    Raises
    ------
    UsageError
        If it holds floats, larger integers, keys that are not text, or anything else that has no canonical form.
    """
    _check(value)
    try:
        return _dump(value)
    except UnicodeEncodeError:
        raise UsageError("A record cannot hold text that is not valid Unicode.") from None


def parse_canonical(content: bytes) -> Any:
    """Read canonical JSON.

    Raises
    ------
    CorruptionError
        If `content` is not the one canonical form of a value.
    """
    try:
        value = json.loads(content.decode(), parse_int=_integer, parse_float=_refuse, parse_constant=_refuse)
        if _dump(value) == content:
            return value
    except (ValueError, RecursionError):
        pass
    raise CorruptionError("A record is not canonical JSON.")


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _check(value: Any) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        _check_range(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for item in value.values():
            _check(item)
    else:
        raise UsageError(f"A record cannot hold {value!r} ({type(value).__name__}).")


def _check_range(value: int) -> None:
    if not -_LIMIT <= value < _LIMIT:
        raise UsageError(f"A record cannot hold the integer {value}: it needs more than 64 bits.")


def _integer(text: str) -> int:
    value = int(text)
    if not -_LIMIT <= value < _LIMIT:
        raise ValueError
    return value


def _refuse(_text: str) -> Any:
    raise ValueError
