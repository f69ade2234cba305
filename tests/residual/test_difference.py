"""Exact remainders as the first version wrote them."""

from __future__ import annotations

import former_remainder
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.residual import difference

INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float8_e4m3fn: torch.int8,
    torch.float8_e5m2: torch.int8,
    torch.float8_e4m3fnuz: torch.int8,
    torch.float8_e5m2fnuz: torch.int8,
}
DTYPES = pytest.mark.parametrize("dtype", list(INTEGERS), ids=str)


def tensor(bits, dtype):
    return torch.tensor(bits, dtype=INTEGERS[dtype]).view(dtype)


@DTYPES
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_bits_come_back_from_any_prediction(dtype, data):
    limit = torch.iinfo(INTEGERS[dtype])
    pair = st.tuples(st.integers(limit.min, limit.max), st.integers(limit.min, limit.max))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=30))
    value, predicted = (tensor([pair[side] for pair in pairs], dtype) for side in (0, 1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(difference, "CHUNK", 8)
        parts = list(former_remainder.encode(value, predicted))
        assert [len(part) for part in parts] == [
            8 * dtype.itemsize if start + 8 <= len(pairs) else (len(pairs) - start) * dtype.itemsize
            for start in range(0, len(pairs), 8)
        ]
        guesses = torch.split(predicted, 8)
        found = torch.cat([difference.decode(part, guess) for part, guess in zip(parts, guesses, strict=True)])
    assert found.view(INTEGERS[dtype]).tolist() == value.view(INTEGERS[dtype]).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_neighbours_have_the_smallest_codes(dtype):
    """From the largest negative number to the largest positive one, every step is one, across zero too."""
    one = torch.tensor([1.0]).to(dtype).view(INTEGERS[dtype])
    top = int(one) // 1024 if dtype == torch.float32 else int(one)
    limit = torch.iinfo(INTEGERS[dtype]).min
    steps = [limit + bits for bits in range(min(top, 200), -1, -1)] + list(range(min(top, 200) + 1))
    values = tensor(steps, dtype)
    assert bool((values[1:].to(torch.float64) >= values[:-1].to(torch.float64)).all())
    assert former_remainder.zigzag(values[1:], values[:-1]).tolist() == [2] * (len(steps) - 1)
    assert former_remainder.zigzag(values[:-1], values[1:]).tolist() == [1] * (len(steps) - 1)
