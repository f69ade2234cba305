"""What a residual records that it loses of one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Errors(NamedTuple):
    """Squared errors of one tensor: of the linear value, of the rounded value, and the residual's own squared norm.

    A tensor that is kept exact and stands outside of what errors are relative to has `outside` in place of `norm`.
    """

    linear: float
    rounded: float
    norm: float
    outside: float = 0.0

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """Read what an index says; older residuals do not know `outside`."""
        linear, rounded, norm = (float(record[name]) for name in ("linear", "rounded", "norm"))
        return cls(linear, rounded, norm, float(record.get("outside", 0)))

    def to_record(self) -> dict[str, str]:
        """Return what an index says."""
        return {name: f"{value:.4g}" for name, value in self._asdict().items() if value or name != "outside"}


def ratio(part: float, total: float) -> float:
    """Return ``part / total``, with 0 / 0 = 0."""
    return 0.0 if part == 0 else part / total if total else math.inf
