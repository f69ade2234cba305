"""How a merge is made, as its commit records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from erestore.errors import CorruptionError


@dataclass(frozen=True)
class Recipe:
    """How a merge is made; kept with its commit.

    Attributes
    ----------
    strategy : str
    operands : tuple of (str, str, str)
        Name, commit and weight of each.
    options : Mapping[str, str]
        Of the strategy.
    choose : str or None
        What to do about conflicts.
    max_error : str or None
        Of a merge that is not a linear combination, and is encoded: most of it that may be lost.
    statistics : tuple of str
        Digests of the files of statistics that were given.
    """

    strategy: str
    operands: tuple[tuple[str, str, str], ...]
    options: Mapping[str, str] = field(default_factory=dict)
    choose: str | None = None
    max_error: str | None = None
    statistics: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Return JSON without floats."""
        return {
            "strategy": self.strategy,
            "operands": [{"name": name, "commit": oid, "weight": weight} for name, oid, weight in self.operands],
            "options": dict(self.options),
            "choose": self.choose,
            "max_error": self.max_error,
            "statistics": list(self.statistics),
        }

    @classmethod
    def from_record(cls, record: Any) -> Recipe:
        """Read what a commit records."""
        try:
            operands = tuple(
                (str(operand["name"]), str(operand["commit"]), str(operand["weight"])) for operand in record["operands"]
            )
            rest = record.get("max_error"), tuple(record.get("statistics", ()))
            return cls(str(record["strategy"]), operands, dict(record["options"]), record["choose"], *rest)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError("A merge's recipe is malformed.") from error
