"""Strategies on factors against their formulas on dense float64."""

from __future__ import annotations

from fractions import Fraction

import formulas
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import Variants, close

from erestore.errors import UsageError
from erestore.merge.core import project
from erestore.merge.core_space import CoreSpace
from erestore.merge.dare import Dare
from erestore.merge.factored_svd import balanced, orthogonalised, spectrum
from erestore.merge.iso_c import IsoC
from erestore.merge.knots import Knots
from erestore.merge.linear import Average, Slerp, TaskArithmetic, Weighted
from erestore.merge.masks import kept
from erestore.merge.operands import MatrixFactors
from erestore.merge.regmean import RegMean
from erestore.merge.scaled_mean import ScaledMean
from erestore.merge.ties import Ties
from erestore.merge.tsv import Tsv

SHAPES = [(40, 24), (24, 40), (32, 32)]
RANKS = [(4, 4, 4), (6, 3), (5,), (2, 7, 3, 1)]
DROP = Dare(density=Fraction(1, 2))
EVERY = [
    *(Tsv(), IsoC(), Ties(space="core"), Dare(space="core", density=Fraction(1, 2))),
    *(Knots(inner) for inner in (Ties(), DROP, Average(), Weighted(), TaskArithmetic())),
    *(CoreSpace(inner) for inner in (Tsv(), IsoC(), Ties(), DROP, Average(), TaskArithmetic())),
]
IDS = [f"{each.name}-{getattr(each, 'inner', each).name}" for each in EVERY]


def balance(variants: Variants) -> Variants:
    return Variants([balanced(each) for each in variants.factors])


def core_of(variants: Variants):
    """The paper's reference bases and cores, from balanced factors."""
    even = balance(variants)
    left, right = (formulas.svd(np.concatenate(side, axis=1))[0] for side in zip(*even.factors, strict=True))
    return left, right, [left.T @ delta @ right for delta in variants.dense]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_tsv_is_its_formula(shape, ranks):
    variants = Variants.random(shape, ranks)
    assert close(variants.merged(Tsv()), formulas.tsv(variants.dense))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_iso_c_is_its_formula(shape, ranks):
    variants = Variants.random(shape, ranks)
    assert close(variants.merged(IsoC()), formulas.iso_c(variants.dense))


