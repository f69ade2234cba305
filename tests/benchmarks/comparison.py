"""Sizes at equal loss: every operating point of a yardstick against erestore's curve."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from curves import at_equal

CHARGES = ("payload", "paper", "stored")
"""Ways to charge ``ere``: codes and D alone; as the paper stores it; as this project's own ``commit --codec ere`` does."""

CURVES = {"error": "ours-frobenius", "kl": "ours"}
"""Which of erestore's commits are looked at by loss: of ``--objective frobenius`` where errors count alike, or the default."""


@dataclass(frozen=True)
class Row:
    """One operating point of a yardstick against erestore at the same loss.

    Attributes
    ----------
    pair, method : str
    setting : int
    loss : float
    sizes : dict of str to float
        By charge; yardsticks other than ``ere`` have ``paper`` alone.
    ours : float or None
        Erestore's bytes at that loss, new tensors included; None where it was not measured that far.
    new_bytes : int
        Of new tensors, in `ours` and in every size but ``payload``.
    """

    pair: str
    method: str
    setting: int
    loss: float
    sizes: dict[str, float]
    ours: float | None
    new_bytes: int

    def ratio(self, charge: str) -> float | None:
        """Return the yardstick's bytes over erestore's; new tensors are in both or in neither."""
        if self.ours is None or charge not in self.sizes:
            return None
        return self.sizes[charge] / (self.ours - (self.new_bytes if charge == "payload" else 0))


def compare(pair: str, found: dict[str, Any], measure: str) -> list[Row]:
    """Compare at equal `measure`.

    Parameters
    ----------
    pair : str
    found : dict
        ``new_bytes``, and the points of ``yardsticks`` and of ``ours``.
    measure : str
        ``error`` or ``kl``.
    """
    curve = [
        (mine[measure], mine["total"])
        for mine in found["ours"]
        if mine["method"] == CURVES[measure] and measure in mine
    ]
    rows = []
    for point in found["yardsticks"] if curve else ():
        sizes = {"paper": point["total"]}
        if point["method"] == "ere":
            sizes |= {"payload": point["payload"], "stored": point["stored"]}
        loss = point[measure]
        ours = at_equal(curve, loss)
        rows.append(Row(pair, point["method"], point["setting"], loss, sizes, ours, found["new_bytes"]))
    return rows


def least_and_median(rows: Sequence[Row], charge: str) -> tuple[float, float] | None:
    """Return the smallest ratio and the median; None if there is none."""
    ratios = [ratio for row in rows if (ratio := row.ratio(charge)) is not None]
    return (min(ratios), statistics.median(ratios)) if ratios else None
