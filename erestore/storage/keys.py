"""What a storage key may look like."""

from __future__ import annotations

import re

from erestore.errors import UsageError

_COMPONENT = re.compile(r"[A-Za-z0-9._%@+=,~-]+")

FOLDERS = ("objects", "refs", "config", "calibrations", "features", "gc", "probe")
"""Names below which a store has its keys. A store may be in a folder with other things, such as somebody's work."""

_OWN_FOLDER = re.compile(
    r"objects/[0-9a-f]{2}|calibrations/[0-9a-f]{64}|gc/leases/(writer|collector)-[0-9a-f]{16}|probe/[0-9a-f]{16}"
)
_OWN_OBJECT = re.compile(r"objects/[0-9a-f]{2}/[0-9a-f]{62}|probe/.*")
_OWN_KEY = re.compile(
    r"erestore\.json|features/(read|write)/[^/]+|(refs/[^/]+|config|calibrations/[0-9a-f]{64})/[0-9]{16}"
    r"|gc/condemned/[0-9a-f]{32}|gc/leases/(writer|collector)-[0-9a-f]{16}/([0-9]{16}|released)"
)


def is_component(name: str) -> bool:
    """Return whether `name` can stand between two slashes of a key; no temporary file's name can."""
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


def is_own_folder(path: str) -> bool:
    """Return whether a folder, by its path in the storage, is one that only the store makes, and may remove once empty."""
    return _OWN_FOLDER.fullmatch(path) is not None


def is_own_object(key: str) -> bool:
    """Return whether `key` is one of a value large enough to be written in parts, which only the store makes."""
    return _OWN_OBJECT.fullmatch(key) is not None


def is_own_key(key: str) -> bool:
    """Return whether `key` is one of a store's, and not the path of a file that somebody put beside them."""
    return _OWN_KEY.fullmatch(key) is not None or is_own_object(key)
