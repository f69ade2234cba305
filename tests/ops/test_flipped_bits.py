"""Any one bit of any object that is not what was written is found by fsck, and no reader takes it for what was written."""

from __future__ import annotations

import random

import pytest
import tiny
import torch

from erestore.encoding.quality import Quality
from erestore.errors import ErestoreError, UnsupportedFormatError
from erestore.ops.commit import commit
from erestore.ops.fsck import fsck
from erestore.storage.abc import Storage
from erestore.storage.frames import is_segmented, kind_of
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore

KINDS = {"base", "blob", "commit", "layout", "manifest", "patch", "residual", "tensors"}


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Objects of every kind, in every form, with segments of every stage and padding between some."""
    place = tmp_path_factory.mktemp("models")
    store = tiny.filled_store(MemoryStorage(), place)
    generator = torch.Generator().manual_seed(2)
    base = tiny.base_weights()
    sides = torch.randn(64, 20, generator=generator), torch.randn(20, 32, generator=generator)
    change = sides[0] @ sides[1] + 0.5 * torch.randn(64, 32, generator=generator)
    path = tiny.write_model(place / "fine", base | {"embedding.weight": base["embedding.weight"] + 0.01 * change})
    (path / "merges.txt").write_bytes(b"a b\n" * 300_000 + random.Random(1).randbytes(1_300_000))
    commit(store, path, base="base", quality=Quality(max_error=1e-4))
    return store.storage


def read(storage: Storage, oid: str) -> list[bytes]:
    """Everything that a reader takes from one object."""
    objects = ObjectStore(storage)
    start = storage.read_range(key_of(oid), 0, 20)
    kind = kind_of(start)
    if kind is None:
        raise UnsupportedFormatError("No reader would take this for an object.")
    if kind == "blob":
        return [objects.get_blob(oid)]
    if is_segmented(start):
        held = objects.open(kind, oid)
        return [repr(held.index).encode(), *held.read_many(range(len(held.segments)))]
    return [repr(objects.get_record(kind, oid)).encode()]


def key_of(oid: str) -> str:
    return f"objects/{oid[:2]}/{oid[2:]}"


def test_the_objects_are_of_every_kind_and_form(varied: Storage) -> None:
    objects, found, stages, padded = ObjectStore(varied), set(), set(), False
    for held in objects.list():
        content = varied.read(key_of(held.oid))
        kind = kind_of(content)
        assert kind is not None
        found.add((kind, is_segmented(content)))
        if is_segmented(content):
            segments = objects.open(kind, held.oid).segments
            stages |= {(kind, segment.stage) for segment in segments}
            padded |= segments[0].offset > 4000 and kind == "tensors"
    assert {kind for kind, _ in found} == KINDS
    assert {("blob", False), ("blob", True)} <= found
    assert {("residual", "runs"), ("blob", "zstd"), ("blob", "raw"), ("tensors", "raw")} <= stages
    assert padded  # before a segment


def flips(varied: Storage, number: int) -> None:
    """Flip one random bit in every object, so often that it makes `number` in all."""
    storage = tiny.copy_store(varied, MemoryStorage()).storage
    store = tiny.store_on(storage)
    oids = sorted(held.oid for held in store.objects.list())
    expected = {oid: read(varied, oid) for oid in oids}
    draws = random.Random(number)
    for _ in range(-(-number // len(oids))):
        positions = {}
        for oid in oids:
            content = bytearray(varied.read(key_of(oid)))
            position = positions[oid] = draws.randrange(len(content) * 8)
            content[position // 8] ^= 1 << position % 8
            storage.delete(key_of(oid))
            storage.create(key_of(oid), bytes(content))
            try:
                found = read(storage, oid)
            except ErestoreError:
                continue
            assert found == expected[oid], position  # a bit that is no part of what is read: padding
        corrupt = {each.oid for each in fsck(store, read_data=True).corrupt}
        assert not {oid: position for oid, position in positions.items() if oid not in corrupt}


def test_ten_thousand_flipped_bits_are_found(varied: Storage) -> None:
    flips(varied, 10_000)


@pytest.mark.soak
def test_a_hundred_thousand_flipped_bits_are_found(varied: Storage) -> None:
    flips(varied, 100_000)
