"""Products of factors, and matrices that are evaluated in tiles, against the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erestore.arrays import as_tensor
from erestore.residual import factorise, operators
from erestore.residual.operators import Product, Tiled
from erestore.residual.spectrum import RowGram, decompose, squared_norm

SHAPES = [(90, 40), (40, 90), (64, 64), (1, 30), (30, 1)]


def factors(shape, rank, seed=0):
    random = np.random.default_rng(seed)
    scales = np.arange(1, rank + 1) ** -0.7
    left, right = (random.standard_normal((size, rank)) for size in shape)
    return left * scales, right


def dense(operator):
    return as_tensor(operator.rows(0, operator.shape[0])).clone()


def spectrum(operator):
    gram = RowGram(operator.shape[1]) if operator.wants_gram else None
    if gram is not None:
        for start in range(0, operator.shape[0], 7):
            gram.add(as_tensor(operator.rows(start, min(operator.shape[0], start + 7))))
    return operator.decompose(gram)


def both(shape, rank):
    left, right = factors(shape, rank)
    whole = left @ right.T
    return Product.of(left, right), Tiled(shape, lambda start, stop: whole[start:stop])


@pytest.fixture(params=[1 << 18, 100])
def tile(request, monkeypatch):
    monkeypatch.setattr(operators, "TILE", request.param)
    monkeypatch.setattr(operators, "HELD", request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 3, 25, 40, 100])
@pytest.mark.parametrize("kind", [0, 1])
def test_they_are_the_matrix(shape, rank, kind):
    operator = both(shape, rank)[kind]
    left, right = factors(shape, rank)
    wanted = torch.from_numpy(left @ right.T)
    random = torch.Generator().manual_seed(1)
    columns, rows = (torch.randn(size, 4, generator=random, dtype=torch.float64) for size in shape[::-1])
    assert torch.allclose(as_tensor(operator.rows(0, shape[0])), wanted, atol=1e-12)
    assert torch.allclose(operator.times(columns), wanted @ columns, atol=1e-10)
    assert torch.allclose(operator.transposed_times(rows), wanted.T @ rows, atol=1e-10)
    assert operator.times(columns.float()).dtype == torch.float32
    assert operator.times(columns[:, :0]).shape == (shape[0], 0)
    assert operator.transposed_times(rows[:, :0]).shape == (shape[1], 0)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 3, 25, 40, 100])
@pytest.mark.parametrize("kind", [0, 1])
def test_spectrum_and_basis(shape, rank, kind):
    """Thin products by QR, others by the Gram matrix of the short side."""
    operator = both(shape, rank)[kind]
    values, basis, side = spectrum(operator)
    wanted = torch.linalg.svdvals(dense(operator))
    alive = min(rank, *shape)
    assert len(values) == alive
    assert basis.shape == (min(shape), alive)
    assert torch.allclose(values, wanted[:alive], rtol=1e-6)
    assert torch.allclose(basis.T @ basis, torch.eye(alive, dtype=torch.float64), atol=1e-8)
    whole = dense(operator)
    projected = whole @ basis @ basis.T if side == "right" else basis @ (basis.T @ whole)
    assert torch.allclose(projected, whole, atol=1e-7)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_of_any_magnitude(kind, scale):
    left, right = factors((90, 40), 5)
    whole = scale * left @ right.T
    operator = (Product.of(scale * left, right), Tiled((90, 40), lambda start, stop: whole[start:stop]))[kind]
    values = spectrum(operator).singular_values
    assert torch.allclose(values, decompose(torch.from_numpy(whole)).singular_values[:5], rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("step", [0.05, 1e-5])
def test_codes_are_those_of_the_dense_matrix(shape, kind, step):
    operator = both(shape, 12)[kind]
    values, basis, side = spectrum(operator)
    whole = dense(operator)
    found = factorise.quantise(operator, basis, values, side, step)
    wanted = factorise.quantise(whole, basis, values, side, step)
    for one, other in zip(found.sides(), wanted.sides(), strict=True):
        assert np.abs(one - other).max() <= np.abs(other).max() * 1e-5 + 1
    left, right = map(as_tensor, found.sides())
    rest = whole - left @ right.T
    assert squared_norm(rest) < 50 * step**2 * sum(shape) * 12
    errors = factorise.leading_errors(found, operator, squared_norm(whole))
    wanted_errors = factorise.prefix_errors(found, rest)
    assert errors.keys() == wanted_errors.keys()
    for band, error in wanted_errors.items():
        assert errors[band] == pytest.approx(error, rel=1e-8)


def test_small_matrices_are_evaluated_once(monkeypatch):
    asked = []
    whole = np.arange(12.0).reshape(4, 3)

    def rows(start, stop):
        asked.append((start, stop))
        return whole[start:stop]

    held = Tiled.of((4, 3), rows)
    assert np.array_equal(held.rows(1, 3), whole[1:3])
    assert np.array_equal(held.rows(0, 4), whole)
    assert asked == [(0, 4)]
    monkeypatch.setattr(operators, "HELD", 11)
    Tiled.of((4, 3), rows).rows(2, 3)
    assert asked == [(0, 4), (2, 3)]
