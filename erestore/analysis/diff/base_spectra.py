"""Spectra of base tensors, which cost more than those of differences: each is computed once and kept.

Copies on disk are keyed by the tensor's digest, so they hold for every store and for ever; any trouble with the directory is
the same as not having a copy.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from blake3 import blake3

from erestore.arrays import as_tensor, matrix_shape, widen
from erestore.checkpoint.dtypes import is_floating
from erestore.residual.spectrum import RowGram, singular_values
from erestore.variant.variant import Variant

_BLOCK_ROWS = 2048
_DIGEST_BYTES = 32
_VERSION = "1"
"""Changes when what is kept is computed in another way."""


@dataclass(frozen=True)
class BaseSpectra:
    """Singular values of base tensors.

    Attributes
    ----------
    directory : Path or None
        Where copies are kept between runs; may be shared by any number of processes and stores, and may be removed.
    """

    directory: Path | None = None
    _known: dict[str, torch.Tensor] = field(default_factory=dict)

    def of(self, variant: Variant, key: str) -> torch.Tensor | None:
        """Return all singular values of one tensor of a variant's base.

        Parameters
        ----------
        variant : Variant
        key : str

        Returns
        -------
        torch.Tensor or None
            Float64, descending; None for what has no spectrum: not in the base, not floating, a vector, not finite.
        """
        tensor = variant.base.get(key)
        if tensor is None or not is_floating(tensor.dtype) or min(matrix_shape(tensor.shape)) < 2:
            return None
        values = self._known.get(tensor.digest)
        if values is None:
            values = self._read(tensor.digest)
        if values is None:
            values = _compute(variant, key)
            self._keep(tensor.digest, values)
        self._known[tensor.digest] = values
        return values if values.numel() else None

    def _path(self, digest: str) -> Path | None:
        return self.directory / _VERSION / digest[:2] / digest[2:] if self.directory else None

    def _read(self, digest: str) -> torch.Tensor | None:
        path = self._path(digest)
        with suppress(OSError):
            content = path.read_bytes() if path else b""
            stated, values = content[:_DIGEST_BYTES], bytearray(content[_DIGEST_BYTES:])
            if blake3(values).digest() == stated:
                return torch.frombuffer(values, dtype=torch.float64) if values else torch.zeros(0, dtype=torch.float64)
        return None

    def _keep(self, digest: str, values: torch.Tensor) -> None:
        path = self._path(digest)
        if path is None:
            return
        content = values.numpy().tobytes()
        temporary = path.with_name(f"new-{secrets.token_hex(8)}")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(blake3(content).digest() + content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)


def _compute(variant: Variant, key: str) -> torch.Tensor:
    """Return the spectrum, empty where there is none because a value is not finite."""
    tensor = variant.base[key]
    rows, columns = matrix_shape(tensor.shape)
    if rows < columns or tensor.dtype == "F64":  # the squares of float64 may leave its range
        matrix = as_tensor(variant.base_tensor(key)).view(rows, columns)
        values = matrix.to(torch.float32) if matrix.element_size() < 4 else matrix
        return singular_values(values) if bool(torch.isfinite(values).all()) else torch.zeros(0, dtype=torch.float64)
    gram, read = RowGram(columns), variant.base_rows(key)
    for start in range(0, rows, _BLOCK_ROWS):
        block = as_tensor(widen(read(start, min(start + _BLOCK_ROWS, rows))))
        if not bool(torch.isfinite(block).all()):
            return torch.zeros(0, dtype=torch.float64)
        gram.add(block)
    return gram.singular_values()
