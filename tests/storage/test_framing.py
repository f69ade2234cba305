"""Canonical JSON, record frames and segmented objects: round trips, and hostile bytes."""

from __future__ import annotations

import json
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from erestore.errors import CorruptionError, ErestoreError, MissingObjectError, UnsupportedFormatError, UsageError
from erestore.storage import frames
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import object_key, place

INTEGERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_canonical_json_round_trips_as_one_form(value):
    content = dump_canonical(value)
    assert parse_canonical(content) == value
    assert json.loads(content) == value


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**63, -(2**63) - 1, {1: 2}, b"x", {"a": [1.5]}, "\ud800"])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(UsageError):
        dump_canonical(value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" {}",
        b"{} ",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b"1e3",
        b"NaN",
        b"-Infinity",
        b"-0",
        b"9223372036854775808",
        b'"\\u0041"',
        b'"\\/"',
        b'"\xff"',
        b'"\\ud800"',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b"1" * 10_000,
        b"{}{}",
    ],
)
def test_any_other_form_is_corrupt(content):
    with pytest.raises(CorruptionError):
        parse_canonical(content)


@given(st.sampled_from(sorted(frames.KINDS)), st.binary(max_size=300) | st.just(b"a" * 5000))
def test_record_frame_round_trips(kind, content):
    stored = frames.encode_record(kind, content)
    assert frames.decode_record(kind, frames.record_oid(kind, content), stored) == content
    assert len(stored) <= frames.RECORD_HEADER + len(content)


def test_kind_and_length_are_part_of_the_oid():
    assert frames.record_oid("note", b"x") != frames.record_oid("commit", b"x")
    assert frames.record_oid("note", b"") == frames.digest(b"note 0\0")


RECORDS = [b"", b"incompressible 0123456789", b"repeat " * 40]


