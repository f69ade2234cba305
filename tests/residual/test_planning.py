"""One step for all tensors."""

from __future__ import annotations

import math

import pytest
import torch

from erestore.residual import planning
from erestore.residual.planning import Profile
from erestore.residual.spectrum import decompose


def profile(matrix):
    flat = matrix.reshape(-1).to(torch.float32)
    sigma = decompose(matrix).singular_values
    return Profile(tuple(matrix.shape), float((matrix**2).sum()), flat[:4096], sigma[sigma > 0])


def noise(m, n, seed=7):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steep(m, n, rank=4):
    return noise(m, rank) @ noise(rank, n, 8)


MIXED = [
    profile(steep(60, 50)),
    profile(noise(40, 30) * 0.1),
    Profile((1, 64), 0.3, noise(1, 64).reshape(-1).float() * 0.07),
]


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 1e-3, 1e-5])
def test_the_step_meets_the_error_and_no_larger_one_does(share):
    allowed = share * sum(each.energy for each in MIXED)
    step = planning.solve_step(MIXED, allowed)
    assert sum(planning.plan(each, step).error for each in MIXED) <= allowed
    assert sum(planning.plan(each, 1.03 * step).error for each in MIXED) > allowed


@pytest.mark.parametrize("factor", [0.05, 20])
def test_no_other_price_of_a_bit_takes_fewer_bits_for_the_same_error(monkeypatch, factor):
    decaying = noise(80, 60) * 0.9 ** torch.arange(60)
    profiles = [profile(decaying), profile(decaying @ noise(60, 70, 9) / 8)]
    allowed = 0.02 * sum(each.energy for each in profiles)

    def bits() -> float:
        step = planning.solve_step(profiles, allowed)
        return sum(planning.plan(each, step).bits for each in profiles)

    best = bits()
    monkeypatch.setattr(planning, "_PRICE", factor * planning._PRICE)
    assert bits() > 1.01 * best


def test_smaller_errors_take_more_bits():
    steps = [planning.solve_step(MIXED, share * sum(each.energy for each in MIXED)) for share in (0.3, 0.03, 0.003)]
    bits = [sum(planning.plan(each, step).bits for each in MIXED) for step in steps]
    assert steps == sorted(steps, reverse=True)
    assert bits == sorted(bits)


def test_each_tensor_gets_what_suits_it():
    step = 0.02
    assert planning.plan(profile(steep(60, 50)), step).mode == "lowrank"
    assert planning.plan(profile(steep(60, 50)), step).rank == 4
    sparse = torch.zeros(60, 50, dtype=torch.float64)
    sparse.view(-1)[torch.arange(0, 3000, 101)] = 1.0
    assert planning.plan(profile(sparse), step).mode == "vector"
    assert planning.plan(profile(1e-4 * noise(60, 50)), step).mode == "nothing"
    assert planning.plan(Profile((3, 3), 0.0, torch.zeros(9)), step).mode == "nothing"


def test_a_component_too_tall_for_its_step_is_left_to_vectors():
    assert planning.plan(profile(steep(60, 50)), 1e-9).mode == "vector"


@pytest.mark.parametrize("ratio", [0.3, 1, 3, 10])
def test_the_models_of_error_and_bits_hold_for_gaussians(ratio):
    """Against the quantiser itself; the error's model is good at both ends and within a third between."""
    values, step = noise(1, 200_000).reshape(-1), 1 / ratio
    codes = torch.round(values / step)
    error = float(((values - codes * step) ** 2).mean())
    shares = torch.unique(codes, return_counts=True)[1] / len(values)
    entropy = float(-(shares * shares.log2()).sum())
    variance = torch.tensor(1.0, dtype=torch.float64)
    assert float(planning._distortion(variance, step)) == pytest.approx(error, rel=0.35)
    assert float(planning._entropy(variance, step)) == pytest.approx(entropy, rel=0.1, abs=0.25)


def test_nothing_need_be_coded_where_everything_may_be_lost():
    step = planning.solve_step(MIXED, 1.01 * sum(each.energy for each in MIXED))
    assert planning.plan_is_empty(MIXED, step)
    assert math.isfinite(step)
