"""Objects above a storage: records, blobs, segmented objects."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore.errors import AccessError, CorruptionError, MissingObjectError
from erestore.storage import segment_writer, segments
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import BLOB_SEGMENT, ObjectStore
from erestore.storage.segments import object_key


class Counting(MemoryStorage):
    """Counts requests."""

    def __init__(self):
        super().__init__()
        self.ranges = []

    def read_range(self, key, start, stop):
        self.ranges.append((start, stop))
        return super().read_range(key, start, stop)


@pytest.fixture
def objects():
    return ObjectStore(Counting())


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def test_records_are_stored_once(objects):
    first = objects.put_record("commit", {"b": [1, None], "a": "é"})
    assert first.added_bytes == objects.size(first.oid)
    assert objects.put_record("commit", {"a": "é", "b": [1, None]}) == (first.oid, 0)
    assert objects.get_record("commit", first.oid) == {"a": "é", "b": [1, None]}
    with pytest.raises(CorruptionError, match="another kind"):
        objects.get_record("manifest", first.oid)


def test_missing_objects_are_named(objects):
    oid = "ab" * 32
    for read in (objects.get_record, objects.open, objects.verify):
        with pytest.raises(MissingObjectError) as caught:
            read("commit", oid)
        assert (caught.value.oid, caught.value.kind) == (oid, "commit")
    with pytest.raises(MissingObjectError):
        objects.get_blob(oid)
    with pytest.raises(MissingObjectError):
        objects.size(oid)


SIZES = [0, 1, 60_000, 70_000, BLOB_SEGMENT - 1, BLOB_SEGMENT, BLOB_SEGMENT + 1, 3 * BLOB_SEGMENT, 3_500_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compressible", [True, False])
def test_blobs_round_trip_however_they_are_given(objects, tmp_path, size, compressible):
    data = bytes(size) if compressible else noise(size)
    written = objects.put_blob(data)
    assert written.added_bytes == objects.size(written.oid)
    assert b"".join(objects.iter_blob(written.oid)) == objects.get_blob(written.oid) == data
    assert objects.put_blob(data[i : i + 77_777] for i in range(0, size, 77_777)) == (written.oid, 0)
    (tmp_path / "file").write_bytes(data)
    assert objects.put_blob_file(tmp_path / "file") == (written.oid, 0)
    objects.verify("blob", written.oid)


def test_a_blob_that_is_an_index_is_another_object(objects):
    big = objects.put_blob(noise(BLOB_SEGMENT + 1)).oid
    from erestore.storage.canonical import dump_canonical

    small = objects.put_blob(dump_canonical(objects.open("blob", big).index)).oid
    assert small != big
    assert objects.get_blob(big) == noise(BLOB_SEGMENT + 1)


def test_a_file_that_cannot_be_read_is_named(objects, tmp_path):
    with pytest.raises(AccessError, match="absent"):
        objects.put_blob_file(tmp_path / "absent")
    assert list(objects.list()) == []


@settings(max_examples=50)
@given(st.data(), st.lists(st.binary(max_size=50), max_size=8), st.sampled_from([1, 8, 4096]))
def test_segments_round_trip_in_any_order(data, contents, align):
    objects = ObjectStore(MemoryStorage())
    order = data.draw(st.none() | st.permutations(range(len(contents))))
    with objects.writer("tensors", align) as writer:
        assert [writer.add(c, raw_length=len(c), stage="raw") for c in contents] == [*range(len(contents))]
        written = writer.finish({"x": 1}, order)
    expected = contents if order is None else [contents[number] for number in order]
    held = objects.open("tensors", written.oid)
    assert held.index["x"] == 1
    assert list(held.read_many(range(len(contents)))) == expected
    assert written.added_bytes == objects.size(written.oid)
    asked = data.draw(st.lists(st.sampled_from(range(len(contents))), max_size=6) if contents else st.just([]))
    assert list(held.read_many(asked)) == [expected[number] for number in asked]
    held.verify()


def test_the_spool_on_disk_gives_the_same_object(objects, monkeypatch):
    def write():
        with objects.writer("residual", 64) as writer:
            for seed in range(20):
                writer.add(noise(5000, seed), raw_length=9000, stage="zstd")
            return writer.finish({}, list(reversed(range(20))))

    first = write()
    monkeypatch.setattr(segment_writer, "SPOOL_MEMORY", 1000)
    assert write() == (first.oid, 0)


def test_a_small_object_takes_one_request(objects):
    with objects.writer("residual") as writer:
        for seed in range(10):
            writer.add(noise(1000, seed), raw_length=1000, stage="raw")
        oid = writer.finish({}).oid
    assert list(objects.open("residual", oid).read_many(range(10))) == [noise(1000, seed) for seed in range(10)]
    assert len(objects.storage.ranges) == 1


def test_neighbours_are_read_together_and_nothing_else_is_read(objects):
    size = 100_000
    with objects.writer("tensors", 4096) as writer:
        for seed in range(200):
            writer.add(noise(size, seed), raw_length=size, stage="raw")
        oid = writer.finish({}).oid
    held = objects.open("tensors", oid)
    objects.storage.ranges.clear()
    assert list(held.read_many(range(1, 200))) == [noise(size, seed) for seed in range(1, 200)]
    assert len(objects.storage.ranges) <= 3
    assert all(stop - start <= segments.RANGE_LIMIT for start, stop in objects.storage.ranges)
    objects.storage.ranges.clear()
    assert [bytes(part) for part in held.read_many([150, 7, 9])] == [noise(size, n) for n in (150, 7, 9)]
    assert sum(stop - start for start, stop in objects.storage.ranges) == 3 * size


def test_a_large_index_is_read(objects):
    with objects.writer("residual") as writer:
        for number in range(5000):
            writer.add(number.to_bytes(4, "little"), raw_length=4, stage="raw")
        oid = writer.finish({}).oid
    held = objects.open("residual", oid)
    assert held.read(4999) == (4999).to_bytes(4, "little")
    assert len(objects.storage.ranges) > 1


def test_memory_is_bounded_by_the_chunk_not_by_the_object(tmp_path):
    objects = ObjectStore(LocalStorage(tmp_path))
    objects.put_blob(noise(2 * BLOB_SEGMENT))  # what is imported or set up once does not count
    chunk = noise(BLOB_SEGMENT)
    tracemalloc.start()
    try:
        with objects.writer("tensors", 4096) as writer:
            for _ in range(150):
                writer.add(chunk, raw_length=len(chunk), stage="raw")
            written = writer.finish({})
        held = objects.open("tensors", written.oid)
        assert sum(map(len, held.read_many(range(150)))) == 150 << 20
        held.verify()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written.added_bytes > 150 << 20
    # the spool's memory (which grows by copying), one coalesced range and a few chunks
    assert peak < 2 * segment_writer.SPOOL_MEMORY + 3 * segments.RANGE_LIMIT


def test_lookup_by_prefix(objects):
    oids = sorted(objects.put_record("note", {"n": n}).oid for n in range(300))
    assert sorted(found.oid for found in objects.list()) == oids
    for length in (1, 2, 3, 10, 64):
        prefix = oids[123][:length]
        assert objects.find(prefix) == [oid for oid in oids if oid.startswith(prefix)]
    for nothing in ("", "xyz", "0" * 65, "AB", "../"):
        assert objects.find(nothing) == []


def test_strangers_in_the_folder_are_not_objects(objects):
    for key in ("objects/ab/c", "objects/README", "objects/" + "0" * 64, "objects/ab/cd/" + "0" * 60):
        objects.storage.create(key, b"")
    assert list(objects.list()) == []


def test_deleting(objects):
    oid = objects.put_blob(b"x").oid
    objects.delete(oid)
    assert not objects.exists(oid)
    assert objects.put_blob(b"x").added_bytes


class Stale(MemoryStorage):
    """Holds a damaged copy until it is evicted."""

    def __init__(self):
        super().__init__()
        self.evicted = []
        self.fresh = True

    def read_range(self, key, start, stop):
        value = super().read_range(key, start, stop)
        return value if self.fresh else value[:-1] + bytes([value[-1] ^ 1])

    def evict(self, key):
        self.evicted.append(key)
        self.fresh = True
        return True


def test_a_damaged_copy_is_dropped_and_read_again():
    storage = Stale()
    objects = ObjectStore(storage)
    record = objects.put_record("commit", {"a": 1}).oid
    with objects.writer("residual") as writer:
        writer.add(noise(100_000), raw_length=100_000, stage="raw")
        residual = writer.finish({}).oid
    storage.fresh = False
    assert objects.get_record("commit", record) == {"a": 1}
    held = objects.open("residual", residual)
    storage.fresh = False
    assert held.read(0) == noise(100_000)
    assert storage.evicted == [object_key("commit", record), object_key("residual", residual)]


def test_a_damaged_copy_that_was_read_with_the_head_is_read_again():
    storage = Stale()
    objects = ObjectStore(storage)
    with objects.writer("residual") as writer:
        for seed in range(2):
            writer.add(noise(100, seed), raw_length=100, stage="raw")
        residual = writer.finish({}).oid
    storage.fresh = False
    held = objects.open("residual", residual)
    assert held.read(1) == noise(100, 1)


def test_verifying_asks_where_it_is_stored_and_not_the_copy():
    storage = Stale()
    objects = ObjectStore(storage)
    oid = objects.put_record("commit", {"a": 1}).oid
    objects.verify("commit", oid)
    assert storage.evicted == [object_key("commit", oid)]


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_an_empty_file_is_no_object_that_is_there_already(tmp_path, size):
    storage = LocalStorage(tmp_path)
    content = bytes(range(251)) * (size // 251)
    oid = ObjectStore(storage).put_blob(content).oid
    path = tmp_path / "objects" / oid[:2] / oid[2:]
    path.write_bytes(b"")
    with pytest.raises(CorruptionError, match="is empty"):
        ObjectStore(storage).put_blob(content)
    path.unlink()
    assert ObjectStore(storage).put_blob(content).added_bytes > 0
    assert ObjectStore(storage).put_blob(content).added_bytes == 0
    assert ObjectStore(storage).get_blob(oid) == content
