"""Codes of one step, and the bits that they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.residual import runs
from erestore.residual.quantisation import coded_bits, round_codes


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


@pytest.mark.parametrize(
    ("largest", "dtype"), [(2.0**15 - 1, torch.int16), (2.0**15, torch.int32), (2.0**29, torch.int32)]
)
def test_codes_take_the_smaller_integers_that_hold_them(largest, dtype):
    codes = round_codes(torch.tensor([[1.0, -largest]], dtype=torch.float64))
    assert codes.dtype == dtype
    assert codes.tolist() == [[1, -largest]]


def test_nothing_and_zeros():
    assert round_codes(torch.zeros(3, 0)).shape == (3, 0)
    assert round_codes(torch.zeros(0, 3)).shape == (0, 3)
    assert coded_bits(torch.zeros(2, 3, dtype=torch.int16)) == 2
    assert coded_bits(torch.zeros(0, 3, dtype=torch.int16)) == 0


@pytest.mark.parametrize("scale", [0.3, 1, 8])
@pytest.mark.parametrize("spread", [0, 2])
def test_estimated_bits_are_those_that_runs_take(scale, spread):
    generator = torch.Generator().manual_seed(1)
    scales = scale * 10 ** torch.linspace(0, spread, 200, dtype=torch.float64)[:, None]
    codes = round_codes(scales * torch.randn(200, 2000, generator=generator, dtype=torch.float64))
    content = codes.numpy().astype(np.dtype("<i2")).tobytes()
    stored = 8 * len(runs.encode(content, [runs.Group(2, *codes.shape)]))
    assert coded_bits(codes) == pytest.approx(stored, rel=0.02)
