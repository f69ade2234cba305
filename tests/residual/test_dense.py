"""Raw values."""

from __future__ import annotations

import pytest
import torch

from erestore.errors import CorruptionError
from erestore.residual.codecs import dense

BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


@pytest.mark.parametrize("dtype", list(BITS), ids=str)
@pytest.mark.parametrize("chunk", [5, 1 << 18])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 3), (7, 5)])
def test_every_bit_is_kept(dtype, chunk, shape, monkeypatch):
    monkeypatch.setattr(dense, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    limit = torch.iinfo(BITS[dtype])
    bits = torch.randint(limit.min, limit.max, shape, generator=generator, dtype=BITS[dtype])
    encoded = dense.encode(bits.view(dtype))
    section = dense.Dense.decode(encoded.parameters, [part.content for part in encoded.parts], shape)
    assert torch.equal(section.values.view(BITS[dtype]), bits)
    assert len(encoded.parts) == -(-bits.numel() // chunk)


def test_rows_may_be_modified_without_harm():
    encoded = dense.encode(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    section = dense.Dense.decode(encoded.parameters, [part.content for part in encoded.parts], (1, 2))
    base = torch.zeros(1, 2, dtype=torch.float64)
    section.rows(0, 1, base).zero_()
    assert section.rows(0, 1, base).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("parameters", [{}, {"dtype": "F8_E4M3"}, {"dtype": "F32", "x": 0}, {"dtype": ["F32"]}])
def test_other_parameters_are_refused(parameters):
    with pytest.raises(CorruptionError):
        dense.Dense.decode(parameters, [bytes(4)], (1, 1))


@pytest.mark.parametrize("parts", [[], [bytes(7)], [bytes(4), bytes(4)], [bytes(8), b""]])
def test_other_sizes_are_refused(parts):
    with pytest.raises(CorruptionError):
        dense.Dense.decode({"dtype": "F32"}, parts, (1, 2))
