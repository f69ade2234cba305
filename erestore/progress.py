"""How long work reports where it is: a callable, so that a library caller and the command line can show it their own way."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told the stage (``spectra``, ``encoding``, ...), how many tensors are done, and of how many."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Report nothing."""
