"""What is created on an overlay waits until it is published."""

from __future__ import annotations

import pytest
from tiny import make_older

from erestore.storage.memory import MemoryStorage
from erestore.storage.overlay import Overlay


class Ordered(MemoryStorage):
    """Notes what is created, in order, and with how many chunks."""

    def __init__(self):
        super().__init__()
        self.created = []

    def create(self, key, data):
        chunks = [data] if isinstance(data, bytes) else list(data)
        self.created.append((key, len(chunks)))
        return super().create(key, b"".join(chunks))


@pytest.fixture
def inner():
    storage = Ordered()
    storage.create("objects/old", b"old")
    storage.created.clear()
    return storage


def test_what_is_below_is_seen(inner):
    overlay = Overlay(inner, MemoryStorage())
    assert overlay.exists("objects/old")
    assert (overlay.read("objects/old"), overlay.read_range("objects/old", 1, 2)) == (b"old", b"l")
    assert overlay.create("objects/new", b"new")
    assert sorted(entry.key for entry in overlay.list("objects/")) == ["objects/new", "objects/old"]


def test_what_is_below_is_not_written_again_but_refreshed(inner):
    overlay = Overlay(inner, MemoryStorage())
    assert not overlay.create("objects/old", b"other")
    assert inner.created == [("objects/old", 1)]
    assert overlay.read("objects/old") == b"old"


def test_what_is_below_cannot_be_deleted(inner):
    overlay = Overlay(inner, MemoryStorage())
    overlay.delete("objects/old")
    assert inner.exists("objects/old")
    assert overlay.exists("objects/old")


def test_nothing_reaches_the_storage_before_it_is_published(inner):
    overlay, big = Overlay(inner, MemoryStorage()), bytes(range(256)) * 10_000
    assert overlay.create("b", iter([b"on", b"e"]))
    assert overlay.create("c", b"given up")
    overlay.delete("c")
    assert overlay.create("a", big)
    assert not overlay.create("b", b"two")
    assert inner.created == []
    overlay.publish()
    assert inner.created == [("b", 1), ("a", 3)]
    assert (inner.read("a"), inner.read("b")) == (big, b"one")
    assert not inner.exists("c")
    overlay.publish()
    assert len(inner.created) == 2
    assert (overlay.read("a"), overlay.exists("c")) == (big, False)


def test_what_is_below_is_refreshed_or_not_touched_at_all() -> None:
    below = MemoryStorage()
    below.create("objects/a", b"a")
    for refresh in (True, False):
        make_older(below, 60.0)
        (before,) = below.list()
        assert not Overlay(below, MemoryStorage(), refresh=refresh).create("objects/a", b"a")
        (after,) = below.list()
        assert (after.modified > before.modified) == refresh
