"""Rounding for the least error of what comes out, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erestore.residual import noise_shaping
from erestore.residual.noise_shaping import Metric, shape_codes
from erestore.residual.quantisation import SLOPE, dead_zones, quantise_runs


def noise(m, n, seed=7):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(n, seed=3):
    """Inputs of which a few directions hold most, of very different sizes; mean square 1."""
    inputs = noise(4 * n, n, seed) * torch.linspace(0.2, 3, n) + 2 * noise(4 * n, 3, seed + 1) @ noise(3, n, seed + 2)
    found = inputs.T @ inputs
    return found / found.diagonal().mean()


def entropy(codes):
    shares = torch.unique(codes, return_counts=True)[1].double() / codes.numel()
    return float(-(shares * shares.log2()).sum())


def lost(values, codes, moments):
    error = codes.double() - values.double()
    return float(((error @ moments.double()) * error).sum())


@pytest.mark.parametrize("scale", [0.3, 1.0, 8.0])
def test_inputs_that_have_nothing_in_common_leave_rounding_as_it_is(scale):
    values = (scale * noise(40, 150)).float()
    metrics = (Metric.of(torch.eye(100, dtype=torch.float64), 0), Metric.of(torch.eye(50, dtype=torch.float64), 100))
    shaped, plain = shape_codes(values, metrics), quantise_runs(values)
    assert (shaped != plain).double().mean() < 0.03  # bits are those of a second look
    costs = [lost(values, codes, torch.eye(150)) + SLOPE * codes.numel() * entropy(codes) for codes in (shaped, plain)]
    assert costs[0] < 1.002 * costs[1]


@pytest.mark.parametrize(("scale", "share"), [(0.4, 0.92), (1.0, 0.75), (5.0, 0.65)])
def test_less_of_what_comes_out_is_lost_for_as_many_bits(scale, share):
    moments = moments_of(130)
    values = scale * noise(300, 130)
    shaped = shape_codes(values.float(), (Metric.of(moments, 0),))
    bits = entropy(shaped)
    low, high = 0.5, 2.0  # of the step at which plain rounding takes as many bits
    for _ in range(30):
        step = (low + high) / 2
        low, high = (step, high) if entropy(quantise_runs((values / step).float())) > bits else (low, step)
    plain = quantise_runs((values / low).float()).double() * low
    assert lost(values, shaped, moments) < share * lost(values, plain, moments)


@pytest.mark.parametrize("n", [5, 64, 65, 150])
def test_codes_are_those_of_the_formula(n):
    """The same, column by column, with nothing put together."""
    moments = moments_of(n)
    values = (1.7 * noise(20, n)).float()
    order = np.argsort(moments.diagonal().numpy(), kind="stable")
    mixed = (1 - noise_shaping.SHRINKAGE) * moments.numpy()[np.ix_(order, order)] + noise_shaping.SHRINKAGE * np.eye(n)
    factor = np.linalg.cholesky(mixed)
    mean = (factor.diagonal() ** 2).mean()
    zones, aims = dead_zones(values).numpy(), values.numpy()[:, order].astype(np.float64)
    codes = np.zeros_like(aims)
    for column in reversed(range(n)):
        passed = factor[column + 1 :, column] / factor[column, column]
        aim = aims[:, column] - (codes - aims)[:, column + 1 :] @ passed
        for row, value in enumerate(np.abs(aim)):
            code = round(value)
            for _ in range(2):
                if code and value < code - 0.5 + mean / factor[column, column] ** 2 * zones[row, code - 1]:
                    code -= 1
            codes[row, column] = np.copysign(code, aim[row])
    expected = np.empty_like(codes)
    expected[:, order] = codes
    found = shape_codes(values, (Metric.of(moments, 0),)).numpy()
    assert (found != expected).mean() < 0.005  # ties between float32 and float64


def test_dead_zones_are_worth_the_bits_that_they_save():
    values = 1.5 * noise(1, 20_000).float()
    zones, codes = dead_zones(values), quantise_runs(values).abs()
    shares = torch.bincount(codes.flatten().long()).double() / codes.numel()
    bits = -shares.log2() + torch.tensor([0.0] + [1.0] * (len(shares) - 1))
    for code in (1, 2, 3):
        assert float(zones[0, code - 1]) == pytest.approx(SLOPE / 2 * float(bits[code] - bits[code - 1]), abs=1e-4)
    assert bool((dead_zones(torch.zeros(2, 9)) == 1).all())


def test_moments_of_no_inputs_count_each_input_by_itself():
    impossible = torch.tensor([[1.0, 9.0], [9.0, 1.0]], dtype=torch.float64)
    found = Metric.of(impossible, 0)
    assert torch.equal(found.passed, torch.eye(2))
    assert found.weights.tolist() == pytest.approx([1.0, 1.0])
