"""The law of noise, held against noise."""

import pytest
import torch

from erestore.residual.marchenko_pastur import singular_value_quantiles


@pytest.mark.parametrize("shape", [(400, 400), (600, 150), (100, 1600)])
def test_it_is_what_noise_has(shape):
    values = torch.linalg.svdvals(torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    full = min(shape)
    ranks = [1, full // 10, full // 4, full // 2, 3 * full // 4, full]
    expected = (values / (max(shape) ** 0.5 + min(shape) ** 0.5))[torch.tensor(ranks) - 1]
    assert singular_value_quantiles(shape, ranks) == pytest.approx(expected.tolist(), abs=0.02)


def test_it_falls_and_does_not_care_which_side_is_longer():
    found = singular_value_quantiles((64, 32), range(1, 33))
    assert found == sorted(found, reverse=True)
    assert found == singular_value_quantiles((32, 64), range(1, 33))
