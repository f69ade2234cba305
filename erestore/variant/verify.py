"""Whether stored tensors decode to what was recorded of them."""

from __future__ import annotations

from collections.abc import Iterator

from erestore.arrays import raw_bytes
from erestore.errors import CorruptionError, ErestoreError
from erestore.objects.tensors import TensorReader, content_digest
from erestore.records import Base
from erestore.storage.objects import ObjectStore
from erestore.variant.variant import Variant


def base_faults(objects: ObjectStore, oid: str) -> Iterator[ErestoreError]:
    """Yield what is wrong with the tensors of a base, at most once each."""
    reader = TensorReader(objects)
    for name, tensor in Base.from_record(objects.get_record("base", oid)).tensors.items():
        try:
            content = raw_bytes(reader.read(tensor.data, tensor.dtype, tensor.shape))
            if content_digest(tensor.dtype, tensor.shape, content) != tensor.digest:
                yield CorruptionError(f"The tensor '{name}' does not have the digest that the base records.")
        except ErestoreError as error:
            yield error


def variant_faults(objects: ObjectStore, oid: str) -> Iterator[ErestoreError]:
    """Yield what is wrong with the tensors of a variant, given the oid of its manifest, at most once each.

    Reading a tensor compares it with the digest that its commit recorded, and applies its exact remainder.
    """
    try:
        variant = Variant.open(objects, oid)
        names = list(variant.layout.tensors)
        _ = variant.residuals
    except ErestoreError as error:
        yield error
        return
    for name in names:
        try:
            for _ in variant.blocks(name):
                pass
        except ErestoreError as error:
            yield CorruptionError(f"The tensor '{name}' cannot be decoded: {error.message}")
