"""Spectra of matrices that come as factors, or in blocks of rows."""

import numpy as np
import pytest
import torch

from erestore.residual.spectrum import singular_values_of_product, singular_values_of_rows


def random(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (9, 9), (3, 20)])
@pytest.mark.parametrize("rank", [0, 1, 2, 3, 8, 25])
def test_factors(shape, rank):
    left, right = random((shape[0], rank), 1), random((shape[1], rank), 2)
    found = singular_values_of_product(left, right).numpy()
    expected = np.linalg.svd((left @ right.T).numpy(), compute_uv=False)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:rank], expected[:rank], rtol=1e-10)
    assert not found[rank:].any()


def test_dependent_factors_have_a_spectrum_that_ends():
    left, right = random((50, 3), 1), random((40, 3), 2)
    found = singular_values_of_product(torch.cat([left, left], dim=1), torch.cat([right, 0.5 * right], dim=1))
    assert int(torch.count_nonzero(found)) == 3
    np.testing.assert_allclose(
        found[:3], 1.5 * np.linalg.svd((left @ right.T).numpy(), compute_uv=False)[:3], rtol=1e-10
    )


def test_sizes_far_apart_are_kept():
    sizes = 10.0 ** -torch.arange(0, 12, 2, dtype=torch.float64)
    left, right = (torch.linalg.qr(random((size, 6), size)).Q for size in (60, 50))
    np.testing.assert_allclose(singular_values_of_product(left * sizes, right)[:6], sizes, rtol=1e-4)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (9, 9), (40, 1)])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_of_rows(shape, block):
    matrix = random(shape)
    found = singular_values_of_rows(iter(matrix.split(block)), shape[1]).numpy()
    expected = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert found.shape == (shape[1],)
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-9)
    assert not found[len(expected) :].any()


def test_no_rows():
    assert singular_values_of_rows([], 4).tolist() == [0, 0, 0, 0]
