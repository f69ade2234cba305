"""Sections that say anything: every codec decodes them or raises CorruptionError, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forging import change, damage, memory_limit
from former_codes import encode_lowrank, encode_vector
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.arrays import BFLOAT16, without_warnings
from erestore.errors import CorruptionError
from erestore.residual import dyadic, factorise
from erestore.residual.codecs import dense, ere, factors, gamma, lowrank2, remainder
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.registry import _BUILT_IN, codec
from erestore.residual.quantisation import quantise_matrix

SHAPE = (24, 17)


def sections() -> dict[str, EncodedSection]:
    """A section of every codec, for a matrix of one shape."""
    generator = torch.Generator().manual_seed(3)
    sides = [torch.randn(size, 5, generator=generator, dtype=torch.float64) for size in SHAPE]
    matrix = sides[0] @ sides[1].T
    _, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    codes = factorise.quantise(matrix.float(), right[:5].T, sigma[:5], "right", 0.01)
    size = dyadic.nearest(0.01, 24)
    return {
        "lowrank": encode_lowrank(codes),
        "lowrank2": lowrank2.encode(codes),
        "remainder": remainder.encode(quantise_matrix(matrix, size), size, SHAPE),
        "gamma": gamma.encode(dyadic.nearest(-0.1, gamma.GAMMA_BITS)),
        "vector": encode_vector(matrix, 0.01),
        "dense": dense.encode(matrix.numpy().astype(BFLOAT16)),
        "factors": factors.encode(sides[0].float().numpy(), sides[1].T.float().numpy(), 2.0),
        "ere": ere.encode_section(matrix, 4),
    }


SECTIONS = sections()


def test_every_codec_is_here() -> None:
    assert SECTIONS.keys() == _BUILT_IN.keys()
    for name, section in SECTIONS.items():
        decoded = codec(name).decode(section.parameters, [part.content for part in section.parts], SHAPE)
        assert decoded.rows(0, SHAPE[0], np.ones(SHAPE)).shape == SHAPE


def decode_changed(name: str, data: st.DataObject) -> None:
    section = SECTIONS[name]
    parameters, parts, shape = dict(section.parameters), [part.content for part in section.parts], SHAPE
    what = data.draw(st.sampled_from(["parameters", "part", "parts", "shape"]))
    if what == "parameters":
        parameters = change(data.draw, parameters)
    elif what == "part" and parts:
        number = data.draw(st.integers(0, len(parts) - 1))
        parts[number] = damage(data.draw, parts[number])
    elif what == "parts":
        parts = data.draw(st.lists(st.sampled_from([*parts, b"", b"\0", b"\xff" * 40]), max_size=6))
    else:
        shape = data.draw(st.tuples(st.integers(0, 40), st.integers(0, 40)))
    with memory_limit(1024), without_warnings():
        try:
            decoded = codec(name).decode(parameters, parts, shape)
            value = decoded.rows(0, shape[0], np.ones(shape))
            decoded.factors()
        except CorruptionError:
            return
    assert value.shape == shape
    assert value.dtype == np.float64


@pytest.mark.parametrize("name", SECTIONS)
@settings(settings.get_profile("hostile"), max_examples=100)
@given(data=st.data())
def test_a_changed_section(name: str, data: st.DataObject) -> None:
    decode_changed(name, data)


@pytest.mark.soak
@pytest.mark.parametrize("name", SECTIONS)
@settings(settings.get_profile("hostile soak"))
@given(data=st.data())
def test_a_changed_section_often(name: str, data: st.DataObject) -> None:
    decode_changed(name, data)