def test_iso_c_makes_the_spectrum_flat():
    values = np.linalg.svd(Variants.random((20, 30), (4, 5)).merged(IsoC(Fraction(2))), compute_uv=False)
    assert np.allclose(values[:9], values[0])
    assert values[9] < 1e-12 * values[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_knots_is_its_formula(shape, ranks):
    variants = Variants.random(shape, ranks)
    left, parts = formulas.knots_parts(variants.dense)
    assert close(
        variants.merged(Knots(Ties(density=Fraction(1, 3)))),
        left @ formulas.ties(parts, [1] * len(ranks), Fraction(1, 3)),
    )
    assert close(variants.merged(Knots(Average())), sum(variants.dense) / len(ranks))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_cores_lose_nothing(shape, ranks):
    variants = Variants.random(shape, ranks)
    found = project(tuple(variants.factors))
    for core, delta in zip(found.cores, variants.dense, strict=True):
        assert close(found.left @ core @ found.right.T, delta)
    for side in (found.left, found.right):
        assert np.allclose(side.T @ side, np.eye(side.shape[1]))
    assert found.left.shape[1] <= min(sum(ranks), shape[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_merges_of_cores_are_those_of_the_paper(shape, ranks):
    variants = Variants.random(shape, ranks)
    left, right, cores = core_of(variants)
    third = Fraction(1, 3)
    wanted = left @ formulas.ties(cores, [1] * len(ranks), third) @ right.T
    assert close(variants.merged(CoreSpace(Ties(density=third))), wanted)
    assert close(variants.merged(Ties(density=third, space="core")), wanted)
    assert close(variants.merged(CoreSpace(Tsv())), left @ formulas.tsv(cores) @ right.T)
    assert close(variants.merged(CoreSpace(IsoC())), formulas.iso_c(variants.dense))
    assert close(variants.merged(CoreSpace(TaskArithmetic(Fraction(1, 2)))), sum(variants.dense) / 2)


def test_dare_of_cores_drops_their_entries():
    variants = Variants.random((30, 20), (3, 4))
    found = project(tuple(variants.factors))
    half, shape = Fraction(1, 2), found.cores[0].shape
    masks = [
        kept(5, f"variant-{place}", "layer.weight", half, 0, shape[0] * shape[1]).reshape(shape) for place in range(2)
    ]
    core = sum(2 * mask * core for mask, core in zip(masks, found.cores, strict=True))
    assert close(variants.merged(Dare(density=half, seed=5, space="core")), found.left @ core @ found.right.T)


@pytest.mark.parametrize("shape", [(3, 30), (30, 3)])
def test_cores_come_back_with_the_shorter_side(shape):
    left, right = Ties(space="core").merge(Variants.random(shape, (2, 3)).factored())
    assert left.shape[1] == right.shape[1] == 3


def test_ties_of_cores_is_not_ties_of_the_matrices():
    variants = Variants.random((30, 20), (3, 4))
    core, full = variants.merged(Ties(space="core")), variants.merged(Ties())
    assert not close(core, full, 0.1)


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
def test_results_depend_on_the_variants_and_not_on_their_factors(strategy):
    """Up to the signs of singular vectors, of which no result but that of dropping makes use."""
    variants = Variants.random((30, 20), (3, 4, 2))
    turned = []
    for seed, (left, right) in enumerate(variants.factors):
        turn = np.random.default_rng(seed).standard_normal((left.shape[1], left.shape[1])) + 3 * np.eye(left.shape[1])
        turned.append(MatrixFactors(left @ turn, right @ np.linalg.inv(turn).T))
    dares = isinstance(getattr(strategy, "inner", strategy), Dare)
    found, wanted = Variants(turned).merged(strategy), variants.merged(strategy)
    if dares:
        assert found.shape == wanted.shape
    else:
        assert close(found, wanted, 1e-8)


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_shapes_and_ranks(strategy, data):
    m, n = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    ranks = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=4))
    found = Variants.random((m, n), ranks, seed=data.draw(st.integers(0, 99))).merged(strategy)
    assert found.shape == (m, n)
    assert np.isfinite(found).all()
    if not any(ranks):
        assert not found.any()


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
def test_nothing_merged_is_nothing(strategy):
    variants = Variants(
        [MatrixFactors(np.zeros((6, 2)), np.ones((5, 2))), MatrixFactors(np.zeros((6, 0)), np.zeros((5, 0)))]
    )
    assert not variants.merged(strategy).any()


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
def test_a_variant_of_weight_0_might_as_well_not_be_there(strategy):
    variants = Variants.random((30, 20), (3, 4, 2))
    assert close(
        variants.merged(strategy, [1, "1/2", 0]), Variants(variants.factors[:2]).merged(strategy, [1, "1/2"]), 1e-9
    )
    with pytest.raises(UsageError, match=r"weights are 0|weights sum to 0"):
        variants.merged(strategy, [0, 0, 0])


@pytest.mark.parametrize("strategy", [Tsv(), IsoC()])
def test_weights_and_scale_multiply(strategy):
    variants = Variants.random((30, 20), (3, 4))
    plain = variants.merged(strategy)
    assert close(variants.merged(type(strategy)(scale=Fraction(3))), 3 * plain)
    assert close(variants.merged(strategy, [2, 2]), 2 * plain)
    doubled = Variants([MatrixFactors(2 * variants.factors[0].left, variants.factors[0].right), variants.factors[1]])
    assert close(variants.merged(strategy, [2, 1]), doubled.merged(strategy))


@pytest.mark.parametrize("strategy", [Tsv(), CoreSpace(Tsv())])
def test_tsv_of_one_variant_is_itself(strategy):
    variants = Variants.random((30, 20), (3,))
    assert close(variants.merged(strategy), variants.dense[0])


def test_tsv_keeps_a_share_of_the_components():
    variants = Variants.random((12, 9), (9, 9, 9))
    assert np.linalg.matrix_rank(variants.merged(Tsv())) == 9
    kept_each = Variants(
        [
            MatrixFactors(left[:, :0], right[:, :0]) if place else MatrixFactors(left, right)
            for place, (left, right) in enumerate(variants.factors)
        ]
    )
    assert np.linalg.matrix_rank(kept_each.merged(Tsv())) == 3


def test_variants_that_are_equal_bring_in_no_direction_of_their_own():
    (same,) = Variants.random((12, 9), (3,)).factors
    found = Variants([same, same]).merged(Tsv())
    assert close(found, Variants([same]).dense[0])


def test_more_variants_than_columns_are_merged_all_the_same():
    variants = Variants.random((8, 2), (1, 2, 1, 2))
    assert np.linalg.matrix_rank(variants.merged(Tsv())) <= 2


def test_orthogonalising_is_procrustes():
    columns = np.random.default_rng(0).standard_normal((20, 5))
    found = orthogonalised(columns)
    assert np.allclose(found, formulas.procrustes(columns))
    assert np.allclose(found.T @ found, np.eye(5))


def test_spectra_of_factors_end_where_the_rank_does():
    left, right = np.random.default_rng(0).standard_normal((2, 50, 3))
    found = spectrum(MatrixFactors(np.concatenate([left, left], axis=1), np.concatenate([right, 2 * right], axis=1)))
    assert len(found.values) == 3
    assert np.allclose(found.left * found.values @ found.right.T, 3 * left @ right.T)
    assert np.allclose(found.values, np.linalg.svd(3 * left @ right.T, compute_uv=False)[:3])


@pytest.mark.parametrize("strategy", EVERY, ids=IDS)
def test_what_is_no_matrix_is_merged_elementwise(strategy):
    other = strategy.fallback()
    assert other.kind in ("linear", "elementwise")
    inner = getattr(strategy, "inner", strategy)
    assert isinstance(other, ScaledMean if inner.name in ("tsv", "iso-c") else type(inner))


def test_scaled_means():
    found = Tsv(scale=Fraction(3)).fallback()
    assert isinstance(found, ScaledMean)
    assert found.coefficients([Fraction(1), Fraction(2)], list) == [1, 2]


def test_only_what_can_be_inside_is():
    for wrong in (Slerp(), Tsv(), Knots()):
        with pytest.raises(UsageError, match="knots cannot merge by"):
            Knots(wrong)
    with pytest.raises(UsageError, match="space of its own"):
        CoreSpace(Ties(space="core"))
    with pytest.raises(UsageError, match="negative"):
        CoreSpace(Ties()).check([Fraction(1), Fraction(-1)])


def moments(size, count, seed=0):
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal((3 * size, size)) * rng.uniform(0.2, 2, size) for _ in range(count)]
    return [each.T @ each for each in found]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [Fraction(9, 10), Fraction(1), Fraction(0)])