@pytest.mark.parametrize("content", RECORDS)
def test_every_damaged_byte_of_a_record_is_found(content):
    stored, oid = frames.encode_record("commit", content), frames.record_oid("commit", content)
    for position in range(len(stored)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[position] ^= 1 << bit
            with pytest.raises((CorruptionError, UnsupportedFormatError), match=oid):
                frames.decode_record("commit", oid, bytes(damaged))


@pytest.mark.parametrize("content", RECORDS)
def test_every_truncation_and_extension_of_a_record_is_found(content):
    stored, oid = frames.encode_record("commit", content), frames.record_oid("commit", content)
    for stop in range(len(stored)):
        with pytest.raises(CorruptionError, match=oid):
            frames.decode_record("commit", oid, stored[:stop])
    with pytest.raises(CorruptionError, match=oid):
        frames.decode_record("commit", oid, stored + b"\0")


@given(st.binary(max_size=100))
def test_random_bytes_are_never_an_object(garbage):
    for start in (b"", b"EREO\x01\x08", b"EREO\x01\x08\x01\0", b"ERES\x01\x08", b"ERES\x01\x08\x01\0"):
        storage = MemoryStorage()
        storage.create(object_key("commit", "0" * 64), start + garbage)
        for read in (ObjectStore(storage).get_record, ObjectStore(storage).open, ObjectStore(storage).verify):
            with pytest.raises(ErestoreError):
                read("commit", "0" * 64)


def forge(header: bytes, payload: bytes) -> bytes:
    """Give a frame the right check value, as an attacker would."""
    return header + frames.blake3(header).update(payload).digest(4) + payload


def test_unknown_versions_kinds_and_compressions_are_named():
    oid = frames.record_oid("commit", b"{}")
    for version, kind, compression, word in [
        (2, 8, 0, "version 2"),
        (1, 77, 0, "kind 77"),
        (1, 8, 9, "compression 9"),
    ]:
        stored = forge(struct.pack("<4sBBBBI", b"EREO", version, kind, compression, 0, 2), b"{}")
        with pytest.raises(UnsupportedFormatError, match=word):
            frames.decode_record("commit", oid, stored)


def test_a_bomb_is_refused_before_it_is_expanded():
    bomb = zstandard.ZstdCompressor().compress(bytes(200 << 20))
    stored = forge(struct.pack("<4sBBBBI", b"EREO", 1, 8, 1, 0, 100), bomb)
    with pytest.raises(CorruptionError):
        frames.decode_record("commit", "0" * 64, stored)
    for length in (frames.RECORD_LIMIT + 1, 2**32 - 1):
        header = struct.pack("<4sBBBBI", b"EREO", 1, 8, 1, 0, length)
        with pytest.raises(CorruptionError, match="header"):
            frames.decode_record("commit", "0" * 64, forge(header, bomb))
    header = struct.pack("<4sBBBBII", b"ERES", 1, 4, 1, 0, len(bomb), frames.INDEX_LIMIT + 1)
    with pytest.raises(CorruptionError, match="header"):
        frames.decode_head("residual", "0" * 64, forge(header, bomb))


def test_an_object_that_goes_on_for_ever_is_not_read_for_ever():
    class Endless(MemoryStorage):
        longest = 0

        def read_range(self, key, start, stop):
            self.longest = max(self.longest, stop)
            value = self.read(key)
            return (value + bytes(max(0, stop - len(value))))[start:stop]

    storage = Endless()
    oid = ObjectStore(storage).put_record("commit", {}).oid
    with pytest.raises(CorruptionError):
        ObjectStore(storage).get_record("commit", oid)
    assert storage.longest <= 1 << 16


def segmented(storage: MemoryStorage, align: int = 16) -> tuple[str, bytes]:
    with ObjectStore(storage).writer("residual", align) as writer:
        for stored in (b"one", b"", b"second segment", b"x" * 33):
            writer.add(stored, raw_length=len(stored), stage="raw")
        oid = writer.finish({"name": "é", "order": [2, 1]}).oid
    return oid, storage.read(object_key("residual", oid))


@pytest.mark.parametrize("align", [1, 2, 16, 64])
def test_every_damaged_byte_of_a_segmented_object_is_found(align):
    oid, stored = segmented(MemoryStorage(), align)
    key = object_key("residual", oid)
    for position in range(len(stored)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[position] ^= 1 << bit
            storage = MemoryStorage()
            storage.create(key, bytes(damaged))
            with pytest.raises((CorruptionError, UnsupportedFormatError), match=oid):
                ObjectStore(storage).verify("residual", oid)


def test_every_truncation_and_extension_of_a_segmented_object_is_found():
    oid, stored = segmented(MemoryStorage())
    for damaged in [stored[:stop] for stop in range(len(stored))] + [stored + b"\0"]:
        storage = MemoryStorage()
        storage.create(object_key("residual", oid), damaged)
        with pytest.raises(CorruptionError, match=oid):
            ObjectStore(storage).verify("residual", oid)


@pytest.mark.parametrize("form", ["record", "segmented"])
def test_a_sound_object_under_another_oid_is_corrupt(form):
    storage = MemoryStorage()
    if form == "record":
        oid = ObjectStore(storage).put_record("residual", {"a": 1}).oid
        other = frames.record_oid("residual", b'{"a":2}')
        read = ObjectStore(storage).get_record
    else:
        oid, _ = segmented(storage)
        other = frames.segmented_oid("residual", 16, b"{}")
        read = ObjectStore(storage).open
    storage.create(object_key("residual", other), storage.read(object_key("residual", oid)))
    read("residual", oid)
    with pytest.raises(CorruptionError, match=other):
        read("residual", other)


ROWS = [
    None,
    [[1, 1, "raw"]],
    [[1, 2, "raw", "0" * 64]],
    [[-1, -1, "raw", "0" * 64]],
    [[True, True, "raw", "0" * 64]],
    [[1, 1, 5, "0" * 64]],
    [[1, 1, "raw", "0" * 63 + "G"]],
    [[1, 1, "raw", 7]],
    ["abcd"],
    {},
]


@pytest.mark.parametrize("rows", ROWS)
def test_a_malformed_index_with_a_right_oid_is_corrupt(rows):
    content = dump_canonical({"segments": rows} if rows is not None else {})
    oid = frames.segmented_oid("residual", 1, content)
    storage = MemoryStorage()
    storage.create(object_key("residual", oid), frames.encode_head("residual", content, 1))
    with pytest.raises(CorruptionError, match=oid):
        ObjectStore(storage).open("residual", oid)


def test_a_segment_of_absurd_length_is_corrupt_and_allocates_nothing():
    content = dump_canonical({"segments": [[2**62, 2**62, "raw", "0" * 64]]})
    oid = frames.segmented_oid("residual", 1, content)
    storage = MemoryStorage()
    storage.create(object_key("residual", oid), frames.encode_head("residual", content, 1))
    with pytest.raises(CorruptionError, match=oid):
        ObjectStore(storage).open("residual", oid).read(0)


@given(st.lists(st.integers(0, 100), max_size=10), st.integers(20, 200), st.sampled_from([1, 2, 16, 4096]))
def test_segments_are_aligned_in_order_and_never_overlap(lengths, head, alignment):
    offsets, length = place(lengths, head, alignment)
    end = head
    for offset, size in zip(offsets, lengths, strict=True):
        assert offset >= end
        assert offset - end < alignment
        assert not size or offset % alignment == 0
        end = offset + size
    assert length == end


@pytest.mark.parametrize("oid", ["", "../../etc/passwd", "0" * 63, "G" * 64, "A" * 64, None, 5])
def test_what_is_no_oid_is_missing_and_never_a_path(oid):
    objects = ObjectStore(MemoryStorage())
    assert not objects.exists(oid)
    for read in (objects.get_record, objects.open):
        with pytest.raises(MissingObjectError):
            read("commit", oid)
