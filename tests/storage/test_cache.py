"""The local cache in front of a remote."""

from __future__ import annotations

import os
import random

import pytest

from erestore.errors import KeyNotFoundError
from erestore.storage.cache import CachedStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.refs import Refs


class Remote(MemoryStorage):
    """Counts what is read from it."""

    def __init__(self, *, url="s3://bucket/store", **keywords):
        super().__init__(**keywords)
        self.url = url
        self.reads = []

    def read(self, key):
        self.reads.append(key)
        return super().read(key)

    def read_range(self, key, start, stop):
        self.reads.append(key)
        return MemoryStorage.read(self, key)[start : max(start, stop)]


@pytest.fixture
def remote():
    remote = Remote()
    remote.create("objects/ab/cd", bytes(range(200)))
    return remote


@pytest.fixture
def cached(remote, tmp_path):
    return CachedStorage(remote, tmp_path / "cache")


def test_an_object_is_fetched_once_also_by_another_process(remote, cached, tmp_path):
    for storage in (cached, cached, CachedStorage(remote, tmp_path / "cache")):
        assert storage.read("objects/ab/cd") == bytes(range(200))
    assert len(remote.reads) == 1


def test_a_range_inside_what_is_there_is_not_fetched(remote, cached):
    assert cached.read_range("objects/ab/cd", 10, 100) == bytes(range(10, 100))
    assert cached.read_range("objects/ab/cd", 20, 90) == bytes(range(20, 90))
    assert len(remote.reads) == 1
    assert cached.read_range("objects/ab/cd", 20, 101) == bytes(range(20, 101))
    assert len(remote.reads) == 2
    assert cached.read_range("objects/ab/cd", 0, 1000) == bytes(range(200))
    assert cached.read_range("objects/ab/cd", 150, 999) == bytes(range(150, 200))
    assert cached.read_range("objects/ab/cd", 200, 300) == b""
    assert len(remote.reads) == 3
    assert cached.read_range("objects/ab/cd", 5, 5) == b""


def test_absence_is_never_remembered(remote, cached):
    with pytest.raises(KeyNotFoundError):
        cached.read("objects/xx/yy")
    assert not cached.exists("objects/xx/yy")
    remote.create("objects/xx/yy", b"now")
    assert cached.exists("objects/xx/yy")
    assert cached.read("objects/xx/yy") == b"now"


def test_presence_is_never_taken_from_a_copy(remote, cached):
    cached.read("objects/ab/cd")
    remote.delete("objects/ab/cd")
    assert not cached.exists("objects/ab/cd")
    assert list(cached.list()) == []
    assert cached.create("objects/ab/cd", b"again")


def test_deleting_drops_the_copy(cached):
    cached.read("objects/ab/cd")
    cached.delete("objects/ab/cd")
    with pytest.raises(KeyNotFoundError):
        cached.read("objects/ab/cd")


def test_evicting_reads_again_from_the_remote(remote, cached):
    assert not cached.evict("objects/ab/cd")
    cached.read("objects/ab/cd")
    assert cached.evict("objects/ab/cd")
    assert not cached.evict("objects/ab/cd")
    assert cached.read("objects/ab/cd") == bytes(range(200))
    assert len(remote.reads) == 2


def move(refs, oid, expected):
    refs.update("main", oid, expected=expected, kind="branch", operation="o", writer="w", message="")


def test_entries_of_logs_are_kept_but_listings_are_not(tmp_path):
    now = [1000.0]
    remote = Remote(clock=lambda: now[0])
    refs = Refs(CachedStorage(remote, tmp_path / "cache"))
    move(refs, "a" * 64, 0)
    assert refs.read("main").oid == refs.read("main").oid == "a" * 64
    assert len(remote.reads) == 1
    move(Refs(remote), "b" * 64, 1)
    assert refs.read("main").oid == "b" * 64


def test_a_store_made_anew_at_the_same_place_has_other_entries(tmp_path):
    now = [1000.0]
    remote = Remote(clock=lambda: now[0])
    refs = Refs(CachedStorage(remote, tmp_path / "cache"))
    move(refs, "a" * 64, 0)
    assert refs.read("main").oid == "a" * 64
    for entry in remote.list():
        remote.delete(entry.key)
    now[0] += 60
    move(Refs(remote), "b" * 64, 0)
    assert refs.read("main").oid == "b" * 64


def test_leases_and_the_like_are_not_kept(remote, cached):
    remote.create("gc/leases/x", b"1")
    for _ in range(2):
        cached.read("gc/leases/x")
    assert len(remote.reads) == 2


def test_remotes_do_not_mix(tmp_path):
    for number in range(2):
        remote = Remote(url=f"s3://bucket/{number}")
        remote.create("objects/ab/cd", bytes([number]))
        assert CachedStorage(remote, tmp_path).read("objects/ab/cd") == bytes([number])


def copies(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_damaged_copy_is_no_copy(remote, cached, tmp_path):
    cached.read("objects/ab/cd")
    (copy,) = copies(tmp_path)
    whole = copy.read_bytes()
    for damaged in (b"", whole[:10], whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:]):
        copy.write_bytes(damaged)
        assert cached.read("objects/ab/cd") == bytes(range(200))
        assert copy.read_bytes() == whole


def test_a_copy_is_bounded_and_the_least_recently_used_goes_first(tmp_path):
    remote = Remote()
    for number in range(30):
        remote.create(f"objects/{number:02}/x", bytes(1000))
    cached = CachedStorage(remote, tmp_path / "cache", limit_bytes=10_000)
    for number in range(30):
        cached.read(f"objects/{number:02}/x")
        cached.read("objects/00/x")
        for age, path in enumerate(sorted(copies(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (age + 1, age + 1))  # a coarse clock must not decide
        assert sum(path.stat().st_size for path in copies(tmp_path)) <= 10_000
    assert remote.reads.count("objects/00/x") == 1
    assert len(copies(tmp_path)) >= 5


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    remote = Remote()
    remote.create("objects/a/b", bytes(10_000))
    cached = CachedStorage(remote, tmp_path / "cache", limit_bytes=10_000)
    assert cached.read("objects/a/b") == bytes(10_000)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_fails_no_read(remote, tmp_path):
    (tmp_path / "file").write_text("")
    cached = CachedStorage(remote, tmp_path / "file")
    assert cached.read("objects/ab/cd") == bytes(range(200))
    assert not cached.evict("objects/ab/cd")


@pytest.mark.parametrize("call", ["replace", "utime", "open", "scandir"])
def test_a_cache_that_breaks_fails_no_read(remote, cached, monkeypatch, call):
    from pathlib import Path

    def refuse(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    cached.read("objects/ab/cd")
    with monkeypatch.context() as patch:
        patch.setattr(Path if call in ("replace", "open") else os, call, refuse)
        assert cached.read("objects/ab/cd") == bytes(range(200))
        assert cached.read_range("objects/ab/cd", 0, 5) == bytes(range(5))


def test_objects_that_were_damaged_in_the_cache_heal(tmp_path):
    remote = Remote()
    data = random.Random(0).randbytes(3_000_000)
    oid = ObjectStore(remote).put_blob(data).oid
    objects = ObjectStore(CachedStorage(remote, tmp_path / "cache"))
    assert objects.get_blob(oid) == data
    for path in copies(tmp_path):
        content = bytearray(path.read_bytes())
        content[32] ^= 1
        from blake3 import blake3

        path.write_bytes(blake3(content[32:]).digest() + content[32:])  # as if it had been fetched damaged
    assert objects.get_blob(oid) == data
    objects.verify("blob", oid)
