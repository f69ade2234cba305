"""Quantised values in runs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from erestore.errors import CorruptionError
from erestore.residual import dyadic
from erestore.residual.codecs import remainder
from erestore.residual.codecs.vector import CODE_LIMIT, STEP_BITS
from erestore.residual.quantisation import quantise_matrix, quantise_runs, usable_step


def encode(values, step):
    size = usable_step(values, step)
    return remainder.encode(quantise_matrix(values, size), size, tuple(values.shape))


def decode(encoded, shape, parts=None):
    contents = [part.content for part in encoded.parts][:parts]
    return remainder.Remainder.decode(encoded.parameters, contents, shape)


def value(section):
    return section.rows(0, section.shape[0], np.zeros(section.shape))


def matrix(m, n, scale=1.0, seed=5):
    return scale * torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=80)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    scale=st.floats(1e-6, 1e6),
    step=st.floats(1e-9, 10),
    part=st.sampled_from([1, 7, 20, 1 << 20]),
)
@example(rows=3, columns=6, scale=43694.34765625, step=3.2905146462070203, part=1)  # beside the middle of two codes
def test_every_value_is_a_multiple_of_the_step_near_it(rows, columns, scale, step, part):
    values = matrix(rows, columns, scale)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remainder, "PART", part)
        encoded = encode(values, step)
        section = decode(encoded, (rows, columns))
        found = value(section)
        tiles = np.concatenate([section.rows(a, a + 1, np.zeros((1, columns))) for a in range(rows)])
        height = max(1, part // columns)
        assert len(encoded.parts) == -(-rows // height)
        assert [len(each) for each in section.parts[:-1]] == [height] * (len(section.parts) - 1)
    assert np.array_equal(tiles, found)
    size = dyadic.read(encoded.parameters["step"], STEP_BITS)
    assert size.value == pytest.approx(max(step, float(values.abs().max()) / CODE_LIMIT), rel=2**-22)
    flat = (each.reshape(-1).tolist() for each in (found, np.concatenate(section.parts), values))
    for each, code, original in zip(*flat, strict=True):
        assert Fraction(each) == code * size.mantissa * Fraction(2) ** size.exponent
        assert abs(each) <= abs(original) + size.value / 2 * (1 + 1e-5)


def test_the_error_is_that_of_rounding_that_minds_the_bits():
    values, step = matrix(50, 4000), 0.1
    section = decode(encode(values, step), (50, 4000))
    error = float(((value(section) - values.numpy()) ** 2).sum())
    assert 0.99 < error / (values.numel() * step**2 / 12) < 1.05
    assert np.array_equal(np.concatenate(section.parts), quantise_runs(values.double() / section.step))


@pytest.mark.parametrize(("largest", "width"), [(100, 2), (32_767, 2), (32_768, 4), (2**29 - 33, 4)])
def test_codes_take_two_bytes_or_four(largest, width):
    values = torch.tensor([[float(largest), -3.0], [0.0, -float(largest)]], dtype=torch.float64)
    (part,) = encode(values, 1.0).parts
    assert part.content[0] == width
    assert part.layout == ((1, 1, 1), (width, 2, 2))
    assert value(decode(encode(values, 1.0), (2, 2))).tolist() == values.tolist()


def test_each_part_has_its_own_width(monkeypatch):
    monkeypatch.setattr(remainder, "PART", 3)
    values = torch.tensor([[1.0, 2, 3], [70_000, 0, 1]], dtype=torch.float64)
    encoded = encode(values, 1.0)
    assert [part.content[0] for part in encoded.parts] == [2, 4]
    assert value(decode(encoded, (2, 3))).tolist() == values.tolist()


def test_a_step_too_fine_for_the_largest_value_is_made_coarser():
    values = torch.tensor([[1e9, 1.0]], dtype=torch.float64)
    section = decode(encode(values, 1e-9), (1, 2))
    assert CODE_LIMIT - 100 < int(abs(section.parts[0]).max()) <= CODE_LIMIT
    assert value(section)[0, 0] == pytest.approx(1e9, rel=1e-8)


def test_vectors_stand_in_the_first_band_and_matrices_in_the_last():
    assert [part.band for part in encode(matrix(1, 70), 0.1).parts] == [0]
    assert [part.band for part in encode(matrix(70, 1), 0.1).parts] == [31]


def test_rows_of_a_matrix_across_parts(monkeypatch):
    monkeypatch.setattr(remainder, "PART", 7)
    values = torch.arange(-9, 12, dtype=torch.float64).view(7, 3)
    section = decode(encode(values, 1.0), (7, 3))
    assert [len(part) for part in section.parts] == [2, 2, 2, 1]
    for start in range(8):
        for stop in range(start, 8):
            found = section.rows(start, stop, np.zeros((stop - start, 3)))
            assert found.tolist() == values[start:stop].tolist()


def test_a_row_longer_than_a_part_is_one_part(monkeypatch):
    monkeypatch.setattr(remainder, "PART", 4)
    encoded = encode(matrix(2, 9), 0.1)
    assert len(encoded.parts) == 2


def test_without_its_parts_a_section_is_zero():
    """As where only the front of an object is read."""
    section = decode(encode(matrix(6, 5), 0.1), (6, 5), 0)
    assert value(section).tolist() == np.zeros((6, 5)).tolist()
    assert section.rows(2, 4, np.zeros((2, 5))).shape == (2, 5)


def test_values_may_be_modified_without_harm():
    section = decode(encode(torch.tensor([[1.0, 2.0]], dtype=torch.float64), 1.0), (1, 2))
    value(section)[:] = 0
    assert value(section).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing(shape):
    encoded = encode(torch.zeros(shape, dtype=torch.float64), 0.5)
    assert encoded.parts == ()
    assert value(decode(encoded, shape)).shape == shape


ONE = {"step": [1, 0]}


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        (ONE, [b""]),
        (ONE, [b"\2\0\0\0"]),
        (ONE, [b"\2\0\0\0\0\0"]),
        (ONE, [b"\4\0\0\0\0"]),
        (ONE, [b"\1\0\0"]),
        (ONE, [b"\3" + bytes(6)]),
        (ONE, [b"\x08" + bytes(16)]),
        (ONE, [b"\2\0\0\0\0", b"\2\0\0\0\0"]),
        (ONE, [b"\2\0\0\0\0", b""]),
        (ONE, [b"\4\0\0\0\x20\0\0\0\0"]),  # 2^29
        (ONE, [b"\4\0\0\0\0\0\0\0\x80"]),  # -2^31
        ({}, [b"\2\0\0\0\0"]),
        ({"step": [1, 0], "x": 1}, [b"\2\0\0\0\0"]),
        ({"step": [1 << 25, 0]}, [b"\2\0\0\0\0"]),
        ({"step": [1, 901]}, [b"\2\0\0\0\0"]),
    ],
)
def test_anything_else_is_refused(parameters, parts):
    with pytest.raises(CorruptionError):
        remainder.Remainder.decode(parameters, parts, (1, 2))


@pytest.mark.parametrize("shape", [(1 << 30, 1 << 29), (1 << 59, 1), (1, 1 << 59)])
def test_shapes_that_no_part_can_fill_are_refused_at_once(shape):
    with pytest.raises(CorruptionError):
        remainder.Remainder.decode(ONE, [b"\2\0\0\0\0"], shape)
