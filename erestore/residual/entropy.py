"""The entropy stage: bytes of a segment as the codecs see them, to bytes as stored, and back.

The stage is a named field of a segment, so that a better one can be added without touching a codec.
"""

from __future__ import annotations

from collections.abc import Sequence

from erestore import compression
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.residual import pco, runs, words

STAGES = RAW, ZSTD, RUNS = "raw", "zstd", "runs"
"""The stages of residuals, by their stored names; :mod:`erestore.residual.words` has those of whole tensors."""
PLAIN = (RAW, ZSTD)
"""The stages of any bytes."""
LEVEL = 1
"""zstandard level for codes: they are noise with a skew, and looking harder for repeats costs bytes (6 % at level 9)."""
SPARSE_LEVEL = 9
"""For what level 1 shrinks below :data:`SPARSE`: mostly zeros, where repeats are real."""
SPARSE = 0.25


def encode(content: bytes, *, level: int = LEVEL, layout: Sequence[runs.RunGroup] = ()) -> tuple[str, bytes]:
    """Return the stage that stores `content` in the fewest bytes, and those bytes.

    Parameters
    ----------
    content : bytes
    level : int
        Of zstandard.
    layout : sequence of RunGroup
        Where runs of integers are in `content`, if anywhere.
    """
    integers = sum(group.runs * group.length for group in layout if group.width > 1)
    if 0 < integers <= pco.LARGEST and len(layout) <= runs.GROUPS:
        coded = runs.encode(content, layout)
        if len(coded) < len(content):
            return RUNS, coded
    compressed = compression.compress(content, level)
    if len(compressed) < SPARSE * len(content):
        compressed = min(compressed, compression.compress(content, SPARSE_LEVEL), key=len)
    return (ZSTD, compressed) if len(compressed) < len(content) else (RAW, content)


def decode(stage: str, stored: bytes, size: int) -> bytes:
    """Undo :func:`encode`; `size` is the recorded length of the content.

    Raises
    ------
    CorruptionError
        If the content does not have exactly `size` bytes.
    UnsupportedFormatError
        If the stage is unknown.
    """
    if stage == ZSTD:
        return compression.decompress(stored, size)
    if stage == RUNS:
        return runs.decode(stored, size)
    if stage in words.STAGES:
        return words.decode(stage, stored, size)
    if stage != RAW:
        raise UnsupportedFormatError(
            f"A segment uses the entropy stage '{stage}', which this version does not know.",
            hint="Upgrade erestore to read it.",
        )
    if len(stored) != size:
        raise CorruptionError(f"A segment holds {len(stored)} bytes where {size} are recorded.")
    return stored
