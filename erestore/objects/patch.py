"""Patch objects: the exact remainder of a variant over a prediction, tensor by tensor.

A tensor that the patch does not name equals its rounded linear value already. Parts are grouped into segments of about 1 MiB;
their places follow from the order, as in residuals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from blake3 import blake3

from erestore.arrays import Array, matrix_shape, raw_bytes, regrouped
from erestore.checkpoint.dtypes import array_dtype
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.objects.index import Placement, check_fields, check_index, read_shape
from erestore.objects.tensors import VALUE_DIGEST_BYTES, value_digest
from erestore.residual import difference, entropy, exact_remainder, remainder_classes
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult

CODECS = CODEC, FORMER = "classed", "difference"
"""How a remainder is coded; see the modules of these names. The first is written, both are read."""
FEATURES = (*CODECS, *entropy.PLAIN)
_FIELDS = {"codec", "digest", "dtype", "parts", "predictor", "shape"}
SEGMENT = 1 << 20
LARGEST_SEGMENT = SEGMENT + 8 * exact_remainder.CHUNK
"""A segment is closed by the part that fills it, whose elements have at most 8 bytes."""
DEEPEST = 4
"""Longest chain of ``stored`` predictors."""


@dataclass(frozen=True)
class EncodedRemainder:
    """One tensor's exact remainder, encoded.

    Attributes
    ----------
    dtype : str
    shape : tuple of int
    predictor : tuple of str
    digest : str
        Of the exact value.
    parts : tuple of bytes
    """

    dtype: str
    shape: tuple[int, ...]
    predictor: tuple[str, ...]
    digest: str
    parts: tuple[bytes, ...]

    @classmethod
    def encode(cls, dtype: str, value: Array, predicted: Array, predictor: tuple[str, ...]) -> Self:
        """Encode `value` given its prediction (same dtype and shape), and make sure that it decodes to the same bits.

        Raises
        ------
        CorruptionError
            If it does not.
        """
        shape = tuple(value.shape)
        parts = tuple(remainder_classes.encode(value, predicted, matrix_shape(shape)[1]))
        remainder = cls(dtype, shape, predictor, value_digest(value), parts)
        if _digest(_decode(CODEC, parts, (predicted,), matrix_shape(shape)[1])) != remainder.digest:
            raise CorruptionError("An exact remainder does not decode to the original.")
        return remainder


def cost(value: Array, predicted: Array) -> float:
    """Estimate the bits of a remainder, to compare predictions."""
    return remainder_classes.cost(value, predicted, matrix_shape(tuple(value.shape))[1])


def _decode(
    codec: str, parts: Iterable[bytes], predicted: Iterable[Array], columns: int, key: str = ""
) -> Iterator[Array]:
    """Yield the exact value, flat, a part at a time; the number of parts and their lengths have been checked.

    Parameters
    ----------
    codec : str
    parts : iterable of bytes
    predicted : iterable of ndarray
        The prediction in blocks of any size, of as many elements as the parts have together.
    columns : int
        Of the matrix.
    key : str
        What to call it where a part is damaged.
    """
    guesses = regrouped(predicted, exact_remainder.CHUNK)
    for number, (part, guess) in enumerate(zip(parts, guesses, strict=True)):
        position = exact_remainder.ElementSpan(number * exact_remainder.CHUNK, columns)
        try:
            block = exact_remainder.decode(part, guess, position) if codec == CODEC else difference.decode(part, guess)
        except CorruptionError as error:
            raise CorruptionError(f"The exact remainder of '{key}' is damaged: {error}") from error
        yield block


class PatchWriter:
    """Packs exact remainders into a patch object. A context manager; what is not finished is dropped."""

    def __init__(self, objects: ObjectStore) -> None:
        self._writer = objects.writer("patch")
        self._tensors: dict[str, dict[str, Any]] = {}
        self._pending: list[bytes] = []
        self._segments = 0

    @property
    def is_empty(self) -> bool:
        """Whether no tensor needed a remainder."""
        return not self._tensors

    def add(self, key: str, remainder: EncodedRemainder) -> None:
        """Take one tensor's remainder; keys must come sorted."""
        lengths = []
        for part in remainder.parts:
            lengths.append([self._segments, len(part)])
            self._pending.append(part)
            if sum(map(len, self._pending)) >= SEGMENT:
                self._flush()
        self._tensors[key] = {
            "codec": CODEC,
            "digest": remainder.digest,
            "dtype": remainder.dtype,
            "shape": list(remainder.shape),
            "predictor": list(remainder.predictor),
            "parts": lengths,
        }

    def _flush(self) -> None:
        content = b"".join(self._pending)
        self._writer.add(content, raw_length=len(content), stage=entropy.RAW)  # parts are entropy-coded themselves
        self._pending = []
        self._segments += 1

    def finish(self) -> PutResult:
        """Write the object."""
        if self._pending:
            self._flush()
        return self._writer.finish({"features": [CODEC, entropy.RAW], "tensors": self._tensors})

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._writer.__exit__(*details)


