"""Former home of :class:`erestore.ProbeSettings`."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "ProbeSettings":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    import erestore

    warnings.warn(
        "Import ProbeSettings from erestore; this place ends with version 0.3.", DeprecationWarning, stacklevel=2
    )
    return erestore.ProbeSettings
