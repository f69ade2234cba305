"""What a storage key may look like."""

from __future__ import annotations

import re

from erestore.errors import UsageError

_COMPONENT = re.compile(r"[A-Za-z0-9._%@+=,~-]+")


def is_component(name: str) -> bool:
    """Tell whether `name` can stand between two slashes of a key; no temporary file's name can."""
    return name not in {".", ".."} and _COMPONENT.fullmatch(name) is not None


def check_key(key: str) -> str:
    """Return `key` if it is one.

    Raises
    ------
    UsageError
        If it is empty, absolute, leaves the storage by ``..`` or holds characters that not every backend can store.
    """
    if not all(is_component(part) for part in key.split("/")):
        raise UsageError(f"'{key}' is not a key that a storage can hold.")
    return key