@dataclass(frozen=True)
class PatchedTensor:
    """Codec, digest, dtype, shape, predictor and parts as (segment, offset, length) of one tensor."""

    codec: str
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
    def open(cls, objects: ObjectStore, oid: str) -> Self:
        """Read and check the index."""
        stored = objects.open("patch", oid)
        check_index("patch", oid, stored.index, {"tensors"}, FEATURES)
        if any(segment.raw_length > LARGEST_SEGMENT for segment in stored.segments):
            raise CorruptionError(f"The patch {oid[:12]} declares an oversized segment.")
        placement = Placement([segment.raw_length for segment in stored.segments])
        tensors = {}
        try:
            for key in sorted(stored.index["tensors"]):
                tensor = stored.index["tensors"][key]
                check_fields(f"A patch's tensor '{key}'", tensor, _FIELDS)
                predictor = tuple(map(str, tensor["predictor"]))
                shape = read_shape(tensor["shape"])
                codec = tensor["codec"]
                if codec not in CODECS:
                    raise UnsupportedFormatError(f"The patch {oid[:12]} uses the unknown codec '{codec}'.")
                digest, dtype = str(tensor["digest"]), str(tensor["dtype"])
                tensors[key] = PatchedTensor(
                    codec, digest, dtype, shape, predictor, tuple(map(placement.take, tensor["parts"]))
                )
                if predictor not in (("linear",), ("base",)) and (predictor[0], len(predictor)) != ("stored", 2):
                    raise UnsupportedFormatError(f"The patch {oid[:12]} uses the unknown predictor '{predictor[0]}'.")
            placement.finish()
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CorruptionError(f"The patch {oid[:12]} has a malformed index.") from error
        return cls(oid, tensors, stored)

    @property
    def manifests(self) -> set[str]:
        """Oids of the manifests that ``stored`` predictors name."""
        return {tensor.predictor[1] for tensor in self.tensors.values() if tensor.predictor[0] == "stored"}

    def apply(self, key: str, predicted: Array) -> Array:
        """Return the exact tensor, given its prediction in the same dtype and shape."""
        if self.tensors[key].shape != tuple(predicted.shape):
            raise _wrong_size(key)
        result, position = np.empty(predicted.size, predicted.dtype), 0
        for block in self.blocks(key, (predicted,)):
            result[position : position + block.size] = block
            position += block.size
        return result.reshape(predicted.shape)

    def blocks(self, key: str, predicted: Iterable[Array]) -> Iterator[Array]:
        """Yield the exact tensor, flat, in blocks that follow each other, given its prediction in blocks of any size.

        Raises
        ------
        CorruptionError
            After the last block, if they do not have the digest that is recorded.
        """
        tensor = self.tensors[key]
        size, count = array_dtype(tensor.dtype).itemsize, math.prod(tensor.shape)
        raw = [size * min(exact_remainder.CHUNK, count - start) for start in range(0, count, exact_remainder.CHUNK)]
        lengths = [length for _, _, length in tensor.parts]
        if not (lengths == raw if tensor.codec == FORMER else _fit(lengths, raw)):
            raise _wrong_size(key)
        parts = (self._segment(segment)[start : start + length] for segment, start, length in tensor.parts)
        hasher = blake3()
        for block in _decode(tensor.codec, parts, predicted, matrix_shape(tensor.shape)[1], key):
            hasher.update(raw_bytes(block))
            yield block
        if hasher.hexdigest(length=VALUE_DIGEST_BYTES) != tensor.digest:
            raise CorruptionError(f"The exact remainder of '{key}' does not decode to the digest that it records.")

    def _segment(self, number: int) -> bytes:
        last = self._last  # taken once: other threads replace it
        if last[0] != number:
            segment = self._object.segments[number]
            last = number, entropy.decode(segment.stage, self._object.read(number), segment.raw_length)
            self._last = last
        return last[1]


def _digest(blocks: Iterable[Array]) -> str:
    """Return :func:`erestore.objects.tensors.value_digest` of a value that comes in blocks."""
    hasher = blake3()
    for block in blocks:
        hasher.update(raw_bytes(block))
    return str(hasher.hexdigest(length=VALUE_DIGEST_BYTES))


def _wrong_size(key: str) -> CorruptionError:
    return CorruptionError(f"The exact remainder of '{key}' has the wrong size.")


def _fit(lengths: Sequence[int], largest: Sequence[int]) -> bool:
    return len(lengths) == len(largest) and all(0 < a <= b for a, b in zip(lengths, largest, strict=True))
