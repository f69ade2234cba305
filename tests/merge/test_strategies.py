"""Merges value by value and by singular directions, against dense formulas and PEFT's functions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils import merge_utils

from erestore.errors import UsageError
from erestore.merge.elementwise import Dare, DareTies, ElementwiseStrategy, Masks, Ties, elect
from erestore.merge.registry import strategy
from erestore.merge.spectral import CoreSpace, IsoC, Knots, Tsv, decompose, nearest_orthonormal

GENERATOR = np.random.default_rng(5)


def matrices(count: int = 3, shape: tuple[int, int] = (20, 14), rank: int | None = None) -> list[np.ndarray]:
    if rank is None:
        return [GENERATOR.standard_normal(shape) for _ in range(count)]
    return [
        GENERATOR.standard_normal((shape[0], rank)) @ GENERATOR.standard_normal((rank, shape[1])) for _ in range(count)
    ]


def whole(
    strategy: ElementwiseStrategy, deltas: list[np.ndarray], weights: list[float], step: int = 1000
) -> np.ndarray:
    """Merge in tiles of `step` rows."""
    prepared = [strategy.prepare(delta) for delta in deltas]
    masks = strategy.masks("key", len(deltas))
    rows, columns = deltas[0].shape
    parts = []
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        kept = [mask.next(stop - start, columns) for mask in masks]
        parts.append(strategy.merge([delta[start:stop].copy() for delta in deltas], weights, prepared, kept))
    return np.concatenate(parts)


@pytest.mark.parametrize("density", ["0.2", "0.5", "0.99"])
def test_ties_is_that_of_peft(density: str) -> None:
    deltas = matrices()
    found = whole(Ties(Fraction(density)), deltas, [1.0] * 3)
    wanted = merge_utils.ties(
        [torch.from_numpy(delta) for delta in deltas], torch.ones(3, dtype=torch.float64), float(density)
    )
    assert np.allclose(found, wanted.numpy(), atol=1e-14)


def test_ties_by_hand_with_weights() -> None:
    tiles = [np.array([[1.0, -2.0, 0.0, 4.0]]), np.array([[-3.0, -1.0, 0.0, 2.0]])]
    assert elect(tiles, [1.0, 1.0]).tolist() == [[-3.0, -1.5, 0.0, 3.0]]
    assert elect(tiles, [4.0, 1.0]).tolist() == [[1.0, -1.8, 0.0, 3.6]]
    assert whole(Ties(Fraction(1), Fraction(1, 2)), tiles, [1.0, 1.0]).tolist() == [[-1.5, -0.75, 0.0, 1.5]]


@given(st.integers(1, 25), st.sampled_from(["ties", "dare", "dare-ties"]))
def test_tiles_do_not_matter(step: int, name: str) -> None:
    deltas = matrices()
    chosen = strategy(name, {"density": "0.3"})
    assert isinstance(chosen, ElementwiseStrategy)
    assert np.array_equal(whole(chosen, deltas, [1.0, 0.5, 2.0], step), whole(chosen, deltas, [1.0, 0.5, 2.0]))


def test_dare_drops_and_makes_up_for_it() -> None:
    deltas = [np.ones((400, 300)), 2 * np.ones((400, 300))]
    found = whole(Dare(Fraction(1, 4)), deltas, [1.0, 1.0])
    assert set(np.unique(found)) == {0.0, 4.0, 8.0, 12.0}
    assert found.mean() == pytest.approx(3, rel=0.02)
    assert np.array_equal(found, whole(Dare(Fraction(1, 4), seed=Fraction(0)), deltas, [1.0, 1.0]))
    assert not np.array_equal(found, whole(Dare(Fraction(1, 4), seed=Fraction(1)), deltas, [1.0, 1.0]))
    assert np.array_equal(whole(Dare(Fraction(1)), deltas, [1.0, 0.5]), deltas[0] + 0.5 * deltas[1])
    elected = whole(DareTies(Fraction(1, 4)), deltas, [1.0, 1.0])
    assert set(np.unique(elected)) == {0.0, 4.0, 8.0, 6.0}


def test_what_is_drawn_stays_the_same_for_ever() -> None:
    """Merges are made again from their recipes; numpy promises the raw stream of a bit generator, and we rely on it."""
    drawn = Masks(Fraction(1, 2), 7, 1, "encoder.weight").next(2, 16)
    bits = ["".join(str(int(bit)) for bit in row) for row in drawn]
    assert bits == EXPECTED
    for place, key, seed in ((0, "encoder.weight", 7), (1, "other", 7), (1, "encoder.weight", 8)):
        assert not np.array_equal(drawn, Masks(Fraction(1, 2), seed, place, key).next(2, 16))
    assert Masks(Fraction(1), 0, 0, "x").next(50, 50).all()


EXPECTED = ["1001000000001001", "1000111100101001"]


@pytest.mark.parametrize("shape", [(20, 14), (14, 20), (60, 5), (5, 60), (6, 6)])
def test_decompositions(shape: tuple[int, int]) -> None:
    (matrix,) = matrices(1, shape)
    left, values, right = decompose(matrix)
    assert np.allclose((left * values) @ right.T, matrix)
    assert np.allclose(left.T @ left, np.eye(min(shape)))
    assert np.allclose(right.T @ right, np.eye(min(shape)))
    assert np.allclose(values, np.linalg.svd(matrix, compute_uv=False))


def test_tsv_keeps_a_share_of_each_and_makes_them_orthonormal() -> None:
    deltas = matrices(2, (20, 14))
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = np.concatenate([part[0][:, :7] for part in parts], axis=1)
    right = np.concatenate([part[2][:7].T for part in parts], axis=1)
    values = np.concatenate([part[1][:7] for part in parts])
    one, two = np.linalg.svd(left, full_matrices=False), np.linalg.svd(right, full_matrices=False)
    wanted = (one[0] @ one[2]) @ np.diag(values) @ (two[0] @ two[2]).T
    assert np.allclose(Tsv().merge(deltas), wanted)
    apart = [np.zeros((6, 6)), np.zeros((6, 6))]
    apart[0][0, 0], apart[1][1, 1] = 2.0, 3.0
    assert np.allclose(Tsv().merge(apart), np.diag([2.0, 3.0, 0, 0, 0, 0]), atol=1e-12)
    assert np.allclose(nearest_orthonormal(np.diag([2.0, 5.0])), np.eye(2))


def test_iso_c_evens_out_the_sum() -> None:
    deltas = matrices(3, (20, 14))
    values = np.linalg.svd(sum(deltas), compute_uv=False)
    found = IsoC().merge(deltas)
    assert np.allclose(np.linalg.svd(found, compute_uv=False), values.mean())
    low = matrices(2, (20, 14), rank=3)
    flat = np.linalg.svd(IsoC(Fraction(2)).merge(low), compute_uv=False)
    assert np.allclose(flat[6:], 0, atol=1e-9)
    assert np.allclose(flat[:6], 2 * np.linalg.svd(sum(low), compute_uv=False).mean())
    assert not IsoC().merge([np.zeros((4, 3)), np.zeros((4, 3))]).any()


@pytest.mark.parametrize("kind", [Knots, CoreSpace])
def test_one_variant_twice_is_itself_when_nothing_is_trimmed(kind: type) -> None:
    (delta,) = matrices(1, (20, 14), rank=5)
    assert np.allclose(kind(Fraction(1)).merge([delta, delta.copy()]), delta)
    assert np.allclose(kind(Fraction(1), Fraction(1, 2)).merge([delta, delta.copy()]), delta / 2)
    assert not kind().merge([np.zeros((4, 3)), np.zeros((4, 3))]).any()


def test_knots_is_ties_on_the_right_parts() -> None:
    deltas = matrices(2, (12, 9))
    left, values, right = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)
    parts = [torch.from_numpy(right[:, :9].copy()), torch.from_numpy(right[:, 9:].copy())]
    merged = merge_utils.ties(parts, torch.ones(2, dtype=torch.float64), 0.4).numpy()
    assert np.allclose(Knots(Fraction("0.4")).merge(deltas), (left * values) @ merged)


def test_core_space_loses_nothing_by_its_basis() -> None:
    deltas = matrices(2, (30, 25), rank=3)
    found = CoreSpace(Fraction(1)).merge(deltas)
    span = np.linalg.svd(np.concatenate(deltas, axis=1), full_matrices=False)[0][:, :6]
    assert np.allclose(span @ (span.T @ found), found)
    assert np.linalg.matrix_rank(found) <= 6


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("ties", {"density": "1.5"}, "between 0 and 1"),
        ("dare", {"density": "0"}, "keeps nothing"),
        ("dare", {"seed": "0.5"}, "whole number"),
        ("knots", {"density": "-1"}, "between 0 and 1"),
        ("core-space", {"density": "2"}, "between 0 and 1"),
        ("tsv", {"density": "1"}, "no parameter"),
        ("iso-c", {"scale": "many"}, "not a number"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, options: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        strategy(name, options)
