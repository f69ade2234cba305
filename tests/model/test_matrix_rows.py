"""Rows of a raw matrix, in any order, wherever the borders of its segments are."""

from __future__ import annotations

import random

import numpy as np
import pytest

from erestore.arrays import raw_bytes
from erestore.errors import CorruptionError
from erestore.objects import tensors
from erestore.objects.tensors import TensorReader, TensorWriter
from erestore.records import TensorRef
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore


@pytest.mark.parametrize("align", [1, 4096])
@pytest.mark.parametrize("segment", [4, 52, 60, 200, 1 << 20])
def test_any_rows(monkeypatch: pytest.MonkeyPatch, segment: int, align: int) -> None:
    monkeypatch.setattr(tensors, "SEGMENT", segment)
    values = np.arange(11 * 13, dtype=np.float32).reshape(11, 13)
    objects = ObjectStore(MemoryStorage())
    with TensorWriter(objects, align=align) as writer:
        writer.add(raw_bytes(values + 1), "F32")
        place = writer.add(raw_bytes(values), "F32")
        data = TensorRef(writer.finish().oid, *place)
    rows = TensorReader(objects).rows(data, "F32", (11, 13))
    ranges = [(start, stop) for start in range(11) for stop in range(start, 12)]
    for start, stop in [*ranges, *random.Random(0).sample(ranges, len(ranges))]:
        assert np.array_equal(rows(start, stop), values[start:stop]), (start, stop)
    assert np.array_equal(rows(9, 20), values[9:])
    with pytest.raises(CorruptionError):
        TensorReader(objects).rows(data, "F32", (11, 14))


def test_empty_ones() -> None:
    objects = ObjectStore(MemoryStorage())
    with TensorWriter(objects, align=1) as writer:
        place = writer.add(memoryview(b""), "F32")
        data = TensorRef(writer.finish().oid, *place)
    assert TensorReader(objects).rows(data, "F32", (0, 5))(0, 0).shape == (0, 5)
    assert TensorReader(objects).rows(data, "F32", (5, 0))(1, 3).shape == (2, 0)
