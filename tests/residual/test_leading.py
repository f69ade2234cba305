"""The leading components of sections: which parts they need, and what they evaluate to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from former_codes import encode_lowrank, encode_vector

from erestore.errors import CorruptionError
from erestore.residual import dyadic
from erestore.residual.codecs import dense, ere, lowrank, lowrank2, remainder
from erestore.residual.codecs.lowrank import Codes, cut_groups
from erestore.residual.codecs.registry import codec
from erestore.residual.quantisation import quantise_matrix

SHAPE = (30, 40)
RANK = 21
CODECS = pytest.mark.parametrize(
    ("module", "stops"), [(lowrank, [2, 4, 8, 16, 21]), (lowrank2, [4, 16, 21])], ids=["lowrank", "lowrank2"]
)

ENCODE = {lowrank: encode_lowrank, lowrank2: lowrank2.encode}


def codes() -> Codes:
    """Components in several groups, so that a cut falls inside and between groups."""
    generator = np.random.default_rng(3)
    left, right = (generator.integers(-100, 101, (size, RANK), np.int16) for size in SHAPE)
    largest = [int(a) * int(b) for a, b in zip(abs(left).max(axis=0), abs(right).max(axis=0), strict=True)]
    mantissas, exponents = [33] * RANK, [-4 * k for k in range(RANK)]
    groups, shifts = cut_groups(mantissas, exponents, largest)
    assert len(groups) > 1
    return Codes(left, right, np.array(mantissas), np.array(shifts), groups)


def value(held: Codes, rank: int) -> np.ndarray:
    left, right = held.sides()
    return left[:, :rank] @ right[:, :rank].T


@CODECS
def test_a_rank_needs_the_bands_that_it_begins(module, stops):
    section = ENCODE[module](codes())
    kind = codec(section.codec)
    assert kind.progressive
    for rank in range(1, RANK + 5):
        full, used = kind.leading_parts(section.parameters, len(section.parts), SHAPE, rank)
        assert full == sum(stop <= rank for stop in stops)
        assert used == sum(start < rank for start in [0, *stops[:-1]])
        assert full <= used <= full + 1


@CODECS
@pytest.mark.parametrize("rank", range(1, RANK + 2))
def test_the_parts_that_a_rank_needs_hold_its_components(module, stops, rank):
    held = codes()
    section = ENCODE[module](held)
    kind = codec(section.codec)
    contents = [part.content for part in section.parts]
    _, used = kind.leading_parts(section.parameters, len(contents), SHAPE, rank)
    found = kind.decode(section.parameters, contents[:used], SHAPE).leading(rank)
    left, right = found.factors()
    assert left.shape[1] == right.shape[1] == min(rank, RANK)
    rows = found.rows(0, SHAPE[0], np.zeros(SHAPE))
    assert all(np.array_equal(one, other[:, :rank]) for one, other in zip((left, right), held.sides(), strict=True))
    assert np.allclose(rows, value(held, rank), rtol=1e-12)
    again = kind.decode(section.parameters, contents, SHAPE).leading(rank)
    assert np.array_equal(rows, again.rows(0, SHAPE[0], np.zeros(SHAPE)))


@CODECS
def test_malformed_parameters_are_corruption(module, stops):
    section = ENCODE[module](codes())
    with pytest.raises(CorruptionError):
        codec(section.codec).leading_parts({"rank": "x"}, len(section.parts), SHAPE, 3)


def test_what_components_leave_of_a_matrix_is_left_out_and_of_a_vector_is_not():
    step = dyadic.nearest(0.01, 24)
    for shape, expected in (((6, 8), (0, 0)), ((1, 8), (1, 1))):
        parts = quantise_matrix(torch.ones(shape), step)
        section = remainder.encode(parts, step, shape)
        assert codec("remainder").leading_parts(section.parameters, len(section.parts), shape, 1) == expected
    assert not codec("remainder").progressive


def test_what_has_no_components_is_whole():
    for section in (encode_vector(np.ones((2, 3)), 0.1), dense.encode(np.ones((2, 3)))):
        kind = codec(section.codec)
        assert kind.leading_parts(section.parameters, len(section.parts), (2, 3), 1) == (1, 1)
        decoded = kind.decode(section.parameters, [part.content for part in section.parts], (2, 3))
        assert decoded.leading(1) is decoded


def test_ere_is_cut_after_it_is_read():
    matrix = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    section = ere.encode_section(matrix, 6, 8)
    kind = codec("ere")
    contents = [part.content for part in section.parts]
    assert kind.leading_parts(section.parameters, 1, SHAPE, 5) == (0, 1)
    assert kind.leading_parts(section.parameters, 1, SHAPE, 6) == (1, 1)
    whole = kind.decode(section.parameters, contents, SHAPE)
    left, right = whole.factors()
    found = whole.leading(2).rows(3, 9, np.zeros((6, SHAPE[1])))
    assert np.allclose(found, left[3:9, :2] @ right[:, :2].T)
