"""Former home of :class:`erestore.Gate`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Gate":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    import erestore

    warnings.warn("Import Gate from erestore; this place ends with version 0.3.", DeprecationWarning, stacklevel=2)
    return erestore.Gate
