"""Parts of exact remainders that say anything: decoded to as many values, or refused, in bounded memory and time."""

from __future__ import annotations

import pytest
import torch
from forging import damage, memory_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.errors import CorruptionError
from erestore.residual import classed, classing, difference

COLUMNS = 32
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def case(dtype: torch.dtype) -> tuple[torch.Tensor, bytes]:
    """A prediction and a part with zero low bits, drift, flags and several ranges, as far as the dtype has room for them."""
    generator = torch.Generator().manual_seed(5)
    predicted = torch.randn(160, COLUMNS, generator=generator).to(torch.float8_e5m2).to(dtype)
    moved = predicted.to(torch.float64) * (1 - 0.01)
    moved[::2] += 0.2 * torch.randn(80, COLUMNS, generator=generator, dtype=torch.float64)
    value = moved.to(torch.float16).to(dtype)
    (part,) = classing.encode(value, predicted, COLUMNS)
    assert torch.equal(decode(part, predicted).view(torch.uint8), value.reshape(-1).view(torch.uint8))
    return predicted.reshape(-1), part


def decode(part: bytes, predicted: torch.Tensor) -> torch.Tensor:
    return classed.decode(part, predicted.reshape(-1), classed.Place(0, COLUMNS))


CASES = {str(dtype): case(dtype) for dtype in DTYPES}


def test_the_parts_have_what_can_be_damaged() -> None:
    heads = torch.tensor([list(part[:4]) for _, part in CASES.values()])
    assert bool((heads.max(dim=0).values >= torch.tensor([10, 4, 1, 2])).all())


def decode_changed(name: str, data: st.DataObject) -> None:
    predicted, part = CASES[name]
    what = data.draw(st.sampled_from(["part", "part", "head", "prediction", "count", "place"]))
    place = classed.Place(0, COLUMNS)
    if what == "part":
        part = damage(data.draw, part)
    elif what == "head":
        part = bytes(data.draw(st.lists(st.integers(0, 255), min_size=4, max_size=4))) + part[4:]
    elif what == "prediction":
        predicted = predicted.roll(data.draw(st.integers(1, 99)))
    elif what == "count":
        predicted = predicted.repeat(9)[: data.draw(st.integers(1, 9 * len(predicted)))]
    else:
        place = classed.Place(data.draw(st.integers(0, 1 << 40)), data.draw(st.integers(1, 1 << 40)))
    with memory_limit(512):
        try:
            found = classed.decode(part, predicted.contiguous(), place)
        except CorruptionError:
            return
    assert (found.dtype, found.shape) == (predicted.dtype, predicted.shape)


@pytest.mark.parametrize("name", CASES)
@settings(settings.get_profile("hostile"), max_examples=200)
@given(data=st.data())
def test_a_changed_part(name: str, data: st.DataObject) -> None:
    decode_changed(name, data)


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
@settings(settings.get_profile("hostile soak"))
@given(data=st.data())
def test_a_changed_part_often(name: str, data: st.DataObject) -> None:
    decode_changed(name, data)


@pytest.mark.parametrize("name", CASES)
@settings(settings.get_profile("hostile"))
@given(data=st.data())
def test_a_part_of_the_former_codec_is_any_bytes(name: str, data: st.DataObject) -> None:
    predicted = CASES[name][0][:50].contiguous()
    size = len(predicted) * predicted.element_size()
    found = difference.decode(data.draw(st.binary(min_size=size, max_size=size)), predicted)
    assert (found.dtype, found.shape) == (predicted.dtype, predicted.shape)
