"""Parts of exact remainders that say anything: decoded to as many values, or refused, in bounded memory and time."""

from __future__ import annotations

import numpy as np
import pytest
from forging import damage, memory_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.arrays import Array, named_dtype
from erestore.errors import CorruptionError
from erestore.residual import difference, exact_remainder, remainder_classes

COLUMNS = 32
DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


def case(dtype: np.dtype) -> tuple[Array, bytes]:
    """A prediction and a part with zero low bits, drift, flags and several ranges, as far as the dtype has room for them."""
    generator = np.random.default_rng(5)
    predicted = generator.standard_normal((160, COLUMNS)).astype(named_dtype("float8_e5m2")).astype(dtype)
    moved = predicted.astype(float) * (1 - 0.01)
    moved[::2] += 0.2 * generator.standard_normal((80, COLUMNS))
    value = moved.astype(np.float16).astype(dtype)
    (part,) = remainder_classes.encode(value, predicted, COLUMNS)
    assert decode(part, predicted).tobytes() == value.tobytes()
    return predicted.reshape(-1), part


def decode(part: bytes, predicted: Array) -> Array:
    return exact_remainder.decode(part, predicted.reshape(-1), exact_remainder.ElementSpan(0, COLUMNS))


CASES = {name: case(named_dtype(name)) for name in DTYPES}


def test_the_parts_have_what_can_be_damaged() -> None:
    heads = np.array([list(part[:4]) for _, part in CASES.values()])
    assert bool((heads.max(axis=0) >= [10, 4, 1, 2]).all())


def decode_changed(name: str, data: st.DataObject) -> None:
    predicted, part = CASES[name]
    what = data.draw(st.sampled_from(["part", "part", "head", "prediction", "count", "place"]))
    place = exact_remainder.ElementSpan(0, COLUMNS)
    if what == "part":
        part = damage(data.draw, part)
    elif what == "head":
        part = bytes(data.draw(st.lists(st.integers(0, 255), min_size=4, max_size=4))) + part[4:]
    elif what == "prediction":
        predicted = np.roll(predicted, data.draw(st.integers(1, 99)))
    elif what == "count":
        predicted = np.tile(predicted, 9)[: data.draw(st.integers(1, 9 * len(predicted)))]
    else:
        place = exact_remainder.ElementSpan(data.draw(st.integers(0, 1 << 40)), data.draw(st.integers(1, 1 << 40)))
    with memory_limit(512):
        try:
            found = exact_remainder.decode(part, predicted, place)
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
    predicted = CASES[name][0][:50]
    size = predicted.nbytes
    found = difference.decode(data.draw(st.binary(min_size=size, max_size=size)), predicted)
    assert (found.dtype, found.shape) == (predicted.dtype, predicted.shape)
