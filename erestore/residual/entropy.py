"""The entropy stage: bytes of a segment as the codecs see them, to bytes as stored, and back.

The stage is a named field of a segment, so that a better one can be added without touching a codec.
"""

from __future__ import annotations

from erestore import compression
from erestore.errors import CorruptionError, UnsupportedFormatError

RAW, ZSTD = "raw", "zstd"
LEVEL = 9
"""zstandard level: decoding is as fast as at level 1; higher levels gain under 1 % on packed codes."""


def encode(content: bytes, *, level: int = LEVEL) -> tuple[str, bytes]:
    """Return the stage that stores `content` in the fewest bytes, and those bytes."""
    compressed = compression.compress(content, level)
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
    if stage != RAW:
        raise UnsupportedFormatError(
            f"A segment uses the entropy stage '{stage}', which this version does not know.",
            hint="Upgrade erestore to read it.",
        )
    if len(stored) != size:
        raise CorruptionError(f"A segment holds {len(stored)} bytes where {size} are recorded.")
    return stored
