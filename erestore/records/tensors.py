"""Whole tensors and where their bytes are, and the base, which is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from erestore.records.coefficients import Coefficient, format_coefficient, parse_coefficient
from erestore.records.parse import read_number, read_shape, reading


class TensorRef(NamedTuple):
    """Where raw tensor data is: `segments` consecutive segments of the ``tensors`` object `oid`, from `first`."""

    oid: str
    first: int
    segments: int


@dataclass(frozen=True)
class WholeTensor:
    """One whole tensor: dtype, shape, BLAKE3 of dtype, shape and bytes, and where the bytes are."""

    dtype: str
    shape: tuple[int, ...]
    digest: str
    data: TensorRef

    def to_record(self) -> list[Any]:
        """Return the stored JSON array."""
        return [self.dtype, list(self.shape), self.digest, list(self.data)]

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Read a stored JSON array."""
        dtype, shape, digest, (oid, first, segments) = record
        if not all(isinstance(text, str) for text in (dtype, digest, oid)):
            raise TypeError
        return cls(dtype, read_shape(shape), digest, TensorRef(oid, read_number(first), read_number(segments)))


class Part(NamedTuple):
    """One weighted dense operand: coefficient and tensor."""

    coefficient: Coefficient
    tensor: WholeTensor


@dataclass(frozen=True)
class Base:
    """Whole tensors by name; a base never has a base."""

    tensors: Mapping[str, WholeTensor]

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        return {"tensors": {key: tensor.to_record() for key, tensor in self.tensors.items()}}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        with reading("base", record, {"tensors"}):
            return cls({key: WholeTensor.from_record(tensor) for key, tensor in record["tensors"].items()})

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        for oid in {tensor.data.oid for tensor in self.tensors.values()}:
            yield "tensors", oid


def parts_record(parts: Mapping[str, tuple[Part, ...]]) -> dict[str, Any]:
    """Return the stored JSON object of parts by key."""
    return {
        key: [[format_coefficient(part.coefficient), part.tensor.to_record()] for part in value]
        for key, value in parts.items()
    }


def read_parts(record: Mapping[str, Any]) -> dict[str, tuple[Part, ...]]:
    """Read a stored JSON object of parts by key."""
    return {
        key: tuple(Part(parse_coefficient(text), WholeTensor.from_record(tensor)) for text, tensor in value)
        for key, value in record.items()
    }
