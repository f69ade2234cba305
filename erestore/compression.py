"""Bounded zstandard: what a frame declares is checked before anything is allocated.

``zstandard`` ignores ``max_output_size`` when a frame declares its size, so a frame of a few bytes can ask for terabytes;
here the declared size must equal the size that the record promises, and the window is capped.
"""

from __future__ import annotations

import zstandard

from erestore.errors import CorruptionError

WINDOW_LIMIT = 1 << 27
"""Largest decompression window accepted, in bytes."""


def compress(content: bytes | bytearray | memoryview, level: int = 3) -> bytes:
    """Compress `content` into one zstandard frame that declares its size.

    Parameters
    ----------
    content : bytes-like
    level : int
        zstandard level; higher is smaller and slower. Any level decodes the same way.
    """
    return zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True).compress(content)


def decompress(frame: bytes | bytearray | memoryview, size: int) -> bytes:
    """Decompress one frame that must hold exactly `size` bytes.

    Raises
    ------
    CorruptionError
        If the frame is malformed, declares another size or too large a window, or holds another amount of data.
    """
    try:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.content_size != size:
            raise CorruptionError(
                f"A compressed frame declares {parameters.content_size} bytes where {size} are recorded."
            )
        # A frame with a single segment uses its content as window, which `size` bounds already.
        if parameters.window_size > max(WINDOW_LIMIT, size):
            raise CorruptionError("A compressed frame asks for too large a window.")
        content = zstandard.ZstdDecompressor(max_window_size=max(WINDOW_LIMIT, size)).decompress(frame) if size else b""
    except zstandard.ZstdError as error:
        raise CorruptionError(f"A compressed frame is damaged: {error}.") from error
    if len(content) != size:
        raise CorruptionError(f"A compressed frame holds {len(content)} bytes where {size} are recorded.")
    return content
