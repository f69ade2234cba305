"""Patch objects: the exact remainder of a variant over a prediction, tensor by tensor.

A tensor that the patch does not name equals its rounded linear value already. Parts are grouped into segments of about 1 MiB;
their places follow from the order, as in residuals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from erestore.checkpoint.dtypes import torch_dtype
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.model.indexes import Placement, check_fields, check_index, read_shape
from erestore.model.tensors import value_digest
from erestore.residual import difference, entropy
from erestore.storage.objects import Objects
from erestore.storage.segments import Written

CODEC = "difference"
"""How a remainder is coded; see :mod:`erestore.residual.difference`."""
FEATURES = (CODEC, *entropy.PLAIN)
_FIELDS = {"codec", "digest", "dtype", "parts", "predictor", "shape"}
SEGMENT = 1 << 20
LARGEST_SEGMENT = SEGMENT + 8 * difference.CHUNK
"""A segment is closed by the part that fills it, whose elements have at most 8 bytes."""
LEVEL = 3
"""zstandard level: exact remainders are mostly noise, which no level compresses."""
DEEPEST = 4
"""Longest chain of ``stored`` predictors."""


class PatchWriter:
    """Packs exact remainders into a patch object. A context manager; what is not finished is dropped."""

    def __init__(self, objects: Objects) -> None:
        self._writer = objects.writer("patch")
        self._tensors: dict[str, dict[str, Any]] = {}
        self._pending: list[bytes] = []
        self._segments = 0

    @property
    def is_empty(self) -> bool:
        """Whether no tensor needed a remainder."""
        return not self._tensors

    def add(
        self, key: str, dtype: str, value: torch.Tensor, predicted: torch.Tensor, predictor: tuple[str, ...]
    ) -> None:
        """Take one tensor and its prediction (same dtype and shape); keys must come sorted."""
        lengths = []
        for part in difference.encode(value, predicted):
            lengths.append([self._segments, len(part)])
            self._pending.append(part)
            if sum(map(len, self._pending)) >= SEGMENT:
                self._flush()
        self._tensors[key] = {
            "codec": CODEC,
            "digest": value_digest(value),
            "dtype": dtype,
            "shape": list(value.shape),
            "predictor": list(predictor),
            "parts": lengths,
        }

    def _flush(self) -> None:
        content = b"".join(self._pending)
        stage, stored = entropy.encode(content, level=LEVEL)
        self._writer.add(stored, raw_length=len(content), stage=stage)
        self._pending = []
        self._segments += 1

    def finish(self) -> Written:
        """Write the object."""
        if self._pending:
            self._flush()
        return self._writer.finish({"features": list(FEATURES), "tensors": self._tensors})

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._writer.__exit__(*details)


@dataclass(frozen=True)
class PatchedTensor:
    """Digest, dtype, shape, predictor and parts as (segment, offset, length) of one tensor."""

    digest: str
    dtype: str
    shape: tuple[int, ...]
    predictor: tuple[str, ...]
    parts: tuple[tuple[int, int, int], ...]


@dataclass
class Patch:
    """A patch object opened for reading."""

    oid: str
    tensors: Mapping[str, PatchedTensor]
    _object: Any
    _last: tuple[int, bytes] = (-1, b"")

    @classmethod
    def open(cls, objects: Objects, oid: str) -> Self:
        """Read and check the index."""
        held = objects.open("patch", oid)
        check_index("patch", oid, held.index, {"tensors"}, FEATURES)
        if any(segment.raw_length > LARGEST_SEGMENT for segment in held.segments):
            raise CorruptionError(f"The patch {oid[:12]} declares an oversized segment.")
        placement = Placement([segment.raw_length for segment in held.segments])
        tensors = {}
        try:
            for key in sorted(held.index["tensors"]):
                tensor = held.index["tensors"][key]
                check_fields(f"A patch's tensor '{key}'", tensor, _FIELDS)
                predictor = tuple(map(str, tensor["predictor"]))
                shape = read_shape(tensor["shape"])
                if tensor["codec"] != CODEC:
                    raise UnsupportedFormatError(f"The patch {oid[:12]} uses the unknown codec '{tensor['codec']}'.")
                digest, dtype = str(tensor["digest"]), str(tensor["dtype"])
                tensors[key] = PatchedTensor(
                    digest, dtype, shape, predictor, tuple(map(placement.take, tensor["parts"]))
                )
                if predictor not in (("linear",), ("base",)) and (predictor[0], len(predictor)) != ("stored", 2):
                    raise UnsupportedFormatError(f"The patch {oid[:12]} uses the unknown predictor '{predictor[0]}'.")
            placement.finish()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CorruptionError(f"The patch {oid[:12]} has a malformed index.") from error
        return cls(oid, tensors, held)

    @property
    def manifests(self) -> set[str]:
        """Oids of the manifests that ``stored`` predictors name."""
        return {tensor.predictor[1] for tensor in self.tensors.values() if tensor.predictor[0] == "stored"}

    def apply(self, key: str, predicted: torch.Tensor) -> torch.Tensor:
        """Return the exact tensor, given its prediction in the same dtype and shape."""
        tensor = self.tensors[key]
        flat = predicted.contiguous().reshape(-1)
        size = torch_dtype(tensor.dtype).itemsize
        lengths = [len(chunk) * size for chunk in torch.split(flat, difference.CHUNK)] if flat.numel() else []
        if lengths != [length for _, _, length in tensor.parts] or math.prod(tensor.shape) != flat.numel():
            raise CorruptionError(f"The exact remainder of '{key}' has the wrong size.")
        result = torch.empty_like(flat)
        for number, (segment, start, length) in enumerate(tensor.parts):
            place = slice(number * difference.CHUNK, (number + 1) * difference.CHUNK)
            result[place] = difference.decode(self._segment(segment)[start : start + length], flat[place])
        if value_digest(result) != tensor.digest:
            raise CorruptionError(f"The exact remainder of '{key}' does not decode to the digest that it records.")
        return result.view(tensor.shape)

    def _segment(self, number: int) -> bytes:
        last = self._last  # taken once: other threads replace it
        if last[0] != number:
            segment = self._object.segments[number]
            last = number, entropy.decode(segment.stage, self._object.read(number), segment.raw_length)
            self._last = last
        return last[1]
