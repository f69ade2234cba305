"""A git-like, content-addressed store for many variants of one model.

Public names load on first use, so that ``import erestore`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erestore.api import Store as Store
    from erestore.errors import ErestoreError as ErestoreError

__version__ = "0.1.0"
__all__ = ["ErestoreError", "Store", "__version__"]

_HOMES = {"Store": "erestore.api", "ErestoreError": "erestore.errors"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'erestore' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
