"""ties, dare and fisher against their formulas on dense float64, and against PEFT."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import formulas
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matrices import Variants, close, in_tiles, of, tiled

from erestore.arrays import BFLOAT16
from erestore.errors import UsageError
from erestore.merge.dare import Dare
from erestore.merge.fisher import Fisher
from erestore.merge.masks import kept
from erestore.merge.ties import Ties

FIFTH = Fraction(1, 5)
SHAPES = [(1, 1), (1, 30), (30, 1), (12, 7), (7, 12)]
NUMBERS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, -1.0])
STACKS = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=NUMBERS)
)
WEIGHTS = st.lists(st.sampled_from(["1", "1/2", "2", "3/4"]), min_size=4, max_size=4)


def some(shape=(12, 7), count=3, seed=0):
    return list(np.random.default_rng(seed).standard_normal((count, *shape)) * 0.01)


@given(
    STACKS,
    WEIGHTS,
    st.fractions(Fraction(1, 20), 1),
    st.sampled_from(["mass", "frequency"]),
    st.sampled_from(["mean", "sum"]),
)
def test_ties_is_its_formula(stack, weights, density, elect, combine):
    weights = weights[: len(stack)]
    found = in_tiles(Ties(density=density, elect=elect, combine=combine), of(list(stack), weights), height=2)
    wanted = formulas.ties(list(stack), [float(Fraction(each)) for each in weights], density, elect, combine)
    assert np.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@given(STACKS, WEIGHTS, st.sampled_from(["linear", "ties"]), st.fractions(Fraction(1, 20), 1), st.integers(0, 9))
def test_dare_is_its_formula(stack, weights, merge_by, density, seed):
    weights, floats = weights[: len(stack)], [float(Fraction(each)) for each in weights[: len(stack)]]
    operands = of(list(stack), weights)
    found = in_tiles(Dare(density=density, merge_by=merge_by, seed=seed, scale=Fraction(2)), operands, height=2)
    masks = [kept(seed, label, "t", density, 0, stack[0].size).reshape(stack[0].shape) for label in operands.labels]
    left = [mask * delta / float(density) for mask, delta in zip(masks, stack, strict=True)]
    wanted = (
        sum(w * d for w, d in zip(floats, left, strict=True)) if merge_by == "linear" else formulas.agreed(left, floats)
    )
    assert np.allclose(found, 2 * wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "strategy", [Ties(), Ties(elect="frequency"), Dare(), Dare(merge_by="ties", density=Fraction(1, 2)), Fisher()]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_results_do_not_depend_on_tiles(strategy, shape):
    operands = of(some(shape))
    operands = replace(operands, statistics=[np.abs(each) for each in some(shape, seed=9)])
    whole = in_tiles(strategy, operands)
    for height in (1, 2, 5):
        assert in_tiles(strategy, operands, height).tobytes() == whole.tobytes()
    rows = strategy.prepare(operands)
    assert rows(0, shape[0]).tobytes() == rows(0, shape[0]).tobytes() == whole.tobytes()


def test_ties_by_hand():
    deltas = [np.array([[4.0, -3.0, 1.0, 0.0]]), np.array([[2.0, 4.0, -1.0, 0.0]]), np.array([[-3.0, 2.0, 5.0, 0.0]])]
    # Half is kept: 4 -3, 2 4, -3 5.
    assert in_tiles(Ties(density=Fraction(1, 2)), of(deltas)).tolist() == [[3.0, 4.0, 5.0, 0.0]]
    assert in_tiles(Ties(density=Fraction(1, 2), combine="sum"), of(deltas)).tolist() == [[6.0, 4.0, 5.0, 0.0]]
    assert in_tiles(Ties(density=Fraction(1, 2), scale=Fraction(1, 2)), of(deltas)).tolist() == [[1.5, 2.0, 2.5, 0.0]]
    assert in_tiles(Ties(density=Fraction(1)), of(deltas, [1, 3, 1])).tolist() == [[2.5, 3.5, 3.0, 0.0]]


def test_mass_and_frequency_elect_differently():
    deltas = [np.array([[5.0]]), np.array([[-1.0]]), np.array([[-2.0]])]
    assert in_tiles(Ties(), of(deltas)).item() == 5.0
    assert in_tiles(Ties(elect="frequency"), of(deltas)).item() == -1.5


def test_a_vote_that_is_even_is_positive():
    assert in_tiles(Ties(), of([np.array([[3.0]]), np.array([[-3.0]])])).item() == 3.0


@pytest.mark.parametrize(
    "strategy", [Ties(density=Fraction(1)), Dare(density=Fraction(1)), Dare(density=Fraction(1), merge_by="ties")]
)
def test_one_variant_at_density_one_is_itself(strategy):
    (delta,) = some(count=1)
    assert (in_tiles(strategy, of([delta])) == delta).all()


@pytest.mark.parametrize(
    "strategy", [Ties(), Ties(elect="frequency", combine="sum"), Dare(), Dare(merge_by="ties"), Fisher()]
)
def test_nothing_merged_is_nothing(strategy):
    operands = replace(of([np.zeros((4, 3))] * 3), statistics=[np.zeros((4, 3))] * 3)
    assert not in_tiles(strategy, operands).any()


@pytest.mark.parametrize(
    "strategy", [Ties(), Ties(elect="frequency", density=Fraction(1)), Dare(), Dare(merge_by="ties"), Fisher()]
)
def test_a_variant_of_weight_0_might_as_well_not_be_there(strategy):
    deltas, information = some(), some(seed=5)
    with_it = replace(of(deltas, [1, 0, 2]), statistics=information)
    without = tiled(
        [deltas[0], deltas[2]],
        tensor="t",
        shape=(12, 7),
        labels=("v0", "v2"),
        weights=(Fraction(1), Fraction(2)),
        statistics=[information[0], information[2]],
    )
    assert (in_tiles(strategy, with_it) == in_tiles(strategy, without)).all()


def test_dropping_depends_on_the_variant_and_not_on_its_place():
    one, two = some(count=2)
    there = in_tiles(Dare(seed=4), of([one, two])) - in_tiles(Dare(seed=4), of([one, two], [1, 0]))
    (alone,) = (tiled([two], tensor="t", shape=(12, 7), labels=("v1",), weights=(Fraction(1),)),)
    assert close(there, in_tiles(Dare(seed=4), alone))


def test_other_seeds_and_tensors_drop_other_entries():
    deltas = some()
    results = [in_tiles(Dare(seed=seed), of(deltas, tensor=name)) for seed, name in ((0, "t"), (1, "t"), (0, "u"))]
    assert len({each.tobytes() for each in results}) == 3


def test_dare_keeps_the_expectation():
    found = in_tiles(Dare(density=Fraction(1, 4)), of([np.ones((1000, 1000))]))
    assert set(np.unique(found)) == {0.0, 4.0}
    assert abs(found.mean() - 1) < 0.01


@pytest.mark.parametrize("strategy", [Ties(), Dare(density=Fraction(1), merge_by="ties"), Fisher()])
def test_numbers_that_are_none_do_not_vanish(strategy):
    deltas = [np.array([[np.nan, 1.0]]), np.array([[1.0, 1.0]])]
    found = in_tiles(strategy, replace(of(deltas), statistics=[np.ones((1, 2))] * 2))
    assert np.isnan(found[0, 0])


def test_fisher_is_its_formula_on_whole_weights_too():
    deltas, information = some(), [np.abs(each) + 1e-3 for each in some(seed=3)]
    base = np.random.default_rng(8).standard_normal((12, 7))
    found = in_tiles(Fisher(), replace(of(deltas, [1, 2, 1]), statistics=information), height=5)
    share = [weight * each for weight, each in zip((1, 2, 1), information, strict=True)]
    wanted = sum(s * (base + d) for s, d in zip(share, deltas, strict=True)) / sum(share)
    assert np.allclose(base + found, wanted, rtol=1e-13)


def test_without_information_fisher_is_the_mean():
    deltas = some()
    zeros = [np.zeros((12, 7), BFLOAT16)] * 3
    assert close(in_tiles(Fisher(), replace(of(deltas), statistics=zeros)), sum(deltas) / 3)
    certain = [np.zeros((12, 7)), np.ones((12, 7)) * 1e6, np.zeros((12, 7))]
    assert close(in_tiles(Fisher(), replace(of(deltas), statistics=certain)), deltas[1], 1e-8)


@pytest.mark.parametrize("statistics", [None, [np.ones((12, 7)), np.ones((12, 7)), np.ones((12, 8))]])
def test_fisher_needs_information_of_every_variant(statistics):
    with pytest.raises(UsageError, match="no Fisher information of the shape of 't'"):
        Fisher().prepare(replace(of(some()), statistics=statistics))


@pytest.mark.parametrize("strategy", [Ties(), Dare(merge_by="ties"), Fisher()])
@pytest.mark.parametrize(
    ("weights", "sentence"), [([1, -1, 1], "none can be negative"), ([0, 0, 0], "All weights are 0")]
)
def test_weights_that_cannot_vote_are_refused(strategy, weights, sentence):
    with pytest.raises(UsageError, match=sentence):
        strategy.check([Fraction(each) for each in weights])
    with pytest.raises(UsageError, match=sentence):
        strategy.prepare(of(some(), weights))


def test_linear_dare_subtracts():
    deltas = some(count=2)
    found = in_tiles(Dare(density=Fraction(1)), of(deltas, [1, "-1/2"]))
    assert close(found, deltas[0] - deltas[1] / 2)
    with pytest.raises(UsageError, match="All weights are 0"):
        Dare().prepare(of(deltas, [0, 0]))


def test_no_variants_are_refused():
    for strategy in (Dare(), Ties(), Fisher()):
        with pytest.raises(UsageError):
            strategy.check([])


@pytest.mark.parametrize("strategy", [Ties(), Dare()])
def test_an_empty_tensor_stays_empty(strategy):
    assert in_tiles(strategy, of([np.zeros((0, 4))] * 2)).shape == (0, 4)
    assert in_tiles(strategy, of([np.zeros((3, 0))] * 2)).shape == (3, 0)


@pytest.mark.parametrize("elect", ["mass", "frequency"])
def test_ties_is_that_of_peft(elect):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    import torch

    deltas = Variants.random((40, 24), (4, 4, 4)).dense
    method = {"mass": "total"}.get(elect, elect)
    wanted = merge_utils.ties(
        [torch.from_numpy(each) for each in deltas], torch.ones(3, dtype=torch.float64), 0.25, method
    )
    assert np.allclose(
        in_tiles(Ties(density=Fraction(1, 4), elect=elect), of(deltas)), wanted.numpy(), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("merge_by", ["linear", "ties"])
def test_dare_is_that_of_peft_on_the_same_masks(merge_by, monkeypatch):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    import torch

    deltas, quarter = Variants.random((40, 24), (4, 4, 4)).dense, Fraction(1, 4)
    masks = [kept(0, f"v{place}", "t", quarter, 0, 960).reshape(40, 24).astype(float) for place in range(3)]
    drawn = iter(masks)
    monkeypatch.setattr(torch, "bernoulli", lambda _: torch.from_numpy(next(drawn)))
    theirs = {"linear": merge_utils.dare_linear, "ties": merge_utils.dare_ties}[merge_by]
    weights = [0.5, 2.0, 1.0] if merge_by == "linear" else [1.0] * 3
    wanted = theirs([torch.from_numpy(each) for each in deltas], torch.tensor(weights, dtype=torch.float64), 0.25)
    found = in_tiles(Dare(density=quarter, merge_by=merge_by), of(deltas, [Fraction(each) for each in weights]))
    assert np.allclose(found, wanted.numpy(), rtol=1e-12, atol=1e-15)
