"""No strategy on factors makes a matrix of the size of the tensor; elementwise ones hold some tiles."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from matrices import Variants

from erestore.merge import tiles
from erestore.merge.core_space import CoreSpace
from erestore.merge.dare import Dare
from erestore.merge.iso_c import IsoC
from erestore.merge.knots import Knots
from erestore.merge.linear import Average, ModelStock, Slerp
from erestore.merge.operands import TiledOperands
from erestore.merge.ties import Ties
from erestore.merge.tsv import Tsv

SHAPE = (1024, 4096)
WHOLE = SHAPE[0] * SHAPE[1] * 8


@pytest.fixture(scope="module")
def variants():
    return Variants.random(SHAPE, (8, 8, 8, 8))


def peak(action) -> int:
    action_held = None
    tracemalloc.start()
    try:
        action_held = action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        del action_held
        tracemalloc.stop()


@pytest.mark.parametrize(
    "strategy",
    [
        Tsv(),
        IsoC(),
        Knots(Ties()),
        Knots(Average()),
        CoreSpace(Tsv()),
        CoreSpace(IsoC()),
        CoreSpace(Average()),
        Ties(space="core"),
        Dare(space="core"),
    ],
)
def test_no_matrix_is_made_of_factors(strategy, variants):
    assert peak(lambda: strategy.merge(variants.factored())) < WHOLE / 2


def test_this_would_be_seen(variants):
    assert peak(lambda: variants.factors[0].left @ variants.factors[0].right.T) >= WHOLE


@pytest.mark.parametrize(("strategy", "count"), [(Slerp(), 2), (ModelStock(), 50)])
def test_coefficients_take_no_memory(strategy, count):
    gram = np.eye(count) + 0.5
    assert peak(lambda: strategy.coefficients([Fraction(1)] * count, gram.tolist)) < 1_000_000


@pytest.mark.parametrize("strategy", [Ties(), Dare(), Dare(merge_by="ties")])
def test_tiles_suffice(strategy, variants):
    """However many variants there are."""
    rows = [lambda a, b, own=own: own.left[a:b] @ own.right.T for own in variants.factors * 3]
    operands = TiledOperands(
        tensor="t", shape=SHAPE, labels=tuple(map(str, range(12))), weights=(Fraction(1),) * 12, rows=rows
    )

    def run():
        merged = strategy.prepare(operands)
        for start, stop in tiles.tiles(SHAPE, 1 << 17):
            merged(start, stop)

    assert peak(run) < WHOLE
    merged = strategy.prepare(operands)
    assert peak(lambda: merged(0, 32)) < 16 * (32 * SHAPE[1] * 8)
