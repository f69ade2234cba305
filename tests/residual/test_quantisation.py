"""Codes of one step: the nearest, those that bits are counted in, and the bits that they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.residual import pco, runs
from erestore.residual.quantisation import SLOPE, quantise_runs, round_codes


def coded_bits(codes: torch.Tensor) -> float:
    """Bits that codes ``(runs, length)`` take with a table for each class of runs, half an octave wide."""
    levels = torch.round(2 * torch.log2(codes.to(torch.float32).abs().mean(dim=1)))
    total = 0.0
    for level in torch.unique(levels[torch.isfinite(levels)]):
        counts = torch.unique(codes[levels == level], return_counts=True)[1].to(torch.float64)
        total += float((counts * torch.log2(counts.sum() / counts)).sum())
    return total + len(codes)


def sample(kind, count, length, seed=1):
    """Values of root mean square 1."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, length, generator=generator, dtype=torch.float64)
    if kind == "laplace":
        values = values.sign() * -torch.log(torch.rand(count, length, generator=generator, dtype=torch.float64))
    elif kind == "sparse":
        values = values * (torch.rand(count, length, generator=generator) < 0.05)
    elif kind == "scales":
        values = values * torch.logspace(-1.5, 1.5, count, dtype=torch.float64)[:, None]
    return values / values.square().mean().sqrt()


def cost(values, codes):
    """Squared error plus the price of bits, by the entropy of what pcodec's tables would be."""
    return float((values - codes).square().sum()) + SLOPE * coded_bits(codes)


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**30), 2.0**30), min_size=1, max_size=40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_codes_are_the_nearest(values, dtype):
    values = torch.tensor([values], dtype=dtype)
    codes = round_codes(values)
    assert codes.shape == values.shape
    assert bool(((codes.to(torch.float64) - values.to(torch.float64)).abs() <= 0.5).all())


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["gauss", "laplace", "sparse", "scales"]),
    scale=st.floats(0.01, 5000),
    count=st.integers(1, 20),
    length=st.integers(1, 200),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**20),
)
def test_magnitudes_are_only_ever_lowered_and_signs_kept(kind, scale, count, length, dtype, seed):
    values = (sample(kind, count, length, seed).nan_to_num() * scale).to(dtype)
    codes = quantise_runs(values)
    plain = torch.round(values)
    assert codes.shape == values.shape
    assert bool((codes.abs() <= plain.abs()).all())
    assert bool((codes * plain >= 0).all())
    assert bool(((values.abs() - codes.abs()) < 8).all())
    assert torch.equal(codes.to(dtype)[plain.abs() >= 48], plain[plain.abs() >= 48])


@pytest.mark.parametrize("kind", ["gauss", "laplace", "sparse", "scales"])
@pytest.mark.parametrize("scale", [0.05, 0.15, 0.25, 0.4, 0.7, 1.2, 3, 10, 60])
@pytest.mark.parametrize("shape", [(1, 100), (40, 700), (300, 300)])
def test_error_plus_price_of_bits_is_never_above_that_of_plain_rounding(kind, scale, shape):
    values = scale * sample(kind, *shape)
    assert cost(values, quantise_runs(values)) <= cost(values, torch.round(values)) * (1 + 1e-4) + 1


@pytest.mark.parametrize(
    ("kind", "scale", "gain"),
    [("gauss", 0.25, 0.25), ("gauss", 0.5, 0.08), ("gauss", 1, 0.015), ("laplace", 0.4, 0.1), ("laplace", 1, 0.02)],
)
def test_where_codes_are_small_much_is_gained(kind, scale, gain):
    values = scale * sample(kind, 200, 1000)
    assert cost(values, quantise_runs(values)) < (1 - gain) * cost(values, torch.round(values))


@pytest.mark.parametrize("scale", [0.3, 1, 4])
def test_bytes_as_stored_are_saved_for_what_they_are_worth(scale):
    values = scale * sample("laplace", 100, 2000)
    pairs = [(codes, codes.to(torch.int16).numpy().reshape(-1)) for codes in (quantise_runs(values), values.round())]
    costs = [float((values - codes).square().sum()) + SLOPE * 8 * len(pco.compress(flat)) for codes, flat in pairs]
    assert costs[0] < costs[1]


@pytest.mark.parametrize("rounding", [round_codes, quantise_runs])
def test_nothing_and_zeros(rounding):
    assert rounding(torch.zeros(3, 0)).shape == (3, 0)
    assert rounding(torch.zeros(0, 3)).shape == (0, 3)
    assert not rounding(torch.zeros(2, 3)).any()
    assert coded_bits(torch.zeros(2, 3, dtype=torch.int16)) == 2
    assert coded_bits(torch.zeros(0, 3, dtype=torch.int16)) == 0


@pytest.mark.parametrize(
    ("largest", "dtype"), [(2.0**15 - 1, torch.int16), (2.0**15, torch.int32), (2.0**29, torch.int32)]
)
@pytest.mark.parametrize("rounding", [round_codes, quantise_runs])
def test_codes_take_the_smaller_integers_that_hold_them(rounding, largest, dtype):
    codes = rounding(torch.tensor([[1.0, -largest]], dtype=torch.float64))
    assert codes.dtype == dtype
    assert codes.tolist() == [[1, -largest]]


@pytest.mark.parametrize("scale", [0.3, 1, 8])
@pytest.mark.parametrize("spread", [0, 2])
def test_estimated_bits_are_those_that_runs_take(scale, spread):
    generator = torch.Generator().manual_seed(1)
    scales = scale * 10 ** torch.linspace(0, spread, 200, dtype=torch.float64)[:, None]
    codes = round_codes(scales * torch.randn(200, 2000, generator=generator, dtype=torch.float64))
    content = codes.numpy().astype(np.dtype("<i2")).tobytes()
    stored = 8 * len(runs.encode(content, [runs.RunGroup(2, *codes.shape)]))
    assert coded_bits(codes) == pytest.approx(stored, rel=0.02)
