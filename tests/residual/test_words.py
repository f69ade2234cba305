"""Stages of raw numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erestore.errors import CorruptionError
from erestore.residual import entropy, words

STAGES = pytest.mark.parametrize("stage", list(words.STAGES))


@STAGES
@given(data=st.data())
def test_any_bytes_come_back(stage: str, data: st.DataObject) -> None:
    size = words.STAGES[stage]
    count, zeros = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 8 * size))
    limit = (1 << (8 * size)) - 1
    values = data.draw(st.lists(st.integers(0, limit), min_size=count, max_size=count))
    content = b"".join(((value << zeros) & limit).to_bytes(size, "little") for value in values)
    assert entropy.decode(stage, words.encode(content, size), len(content)) == content


def test_weights_are_smaller_than_by_bytes() -> None:
    weights = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    assert len(words.encode(weights.tobytes(), 4)) < 0.86 * weights.nbytes < len(entropy.encode(weights.tobytes())[1])
    assert len(words.encode(weights.astype(np.float64).tobytes(), 8)) < 0.44 * 2 * weights.nbytes


CONTENT = np.arange(64, dtype=np.int16).tobytes()
STORED = words.encode(CONTENT, 2)


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        (b"", len(CONTENT)),
        (STORED[:1], len(CONTENT)),
        (STORED[:-1], len(CONTENT)),
        (STORED + b"\0", len(CONTENT)),
        (b"\x10" + STORED[1:], len(CONTENT)),
        (STORED, len(CONTENT) - 1),
        (STORED, len(CONTENT) + 1),
        (STORED, 2 * len(CONTENT)),
        (STORED, 0),
        (b"\0", 0),
    ],
)
def test_damage_is_refused(stored: bytes, size: int) -> None:
    with pytest.raises(CorruptionError):
        entropy.decode("words2", stored, size)
