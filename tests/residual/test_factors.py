"""Adapters as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erestore.errors import CorruptionError
from erestore.residual.codecs import factors

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
NARROW = {"rank": 1, "up": "F16", "down": "F16", "scaling": "1.0", "transpose": False}


def decode(encoded, shape):
    return factors.Factors.decode(encoded.parameters, [part.content for part in encoded.parts], shape)


def sides(dtype, m=6, r=5, n=4):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(m, r, generator=generator).to(dtype), torch.randn(r, n, generator=generator).to(dtype)


@DTYPES
@pytest.mark.parametrize("transpose", [False, True])
def test_the_value_is_summed_component_by_component(dtype, transpose):
    up, down = sides(dtype)
    total = np.zeros((6, 4))
    for component in range(5):
        total = total + np.outer(up[:, component].double().numpy(), down[component].double().numpy())
    total = (total * 0.3).T if transpose else total * 0.3
    section = decode(factors.encode(up, down, 0.3, transpose=transpose), total.shape)
    base = torch.zeros(total.shape, dtype=torch.float64)
    assert np.array_equal(section.rows(0, len(total), base).numpy(), total)
    assert np.array_equal(section.rows(1, 3, base[1:3]).numpy(), total[1:3])
    left, right = section.factors()
    assert torch.allclose(left @ right.T, torch.from_numpy(total), rtol=1e-12)


@DTYPES
def test_factors_are_kept_bit_for_bit(dtype):
    up, down = sides(dtype)
    section = decode(factors.encode(up.T.contiguous().T, down, 2.0), (6, 4))
    assert torch.equal(section.left, up)
    assert torch.equal(section.right, down)


def test_the_order_of_components_is_the_stored_one():
    up, down = torch.ones(1, 3), torch.tensor([[1e30], [1.0], [-1e30]])
    base = torch.zeros(1, 1, dtype=torch.float64)
    assert float(decode(factors.encode(up, down, 1.0), (1, 1)).rows(0, 1, base)) == 0
    assert float(decode(factors.encode(up, down[[0, 2, 1]], 1.0), (1, 1)).rows(0, 1, base)) == 1


def test_rank_zero():
    section = decode(factors.encode(torch.zeros(3, 0), torch.zeros(0, 2), 1.0), (3, 2))
    assert section.rows(0, 3, torch.zeros(3, 2, dtype=torch.float64)).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 2},
        {"rank": -1},
        {"up": "I8"},
        {"scaling": "inf"},
        {"scaling": "one"},
        {"transpose": 0},
        {"x": 1},
        {"down": "F32"},
    ],
)
def test_other_parameters_are_refused(change):
    with pytest.raises(CorruptionError):
        factors.Factors.decode(NARROW | change, [bytes(2), bytes(2)], (1, 1))
