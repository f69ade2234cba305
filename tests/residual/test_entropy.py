"""The entropy stage."""

from __future__ import annotations

import random

import pytest
import torch

from erestore.compression import compress
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.residual import entropy

NOISE = bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(4)).tolist())
SKEWED = bytes(
    torch.randn(20_000, generator=torch.Generator().manual_seed(5)).mul(3).round().add(20).to(torch.uint8).tolist()
)


@pytest.mark.parametrize(
    ("content", "stage"), [(NOISE, "raw"), (SKEWED, "zstd"), (bytes(9000), "zstd"), (b"", "raw"), (b"a", "raw")]
)
def test_the_smaller_stage_is_taken(content, stage):
    found, stored = entropy.encode(content)
    assert found == stage
    assert len(stored) <= len(content)
    assert entropy.decode(found, stored, len(content)) == content


def test_sparse_content_gets_the_slow_level():
    draw = random.Random(1)  # Zipf-like: common words, rare words, nothing longer than a word
    words = [draw.randbytes(draw.randrange(3, 30)) for _ in range(300)]
    content = b"".join(words[min(299, int(draw.expovariate(0.02)))] for _ in range(8000))
    fast, slow = (compress(content, level) for level in (entropy.LEVEL, entropy.SPARSE_LEVEL))
    assert len(slow) < len(fast) < entropy.SPARSE * len(content)
    assert entropy.encode(content) == ("zstd", slow)


@pytest.mark.parametrize("stage", ["raw", "zstd"])
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(stage, change):
    stored = SKEWED if stage == "raw" else entropy.encode(SKEWED)[1]
    with pytest.raises(CorruptionError):
        entropy.decode(stage, stored, len(SKEWED) + change)


def test_an_unknown_stage_is_named():
    with pytest.raises(UnsupportedFormatError, match="rans"):
        entropy.decode("rans", b"", 0)
