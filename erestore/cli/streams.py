"""Standard streams: there whatever the caller closed, printing in any locale, and telling their own failures from others'."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

STANDARD_OUTPUT = "the standard output"
"""What an OSError of the standard output has for a file name."""


class _Output(io.FileIO):
    """A descriptor whose errors say that it was the output that could not be written, and nothing else."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type] # whatever the buffer above hands down
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            raise


def prepare_streams() -> None:
    """Make the standard streams fit to print on; for the start of a process.

    A closed descriptor becomes the null device: Python would have no stream for it, and the next file to be opened would
    take its number and be printed into. What the locale cannot write is written as an escape instead of failing.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
    sys.stdout = _text(io.BufferedWriter(_Output(1, "w", closefd=False)), sys.stdout)
    sys.stderr = _text(open(2, "wb", closefd=False), sys.stderr)  # noqa: SIM115 - for as long as the process


def _text(buffer: io.BufferedIOBase, stream: TextIO | None) -> TextIO:
    """Return a text stream over a buffer with the encoding that Python chose."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        buffer,  # type: ignore[type-var] # a BufferedIOBase that writes
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=stream is not None and stream.isatty(),
    )