def test_regmean_is_its_formula_in_factors_and_in_tiles(shape, alpha):
    variants, grams, weights = Variants.random(shape, (4, 3, 5)), moments(shape[1], 3), [1, "1/2", 2]
    wanted = formulas.regmean(variants.dense, grams, float(alpha), [1, 0.5, 2])
    strategy = RegMean(alpha)
    assert close(variants.merged(strategy, weights, grams), wanted, 1e-8)
    rows = strategy.prepare(variants.tiled(weights, grams))
    assert close(np.concatenate([rows(0, 5), rows(5, shape[0])]), wanted, 1e-8)


def test_regmean_fits_the_outputs_best():
    variants, grams = Variants.random((10, 8), (4, 4)), moments(8, 2)
    found = variants.merged(RegMean(Fraction(1)), None, grams)

    def loss(merged):
        return sum(np.trace((merged - d) @ g @ (merged - d).T) for d, g in zip(variants.dense, grams, strict=True))

    rng = np.random.default_rng(1)
    assert all(loss(found) < loss(found + 1e-3 * rng.standard_normal(found.shape)) for _ in range(20))


def test_inputs_that_never_occur_get_the_mean():
    variants, grams = Variants.random((10, 8), (4, 4)), moments(8, 2)
    for each in grams:
        each[:, 3] = each[3] = 0
    found = variants.merged(RegMean(), [1, 3], grams)
    assert close(found[:, 3], (variants.dense[0][:, 3] + 3 * variants.dense[1][:, 3]) / 4, 1e-6)
    assert close(variants.merged(RegMean(), None, [np.zeros((8, 8))] * 2), sum(variants.dense) / 2, 1e-8)


@pytest.mark.parametrize("statistics", [None, [np.eye(8), np.eye(9)]])
def test_regmean_needs_moments_of_every_variant(statistics):
    variants = Variants.random((10, 8), (4, 4))
    with pytest.raises(UsageError, match=r"no second moments of the 8 inputs of 'layer\.weight'"):
        RegMean().merge(variants.factored(None, statistics))
    with pytest.raises(UsageError, match="no second moments"):
        RegMean().prepare(variants.tiled(None, statistics))
    with pytest.raises(UsageError, match="negative"):
        RegMean().merge(variants.factored([1, -1], moments(8, 2)))
    assert isinstance(RegMean().fallback(), ScaledMean)
