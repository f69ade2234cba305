"""Spectra through the Gram matrix, held against the SVD."""

import math

import numpy as np
import pytest
import torch

from erestore.residual import spectrum
from erestore.residual.spectrum import (
    as_matrix,
    decompose,
    effective_rank,
    effective_rank_ratio,
    energy_captured,
    singular_values,
)

SHAPES = [(30, 30), (20, 70), (70, 20), (1, 9), (9, 1), (1, 1), (2, 3)]


def random(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_singular_values_are_those_of_the_svd(shape, dtype):
    delta = random(shape, dtype=dtype)
    expected = torch.from_numpy(np.linalg.svd(delta.double().numpy(), compute_uv=False))
    found = decompose(delta)
    assert torch.allclose(found.singular_values, expected, rtol=1e-10)
    assert torch.allclose(singular_values(delta), expected, rtol=1e-10)
    assert found.rank == min(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_orthonormal_and_rebuild_the_matrix(shape):
    delta = random(shape)
    found = decompose(delta)
    assert found.side == ("left" if shape[0] <= shape[1] else "right")
    left, values, right = found.vectors(min(shape))
    assert torch.allclose((left * values) @ right.T, delta, atol=1e-12)
    for side in (left, right):
        assert torch.allclose(side.T @ side, torch.eye(min(shape), dtype=torch.float64), atol=1e-9)
    a, b = found.factors(10**6)
    assert torch.allclose(a @ b.T, delta, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_truncation_is_optimal(rank, precision):
    delta = random((24, 60), dtype=torch.float32)
    left, right = decompose(delta, precision=precision).factors(rank)
    assert left.dtype == right.dtype == precision
    assert (left.shape, right.shape) == ((24, rank), (60, rank))
    tail = torch.linalg.svdvals(delta.double())[rank:].square().sum()
    assert float((delta - left @ right.T).double().square().sum()) == pytest.approx(float(tail), rel=1e-5)


def test_single_precision_keeps_large_singular_values():
    delta = random((40, 90), dtype=torch.float32)
    assert torch.allclose(decompose(delta, precision=torch.float32).singular_values, singular_values(delta), rtol=1e-4)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(50, 50), (40, 120), (120, 40)])
def test_a_spectrum_of_low_rank_ends(shape, precision):
    delta = random((shape[0], 3)) @ random((3, shape[1]), 1)
    found = decompose(delta, precision=precision)
    assert found.rank == 3
    assert torch.count_nonzero(found.singular_values[3:]) == 0
    left, values, right = found.vectors(20)
    assert len(values) == 3
    assert torch.allclose(
        (left * values) @ right.T, delta.to(precision), atol=1e-4 if precision == torch.float32 else 1e-12
    )


@pytest.mark.parametrize("shape", [(4, 6), (1, 5), (0, 3), (3, 0), (0, 0)])
def test_zero_and_empty_matrices(shape):
    found = decompose(torch.zeros(shape))
    assert found.rank == 0
    assert found.singular_values.tolist() == [0.0] * min(shape)
    left, values, right = found.vectors(3)
    assert (left.shape, values.shape, right.shape) == ((shape[0], 0), (0,), (shape[1], 0))


def test_signs_are_fixed_by_the_largest_entry():
    basis = decompose(random((16, 40))).basis
    peaks = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    assert bool((peaks > 0).all())


@pytest.mark.parametrize("scale", [1e-290, 1e-160, 1e160, 1e290])
def test_squares_leave_the_range_but_singular_values_do_not(scale):
    delta = random((12, 20))
    left, values, right = decompose(delta * scale).vectors(12)
    assert torch.allclose(values / scale, torch.linalg.svdvals(delta), rtol=1e-10)
    assert torch.allclose((left * (values / scale)) @ right.T, delta, atol=1e-11)


def test_the_smallest_numbers():
    assert singular_values(torch.full((2, 2), 5e-324, dtype=torch.float64)).tolist() == [1e-323, 0.0]


def test_small_singular_values_are_measured_again():
    # The root of the second eigenvalue, 1e-12 of the first, is good to about four digits.
    left, right = (torch.linalg.qr(random((size, 2), size))[0] for size in (50, 80))
    _, values, unit = decompose((left * torch.tensor([1.0, 1e-6]).double()) @ right.T).vectors(2)
    assert values.tolist() == pytest.approx([1.0, 1e-6], rel=1e-8)
    assert torch.linalg.vector_norm(unit, dim=0).tolist() == pytest.approx([1, 1], rel=1e-12)


def test_blocks_of_the_long_side_and_strides_do_not_matter(monkeypatch):
    delta = random((37, 11))
    whole = decompose(delta)
    monkeypatch.setattr(spectrum, "_BLOCK_ROWS", 5)
    for matrix in (delta, torch.cat([delta, delta], 1)[:, ::2][:, :6], delta.T):
        expected = torch.linalg.svdvals(matrix)
        left, values, right = decompose(matrix).vectors(11)
        assert torch.allclose(values, expected, rtol=1e-10)
        assert torch.allclose((left * values) @ right.T, matrix, atol=1e-12)
    assert torch.allclose(decompose(delta).basis, whole.basis, atol=1e-9)


def test_as_matrix_flattens_a_convolution_without_copying():
    kernel = random((8, 3, 2, 5))
    matrix = as_matrix(kernel)
    assert matrix.shape == (8, 30)
    assert matrix.data_ptr() == kernel.data_ptr()
    assert torch.equal(matrix[4, 2 * 10 + 1 * 5 + 3], kernel[4, 2, 1, 3])
    assert as_matrix(torch.zeros(0, 3, 2)).shape == (0, 6)


def test_effective_rank():
    assert effective_rank(torch.ones(7)) == pytest.approx(7)
    assert effective_rank(torch.tensor([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(3)) == 0
    # shares 2/3 and 1/3
    assert effective_rank(torch.tensor([2.0, 1.0])) == pytest.approx(math.exp(math.log(3) - 2 / 3 * math.log(2)))
    assert effective_rank_ratio(torch.tensor([1.0, 0.0]), torch.ones(4)) == pytest.approx(0.25)
    assert effective_rank_ratio(torch.ones(2), torch.zeros(2)) == 0


def test_energy_captured():
    values = torch.tensor([2.0, 1.0, 1.0])
    assert energy_captured(values, [0, 1, 2, 3, 9]) == pytest.approx((0, 4 / 6, 5 / 6, 1, 1))
    assert energy_captured(torch.zeros(2), [0, 1]) == (1.0, 1.0)
