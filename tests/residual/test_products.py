"""Inner products of sections against dense float64, whatever the sections are, and what they take of memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sections import KINDS, section, value

from erestore.residual import products
from erestore.residual.codecs.lowrank import Codes, LowRankSection, cut_groups, largest_codes
from erestore.residual.products import Matrix, cross_products, gram, prefers_factors


def made(mixtures, shape, random):
    """Return matrices, some of fewer rows, and their dense values; the base."""
    rows, columns = shape
    base = random.standard_normal(shape)
    matrices, dense = [], []
    for kinds, rank, missing in mixtures:
        own = max(1, rows - missing), columns
        sections = [section(kind, own, rank, random) for kind in kinds]
        matrices.append(Matrix.of(sections))
        dense.append(value(sections, rows, base).reshape(-1))
    return matrices, np.stack(dense), base


MIXTURES = st.lists(
    st.tuples(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), st.integers(0, 4), st.sampled_from([0, 0, 2])),
    min_size=1,
    max_size=5,
)


@given(st.integers(0, 1 << 16), MIXTURES, st.integers(1, 9), st.integers(1, 7), st.sampled_from([None, 1, 2]))
@settings(max_examples=150, deadline=None)
def test_they_are_those_of_dense_float64(seed, mixtures, rows, columns, small):
    random = np.random.default_rng(seed)
    matrices, dense, base = made(mixtures, (rows, columns), random)
    with pytest.MonkeyPatch.context() as patch:
        if small:  # many pieces, tiles and chunks
            patch.setattr(products, "STACK_BYTES", 100)
            patch.setattr(products, "STACK_COMPONENTS", small)
            patch.setattr(products, "TILE_BYTES", 100)
            patch.setattr(products, "TILED", small)
        found = gram(matrices, lambda start, stop: base[start:stop])
        across = cross_products(matrices, matrices[::-1], lambda start, stop: base[start:stop])
    wanted = dense @ dense.T
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    assert (np.abs(found - wanted) <= 1e-9 * scale).all()
    assert (np.abs(across - wanted[:, ::-1]) <= 1e-9 * scale[:, ::-1]).all()
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("mode", [True, False])
def test_both_ways_agree(monkeypatch, mode):
    random = np.random.default_rng(3)
    mixtures = [(["factors"], 3, 0), (["lowrank2"], 2, 1), (["lowrank2", "factors"], 1, 0)] * 2
    matrices, dense, _ = made(mixtures, (40, 30), random)
    monkeypatch.setattr(products, "prefers_factors", lambda *_: mode)
    wanted = dense @ dense.T
    assert np.abs(gram(matrices) - wanted).max() < 1e-11 * wanted.max()
    assert np.abs(cross_products(matrices[:2], matrices[1:]) - wanted[:2, 1:]).max() < 1e-11 * wanted.max()


def of_codes(left, right):
    rank = left.shape[1]
    groups, shifts = cut_groups([1] * rank, [0] * rank, (largest_codes(left) * largest_codes(right)).tolist())
    codes = Codes(left, right, np.ones(rank, np.int64), np.array(shifts, np.int64), groups)
    return Matrix.of([LowRankSection((len(left), len(right)), codes)])


@pytest.mark.parametrize(("largest", "is_exact"), [(4000, True), (4095, False), (30_000, False)])
def test_codes_are_multiplied_in_float32_only_where_that_is_exact(largest, is_exact):
    """Columns of one large code and many small ones: their products need all bits of a sum."""
    sides = [np.ones((size, 2), np.int16) for size in (300, 200)]
    for side in sides:
        side[0] = largest
        side[1::2] = -1
    matrices = [of_codes(*sides), of_codes(*(side[:, ::-1] + (side == 1) for side in sides))]
    assert (products._stack(matrices, (300, 200)).multipliers is not None) == is_exact
    left, right = (
        np.concatenate([getattr(each.factored[0].codes, side) for each in matrices], axis=1).astype(object)
        for side in ("left", "right")
    )
    wanted = (left.T @ left) * (right.T @ right)
    wanted = [[int(wanted[2 * a : 2 * a + 2, 2 * b : 2 * b + 2].sum()) for b in range(2)] for a in range(2)]
    found = gram(matrices)
    assert prefers_factors(matrices, matrices)
    assert np.abs(found - np.array(wanted, float)).max() <= 1e-15 * np.max(wanted)
    mixed = [*matrices, Matrix.of([section("factors", (300, 200), 2, np.random.default_rng(0))])]
    assert np.abs(gram(mixed)[:2, :2] - found).max() <= 1e-15 * np.max(wanted)
    with_small = [matrices[0], of_codes(np.eye(300, 2).astype(np.int16), np.eye(200, 2).astype(np.int16))]
    assert cross_products(with_small[:1], with_small[1:])[0, 0] == 2 * largest**2 + 2


def test_factors_are_multiplied_unless_tiles_are_cheaper():
    random = np.random.default_rng(4)
    low, high = ([Matrix.of([section("factors", (64, 64), rank, random)])] * 20 for rank in (2, 30))
    assert prefers_factors(low, low)
    assert not prefers_factors(high, high)
    rest = [Matrix.of([section("remainder", (64, 64), 1, random)])]
    assert not prefers_factors(low, rest)


def test_nothing_is_nothing():
    assert gram([]).shape == (0, 0)
    assert cross_products([], []).shape == (0, 0)
    empty = Matrix.of([section("factors", (4, 3), 0, np.random.default_rng(0))])
    assert gram([empty, empty]).tolist() == [[0, 0], [0, 0]]


def test_factors_make_no_matrix_of_the_size_of_the_tensor():
    size, random = 2500, np.random.default_rng(5)
    matrices = [Matrix.of([section("factors", (size, size), 4, random)]) for _ in range(3)]
    tracemalloc.start()
    gram(matrices)
    cross_products(matrices[:1], matrices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * size  # an eighth of one in float64


def test_stacks_are_bounded(monkeypatch):
    size, random = 500, np.random.default_rng(7)
    matrices = [Matrix.of([section("factors", (size, size), 4, random)]) for _ in range(240)]
    monkeypatch.setattr(products, "STACK_BYTES", 200_000)
    tracemalloc.start()
    found = cross_products(matrices[:30], matrices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * products.STACKS * 200_000 < 8 * 8 * size * 240 / 3  # a third of all factors
    np.testing.assert_allclose(found, gram(matrices)[:30], rtol=1e-12, atol=1e-12)


def test_tiles_are_bounded(monkeypatch):
    monkeypatch.setattr(products, "TILE_BYTES", 1 << 20)
    size, random = 1000, np.random.default_rng(6)
    matrices = [Matrix.of([section("remainder", (size, size), 1, random)]) for _ in range(3)]
    tracemalloc.start()
    gram(matrices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_codes_and_real_factors_meet():
    """One side could be multiplied in float32 and the other not."""
    matrices, dense, _ = made([(["lowrank2"], 2, 0), (["factors"], 2, 1)], (40, 30), np.random.default_rng(8))
    wanted = dense[0] @ dense[1]
    for order in (1, -1):
        one, two = matrices[::order]
        assert prefers_factors([one], [two])
        assert cross_products([one], [two])[0, 0] == pytest.approx(wanted, rel=1e-11)
