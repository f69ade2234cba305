"""The suite that every storage must pass; see :mod:`erestore.storage.abc` for the contract in words.

To test a backend, subclass :class:`StorageContract` in a test module and override the fixture `storage`; where a second
instance can be opened on the same place, override `reopen` as well.

>>> class TestMine(StorageContract):
...     @pytest.fixture
...     def storage(self, tmp_path):
...         return MyStorage(tmp_path)
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from erestore.errors import KeyNotFoundError, UsageError
from erestore.storage.abc import Storage

_BAD_KEYS = ["", "/", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a b", "a\\b", "a\nb", "a\0b", "é", "a#b"]


class StorageContract:
    """Base class of a backend's tests."""

    racers = 8
    """Concurrent writers in a race."""

    rounds = 5
    """Races per test."""

    big = 40 << 20
    """Size in bytes of the large value; more than the backend sends in one piece."""

    @pytest.fixture
    def storage(self) -> Storage:
        """Return an empty storage."""
        pytest.fail("Override the fixture `storage`.")

    @pytest.fixture
    def reopen(self, storage: Storage) -> Callable[[], Storage]:
        """Return a function that opens the place of `storage` once more."""
        return lambda: storage

    def test_what_is_created_is_read(self, storage: Storage) -> None:
        assert storage.create("objects/ab/cd", b"value")
        assert storage.exists("objects/ab/cd")
        assert storage.read("objects/ab/cd") == b"value"

    def test_a_second_create_changes_nothing(self, storage: Storage) -> None:
        assert storage.create("a", b"first")
        assert not storage.create("a", b"second")
        assert not storage.create("a", b"first")
        assert not storage.create("a", b"")
        assert not storage.create("a", iter([b"sec", b"ond"]))
        assert storage.read("a") == b"first"

    def test_an_empty_value_is_a_value(self, storage: Storage) -> None:
        assert storage.create("empty", b"")
        assert storage.exists("empty")
        assert storage.read("empty") == b""
        assert storage.read_range("empty", 0, 10) == b""
        assert not storage.create("empty", b"full")
        assert storage.read("empty") == b""
        assert storage.create("nothing", iter(()))
        assert [entry.size for entry in storage.list()] == [0, 0]

    def test_chunks_are_joined(self, storage: Storage) -> None:
        assert storage.create("a", iter([b"", b"one", b"", b"two", b""]))
        assert storage.read("a") == b"onetwo"

    def test_a_large_value_in_chunks(self, storage: Storage) -> None:
        chunk = bytes(range(256)) * 4096 * 3
        count, rest = divmod(self.big, len(chunk))

        def chunks() -> Iterator[bytes]:
            for _ in range(count):
                yield chunk
            yield chunk[:rest]

        assert storage.create("objects/large", chunks())
        assert not storage.create("objects/large", chunks())
        expected = hashlib.sha256()
        for part in chunks():
            expected.update(part)
        assert hashlib.sha256(storage.read("objects/large")).digest() == expected.digest()
        middle = len(chunk) * 2
        assert storage.read_range("objects/large", middle - 5, middle + 5) == chunk[-5:] + chunk[:5]
        assert storage.read_range("objects/large", self.big - 3, self.big + 3) == chunk[:rest][-3:]

    def test_a_source_that_fails_leaves_nothing(self, storage: Storage) -> None:
        class SourceError(Exception):
            pass

        def chunks(count: int) -> Iterator[bytes]:
            for _ in range(count):
                yield bytes(6 << 20)
            raise SourceError

        for count in (0, 1, 6):
            with pytest.raises(SourceError):
                storage.create(f"objects/broken-{count}", chunks(count))
        assert list(storage.list()) == []
        assert storage.create("objects/broken-6", b"now whole")

    def test_ranges(self, storage: Storage) -> None:
        storage.create("a", b"0123456789")
        assert storage.read_range("a", 0, 10) == b"0123456789"
        assert storage.read_range("a", 2, 5) == b"234"
        assert storage.read_range("a", 8, 100) == b"89"
        assert storage.read_range("a", 9, 10) == b"9"
        assert storage.read_range("a", 10, 11) == b""
        assert storage.read_range("a", 1000, 1 << 50) == b""
        assert storage.read_range("a", 5, 5) == b""
        assert storage.read_range("a", 5, 3) == b""
        assert storage.read_range("a", 3, 1 << 50) == b"3456789"

    def test_what_is_not_there(self, storage: Storage) -> None:
        storage.create("folder/key", b"value")
        for key in ("absent", "folder", "folder/key/below", "folder/ke"):
            assert not storage.exists(key)
            with pytest.raises(KeyNotFoundError):
                storage.read(key)
            with pytest.raises(KeyNotFoundError):
                storage.read_range(key, 0, 1)
            with pytest.raises(KeyNotFoundError):
                storage.read_range(key, 0, 0)

    def test_list_by_any_prefix(self, storage: Storage) -> None:
        sizes = {"a": 1, "ab/c": 2, "ab/cd": 3, "ab/d/e": 4, "abc": 5, "b": 6}
        for key, size in sizes.items():
            storage.create(key, bytes(size))
        for prefix in ("", "a", "ab", "ab/", "ab/c", "ab/cd", "ab/d", "ab/d/", "abc", "x", "ab/x", "x/y", "b/"):
            listed = [(entry.key, entry.size) for entry in storage.list(prefix)]
            assert sorted(listed) == [(k, s) for k, s in sizes.items() if k.startswith(prefix)], prefix

    def test_many_entries_are_all_listed(self, storage: Storage) -> None:
        keys = {f"many/{number:016d}" for number in range(120)}
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda key: storage.create(key, b"x"), keys))
        assert {entry.key for entry in storage.list("many/")} == keys

    def test_modification_times_are_near_now(self, storage: Storage) -> None:
        storage.create("a", b"")
        (entry,) = storage.list()
        assert abs(entry.modified - time.time()) < 300

    def test_quoted_keys(self, storage: Storage) -> None:
        keys = ["refs/team%2Ftask/0000000000000001", "refs/team/task", "a+b=c,d~e@f", "UPPER/lower", "upper"]
        for number, key in enumerate(keys):
            assert storage.create(key, bytes([number]))
        assert sorted(entry.key for entry in storage.list()) == sorted(keys)
        assert [storage.read(key) for key in keys] == [bytes([number]) for number in range(len(keys))]

    def test_bad_keys_are_refused(self, storage: Storage) -> None:
        for key in _BAD_KEYS:
            for call in (storage.read, storage.exists, storage.delete, lambda k: storage.create(k, b"")):
                with pytest.raises(UsageError):
                    call(key)
        assert list(storage.list()) == []

    def test_delete(self, storage: Storage) -> None:
        storage.create("folder/a", b"one")
        storage.create("folder/b", b"two")
        storage.delete("folder/a")
        storage.delete("folder/a")
        storage.delete("never/there")
        assert [entry.key for entry in storage.list()] == ["folder/b"]
        assert not storage.exists("folder/a")
        assert storage.create("folder/a", b"again")
        assert storage.read("folder/a") == b"again"

    def test_others_see_what_was_written(self, storage: Storage, reopen: Callable[[], Storage]) -> None:
        other = reopen()
        assert list(other.list("refs/")) == []  # a listing must not be remembered
        assert not other.exists("refs/main/1")
        for number in range(1, 6):
            assert storage.create(f"refs/main/{number}", str(number).encode())
            assert other.read(f"refs/main/{number}") == str(number).encode()
            assert len(list(other.list("refs/main/"))) == number
        assert not other.create("refs/main/1", b"other")
        other.delete("refs/main/1")
        assert not storage.exists("refs/main/1")

    def test_one_of_many_threads_wins(self, storage: Storage, reopen: Callable[[], Storage]) -> None:
        instances = [reopen() for _ in range(self.racers)]
        with ThreadPoolExecutor(self.racers) as pool:
            for number in range(self.rounds):
                start = threading.Barrier(self.racers)

                def write(racer: int, key: str = f"race/{number}", start: threading.Barrier = start) -> bool:
                    start.wait()
                    return instances[racer].create(key, f"{racer}".encode() * 1000)

                won = list(pool.map(write, range(self.racers)))
                assert won.count(True) == 1
                assert storage.read(f"race/{number}") == f"{won.index(True)}".encode() * 1000

    def test_readers_see_nothing_or_everything(self, storage: Storage, reopen: Callable[[], Storage]) -> None:
        whole = b"x" * (8 << 20)
        half = threading.Event()
        seen = threading.Event()

        def chunks() -> Iterator[bytes]:
            yield whole[: 4 << 20]
            half.set()
            seen.wait(60)
            yield whole[4 << 20 :]

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(storage.create, "objects/slow", chunks())
            assert half.wait(60)
            other = reopen()
            absent = not other.exists("objects/slow") and list(other.list()) == []
            seen.set()
            assert absent
            assert writing.result(60)
        assert reopen().read("objects/slow") == whole
