"""The exact yardsticks of the fidelity benchmark."""

import lossless
import numpy as np
import pytest
import torch

RANDOM = torch.randn(4096, generator=torch.Generator().manual_seed(2))
WITHOUT_PACKAGES = [lossless.xor, lossless.xor_planes, lossless.difference_planes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("method", WITHOUT_PACKAGES)
def test_what_did_not_change_takes_next_to_nothing(method, dtype):
    tensor = (100 * RANDOM).to(dtype)
    assert method({"a": tensor}, {"a": tensor}) < 200


@pytest.mark.parametrize("method", WITHOUT_PACKAGES)
@pytest.mark.parametrize("base", [{}, {"a": RANDOM[:4095]}, {"a": RANDOM.double()}], ids=["none", "shape", "dtype"])
def test_what_the_base_lacks_is_counted(method, base):
    assert 0.8 < method(base, {"a": RANDOM}) / (4 * 4096) < 1


def test_planes_and_differences_pay():
    tuned = {"a": RANDOM + 1e-4 * RANDOM.flip(0)}
    whole, planes, difference = (method({"a": RANDOM}, tuned) for method in WITHOUT_PACKAGES)
    assert difference < planes < 0.9 * whole


def test_order_of_bits_is_order_of_values():
    values = torch.tensor([-3e38, -1.5, -1e-45, 0.0, 1e-45, 2.0, 3e38])
    ordered = lossless._ordered(lossless._bits(values))
    assert (np.diff(ordered.astype(np.int64)) > 0).all()
    assert int(ordered[4]) - int(ordered[3]) == 1


def test_zigzag():
    assert lossless._zigzag(np.array([0, -1, 1, -2, 2], "<i4").view("<u4")).tolist() == [0, 1, 2, 3, 4]


def test_zipnn_where_it_is_installed():
    pytest.importorskip("zipnn")
    for method in (lossless.zipnn, lossless.zipnn_xor):
        assert 0.5 < method({}, {"a": RANDOM}) / (4 * 4096) < 1
