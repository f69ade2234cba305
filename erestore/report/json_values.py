"""Results as plain JSON values: what ``--json`` prints and what pages hold."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def plain(value: Any) -> Any:
    """Return a result as JSON values: dataclasses by field, times in ISO 8601 UTC, numbers that JSON lacks as None."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return a result as JSON; see :func:`plain`."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
