"""Exact remainders in classes."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.arrays import Array, named_dtype
from erestore.errors import CorruptionError
from erestore.residual import exact_remainder, pco, remainder_classes

FLOATS = [
    named_dtype("float64"),
    named_dtype("float32"),
    named_dtype("float16"),
    named_dtype("bfloat16"),
    named_dtype("float8_e4m3fn"),
    named_dtype("float8_e5m2"),
    named_dtype("float8_e4m3fnuz"),
    named_dtype("float8_e5m2fnuz"),
]
DTYPES = pytest.mark.parametrize("dtype", FLOATS, ids=str)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def columns_of(value: Array) -> int:
    return value.shape[1] if value.ndim > 1 else value.size


def parts_of(value: Array, predicted: Array) -> list[bytes]:
    return list(remainder_classes.encode(value, predicted, columns_of(value)))


def check_round_trip(value: Array, predicted: Array) -> list[bytes]:
    parts = parts_of(value, predicted)
    flat, found = predicted.reshape(-1), []
    assert len(parts) == -(-len(flat) // exact_remainder.CHUNK if len(flat) else 0)
    for number, part in enumerate(parts):
        start = number * remainder_classes.CHUNK
        guess = flat[start : start + remainder_classes.CHUNK]
        assert 0 < len(part) <= guess.nbytes
        found.append(exact_remainder.decode(part, guess, exact_remainder.ElementSpan(start, columns_of(value))))
    assert all(each.dtype == value.dtype for each in found)
    assert b"".join(each.tobytes() for each in found) == value.tobytes()
    return parts


def head(part: bytes) -> tuple[int, int, int, int]:
    shift, drift, flags, ranges = struct.unpack("<BBBB", part[:4])
    return shift, drift, flags, ranges


@DTYPES
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_bits_come_back_from_any_prediction(dtype: np.dtype, data: st.DataObject) -> None:
    """Each element's bits are drawn, or near the prediction's; low bits may be zero in all values."""
    limit = np.iinfo(f"i{dtype.itemsize}")
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    seed, zeros = data.draw(st.integers(0, 1 << 30)), data.draw(st.integers(0, limit.bits))
    spread = data.draw(st.sampled_from([0, 1, 3, 200, 1 << 15, 1 << 40]))
    generator = np.random.default_rng(seed)
    predicted = generator.integers(limit.min, limit.max, (rows, columns), endpoint=True)
    special = [0, 1, -1, limit.min, limit.max, limit.min + 1]
    where = generator.random((rows, columns)) < data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    predicted = np.where(where, generator.choice(special, (rows, columns)), predicted)
    value = predicted + generator.integers(-spread, spread, (rows, columns), endpoint=True)
    far = generator.random((rows, columns)) < data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    value = np.where(far, generator.integers(limit.min, limit.max, (rows, columns), endpoint=True), value)
    value = value & ~((1 << zeros) - 1 if zeros < 64 else -1)
    with pytest.MonkeyPatch.context() as patched:
        for module in (exact_remainder, remainder_classes):
            patched.setattr(module, "CHUNK", data.draw(st.sampled_from([7, 64, 1 << 18]), label="chunk"))
        patched.setattr(remainder_classes, "CHUNK", exact_remainder.CHUNK)
        check_round_trip(*(each.astype(limit.dtype).view(dtype) for each in (value, predicted)))


@DTYPES
def test_normal_weights(dtype: np.dtype) -> None:
    predicted = normal(1, 300, 70).astype(dtype)
    value = (predicted.astype(np.float32) + np.float32(0.01) * normal(2, 300, 70)).astype(dtype)
    parts = check_round_trip(value, predicted)
    assert sum(map(len, parts)) < 0.75 * value.nbytes


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (5, 0), (0,)])
def test_few_elements(shape: tuple[int, ...]) -> None:
    """Parts that coding would not make smaller hold the values."""
    value = normal(3, *shape)
    parts = list(remainder_classes.encode(value, np.zeros(shape, np.float32), 1))
    assert b"".join(parts) == value.tobytes()


def test_larger_differences_of_smaller_numbers_are_a_class_of_their_own() -> None:
    predicted = normal(4, 200, 200)
    value = predicted + np.float32(1e-4) * normal(5, 200, 200)
    (part,) = check_round_trip(value, predicted)
    assert head(part)[3] >= 4
    whole = pco.compress(value.view(np.int32).reshape(-1) - predicted.view(np.int32).reshape(-1))
    assert len(part) < 0.97 * len(whole)


@pytest.mark.parametrize(
    ("held", "dtype", "zeros", "size"), [("bfloat16", "float32", 16, 2.0**-13), ("float32", "float64", 29, 2.0**-29)]
)
def test_values_that_were_narrower(held: str, dtype: str, zeros: int, size: float) -> None:
    """Zero bits are not stored, and the prediction is rounded to the same grid."""
    value = normal(6, 100, 100).astype(named_dtype(held)).astype(named_dtype(dtype))
    near = value * (1 + size * normal(7, 100, 100).astype(value.dtype))
    (part,) = check_round_trip(value, near)
    assert head(part)[0] == zeros
    assert len(part) < 200


def decayed(weight: Array, steps: int) -> Array:
    """AdamW without a gradient: the decay is rounded to whole units of the last place at every step."""
    for _ in range(steps):
        weight = weight * np.float32(1 - 3e-7)
    return weight


def test_decay_of_rows_without_a_gradient_costs_nothing() -> None:
    predicted = normal(8, 400, 64)
    value = decayed(predicted, 20)
    touched = np.arange(0, 400, 7)
    value[touched] += np.float32(1e-3) * normal(9, len(touched), 64)
    (part,) = check_round_trip(value, predicted)
    _, drift, flags, _ = head(part)
    assert drift
    assert flags
    alone = parts_of(value[touched], predicted[touched])
    still = 400 * 64 - len(touched) * 64
    assert 8 * (len(part) - len(alone[0])) < 0.25 * still  # without drift it is 1.45 bits an element


def test_rows_are_flagged_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remainder_classes, "CHUNK", 1000)
    monkeypatch.setattr(exact_remainder, "CHUNK", 1000)
    predicted = normal(10, 60, 48)
    value = predicted.copy()
    value[::3] += 1e-3 * normal(11, 20, 48)
    parts = check_round_trip(value, predicted)
    assert [head(part)[2] for part in parts] == [1, 1, 1]


def test_the_better_prediction_costs_less() -> None:
    value = normal(12, 50, 100)
    near, far = (value * (1 + np.float32(size) * normal(13, 50, 100)) for size in (1e-6, 1e-3))
    costs = [remainder_classes.cost(value, each, 100) for each in (value, near, far)]
    assert all(a < b for a, b in pairwise(costs))


@DTYPES
@pytest.mark.parametrize("size", [1e-5, 1e-3, 0.1])
def test_estimates_are_close(dtype: np.dtype, size: float) -> None:
    predicted = normal(14, 300, 300).astype(dtype)
    value = (predicted.astype(float) * (1 + size * normal(15, 300, 300)) + size * normal(16, 300, 300)).astype(dtype)
    taken = 8 * sum(map(len, parts_of(value, predicted)))
    assert remainder_classes.cost(value, predicted, 300) == pytest.approx(taken, rel=0.05, abs=4000)


def part_with(head: bytes, *rest: bytes) -> bytes:
    return head + b"".join(rest)


CHUNK = pco.compress(np.array([1, -2, 3, 0] * 10, dtype=np.int32))
LENGTH = struct.pack("<I", len(CHUNK))


def test_a_part_by_hand() -> None:
    found = exact_remainder.decode(
        part_with(bytes([0, 0, 0, 1]), LENGTH, CHUNK), np.ones(40, np.float32), exact_remainder.ElementSpan(0, 40)
    )
    assert (found.view(np.int32) - 0x3F800000).tolist() == [1, -2, 3, 0] * 10


DAMAGED = {
    "nothing": b"",
    "head cut": bytes(3),
    "no ranges": bytes([0, 0, 0, 0]) + LENGTH + CHUNK,
    "more ranges than bytes": bytes([0, 0, 0, 255]) + LENGTH + CHUNK,
    "shift": bytes([24, 0, 0, 1]) + LENGTH + CHUNK,
    "drift": bytes([0, 9, 0, 1]) + bytes(2048) + LENGTH + CHUNK,
    "drift below shift": bytes([22, 2, 0, 1]) + bytes(16) + LENGTH + CHUNK,
    "drift cut": bytes([0, 8, 0, 1]) + LENGTH + CHUNK,
    "flags": bytes([0, 0, 2, 1]) + LENGTH + CHUNK,
    "longer": bytes([0, 0, 0, 1]) + LENGTH + CHUNK + b"\0",
    "chunk cut": bytes([0, 0, 0, 1]) + LENGTH + CHUNK[:-1],
    "length": bytes([0, 0, 0, 1]) + struct.pack("<I", (1 << 32) - 1) + CHUNK,
    "length of nothing": bytes([0, 0, 0, 1]) + struct.pack("<I", 0),
    "class without elements": bytes([0, 0, 0, 2]) + struct.pack("<HII", 0x7F, len(CHUNK), len(CHUNK)) + CHUNK + CHUNK,
    "order": bytes([0, 0, 0, 3]) + struct.pack("<HHIII", 9, 9, 0, 0, len(CHUNK)) + CHUNK,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused(name: str) -> None:
    part = DAMAGED[name]
    assert len(part) != 4 * 40
    with pytest.raises(CorruptionError):
        exact_remainder.decode(part, np.ones(40, np.float32), exact_remainder.ElementSpan(0, 40))


def test_more_exponents_than_a_part_has_classes_for():
    """Float64 has 2047; classes that would each pay are merged down to what one byte counts."""
    generator = np.random.default_rng(5)
    exponent = np.repeat(np.arange(1, 501), 218)
    bits = (exponent.astype(np.int64) << 52) | generator.integers(0, 1 << 52, len(exponent))
    noise = np.where(exponent % 2, 0, generator.integers(0, 1 << 40, len(exponent)))
    guess, value = (each.view(np.float64) for each in (bits, bits ^ noise))
    parts = list(remainder_classes.encode(value, guess, len(value)))
    position = 0
    for part in parts:
        size = min(exact_remainder.CHUNK, len(value) - position)
        place = exact_remainder.ElementSpan(position, len(value))
        found = exact_remainder.decode(part, guess[position : position + size], place)
        assert found.tobytes() == value[position : position + size].tobytes()
        position += size
    assert position == len(value)
