"""Tensors kept outside memory between two passes."""

from __future__ import annotations

import math
import tempfile
import threading
from typing import Self

import torch

_SPOOL_MEMORY = 16 << 20


class TensorSpool:
    """Tensors of one dtype, such as singular bases, kept outside memory between the passes. A context manager.

    Parameters
    ----------
    dtype : torch.dtype
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY)  # noqa: SIM115 - closed by __exit__
        self._dtype = dtype
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._length = 0
        self._lock = threading.Lock()

    def __contains__(self, key: str) -> bool:
        """Tell whether a tensor is kept."""
        return key in self._places

    def put(self, key: str, tensor: torch.Tensor) -> None:
        """Keep one tensor."""
        content = tensor.contiguous().numpy().tobytes()
        with self._lock:
            self._file.seek(self._length)
            self._file.write(content)
            self._places[key] = self._length, tuple(tensor.shape)
            self._length += len(content)

    def get(self, key: str) -> torch.Tensor:
        """Return one tensor."""
        with self._lock:
            start, shape = self._places[key]
            self._file.seek(start)
            content = bytearray(self._file.read(self._dtype.itemsize * math.prod(shape)))
        if not content:  # of rank 0: all of the difference was a multiple of the parent
            return torch.empty(shape, dtype=self._dtype)
        return torch.frombuffer(content, dtype=self._dtype).view(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
