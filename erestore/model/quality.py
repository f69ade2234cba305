"""Former home of :class:`erestore.Quality`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "Quality":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    import erestore

    warnings.warn("Import Quality from erestore; this place ends with version 0.3.", DeprecationWarning, stacklevel=2)
    return erestore.Quality
