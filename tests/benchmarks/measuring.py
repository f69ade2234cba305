"""Operating points: what each method takes for a pair, and what it loses."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yardsticks
from comparison import CURVES
from curves import at_equal
from pairs import SOURCES, Pair, common_names
from torch import Tensor
from yardsticks import Encoded, Residual

from erestore.api import Store
from erestore.encoding.quality import Quality

RANKS = (8, 16, 32, 64, 128, 256, 512)
"""Prior ranks of ``ere``."""
LOWRANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GRID = (0.95, 0.8, 0.6, 0.4, 0.25, 0.13, 0.06, 0.02, 5e-3, 1e-3, 1e-4)
"""Maximal errors that erestore is asked for everywhere."""

NEAR, ATTEMPTS = 0.03, 2
"""How near to a loss of ``ere`` one of erestore's points should be, in logarithms, and how often that is tried."""

Point = dict[str, Any]
"""``method``, ``setting``, ``total`` bytes, ``error``; for a pair with a task ``accuracy``, ``agreement`` and ``kl``; for
yardsticks ``payload``, the bytes of codes and factors alone; for ``ere`` ``stored``, what ``commit --codec ere`` takes."""


def yardstick_points(pair: Pair, work: Path) -> list[Point]:
    """Measure every yardstick on a pair."""
    bench = Bench(pair, work)
    points = []
    for found in ere_points(bench.residual):
        asked = Quality(codec="ere", rank=found.setting, bits=yardsticks.BITS)
        points.append(bench.yardstick(found) | {"stored": bench.commit(asked)[0]})
        points.append(bench.yardstick(yardsticks.ere(bench.residual, found.setting, spread="greedy")))
    points += [bench.yardstick(yardsticks.lowrank_fp16(bench.residual, rank)) for rank in LOWRANKS]
    for single in (yardsticks.bitq, yardsticks.bitq_rows, yardsticks.sign, yardsticks.sign_rows):
        points.append(bench.yardstick(single(bench.residual)))
    return points


def our_points(pair: Pair, work: Path, theirs: Iterable[Point]) -> list[Point]:
    """Measure erestore on a pair over the grid, and near every loss of ``ere`` among `theirs`, with what each loss asks for.

    Its curve bends: read off the grid alone, sizes would be up to a tenth too small.
    """
    bench = Bench(pair, work)
    found = []
    for loss, method in CURVES.items():
        targets = [each[loss] for each in theirs if each["method"] == "ere" and loss in each]
        if targets:
            measure = partial(bench.ours, method=method)
            points = [measure(max_error) for max_error in GRID]
            for target in targets:
                approach(measure, points, loss, target)
            found += points
    return found


def approach(measure: Callable[[float], Point], points: list[Point], loss: str, target: float) -> None:
    """Add points until one has nearly the `target` loss; what no point reaches is left alone."""
    for _ in range(ATTEMPTS):
        if any(abs(math.log(point[loss] / target)) < NEAR for point in points if point[loss] > 0):
            return
        fineness = at_equal([(point[loss], 1 / point["setting"]) for point in points], target)
        if fineness is None:
            return
        points.append(measure(1 / fineness))


def ere_points(residual: Residual) -> Iterator[Encoded]:
    """Yield the paper's encoding at growing rank, as long as BITQ is not smaller."""
    limit = yardsticks.bitq_rows(residual)
    for rank in RANKS:
        found = yardsticks.ere(residual, rank)
        if found.matrix_bytes + found.vector_bytes >= limit.matrix_bytes + limit.vector_bytes:
            return
        yield found


class Bench:
    """A pair, a store with its base alone, and whatever tells how good a result is."""

    def __init__(self, pair: Pair, work: Path) -> None:
        self.pair = pair
        self.residual = Residual(pair.base_weights, pair.tuned_weights)
        self._template = work / "template"
        Store.init(self._template).import_base(pair.base, name="base")
        self._judge = None
        if SOURCES[pair.name].task:
            from judging import Judge

            self._judge = Judge(pair)

    def yardstick(self, found: Encoded) -> Point:
        """Return the point of one encoding; new tensors are counted raw."""
        total = found.matrix_bytes + found.vector_bytes + self.pair.new_bytes
        point = {"method": found.method, "setting": found.setting, "payload": found.matrix_bytes, "total": total}
        return point | self.losses(found.values)

    def ours(self, max_error: float, method: str) -> Point:
        """Return the point of erestore at a maximal error."""
        objective = "frobenius" if method == "ours-frobenius" else None
        total, values = self.commit(Quality(max_error=max_error, objective=objective))
        return {"method": method, "setting": max_error, "total": total} | self.losses(values)

    def losses(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the error of weights, and where there is a task how the answers changed."""
        found = {"error": self.residual.relative_error(values)}
        return found | self._judge.judge(values) if self._judge else found

    def commit(self, quality: Quality) -> tuple[int, dict[str, Tensor]]:
        """Commit the fine-tune to a fresh copy of the store; return the bytes that added, and what a reader has."""
        with tempfile.TemporaryDirectory(dir=self._template.parent) as place:
            copy = Path(place, "store")
            shutil.copytree(self._template, copy, copy_function=os.link)
            store = Store.open(copy)
            done = store.commit(self.pair.tuned, base="base", name="tuned", quality=quality)
            return done.stored_bytes, common_names(dict(store.state_dict("tuned")))
