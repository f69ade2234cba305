"""The fault injector itself, and writers that die at every call of an update."""

from __future__ import annotations

import itertools

import pytest

from erestore.errors import ErestoreError
from erestore.storage.leases import Lease
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.refs import Refs
from erestore.testing.faults import FaultInjected, FaultyStorage

MODES = ["before", "after", "truncate"]


@pytest.fixture(params=["memory", "local"])
def make(request, tmp_path):
    names = itertools.count()
    if request.param == "memory":
        return MemoryStorage
    return lambda: LocalStorage(tmp_path / str(next(names)))


def test_it_counts_and_passes_everything_on(make):
    faulty = FaultyStorage(make())
    assert faulty.create("a", b"123")
    assert faulty.read("a") == b"123"
    assert faulty.read_range("a", 1, 2) == b"2"
    assert faulty.exists("a")
    assert [entry.key for entry in faulty.list()] == ["a"]
    assert faulty.remove_unfinished(0) == 0
    faulty.delete("a")
    assert faulty.calls == 7


@pytest.mark.parametrize("mode", MODES)
def test_the_dead_stay_dead(make, mode):
    inner = make()
    faulty = FaultyStorage(inner, 2, mode)
    faulty.create("a", b"1")
    with pytest.raises(FaultInjected):
        faulty.create("b", iter([b"first half", b"second half"]))
    assert sorted(entry.key for entry in inner.list()) == (["a", "b"] if mode == "after" else ["a"])
    for call in (faulty.read, faulty.delete, faulty.exists, faulty.list):
        with pytest.raises(FaultInjected):
            call("a")
    assert faulty.calls == 2
    assert inner.remove_unfinished(2**40) == (mode == "truncate" and isinstance(inner, LocalStorage))


def test_a_death_is_no_error_that_anything_handles():
    assert not issubclass(FaultInjected, ErestoreError)


def commit(storage, oid_content, expected):
    """Write as a commit does: lease, objects, ref."""
    with Lease(storage, "writer", "me") as lease:
        objects = ObjectStore(storage)
        oid = objects.put_record("commit", {"blob": objects.put_blob(oid_content).oid}).oid
        lease.confirm()
        refs = Refs(storage)
        refs.update("main", oid, expected=expected, kind="branch", operation="o", writer="w", message="")


def state(storage):
    """Follow the ref to the bytes."""
    objects = ObjectStore(storage)
    entry = Refs(storage).read("main")
    return entry and objects.get_blob(objects.get_record("commit", entry.oid)["blob"])


@pytest.mark.parametrize("mode", MODES)
def test_dying_anywhere_shows_old_or_new_and_can_be_repeated(make, mode):
    content = bytes(3 << 20)
    for die_at in itertools.count(1):
        inner = make()
        commit(inner, b"old", 0)
        faulty = FaultyStorage(inner, die_at, mode)
        try:
            commit(faulty, content, 1)
        except FaultInjected:
            assert state(inner) in (b"old", content)
            if state(inner) == b"old":
                commit(inner, content, 1)
        else:
            break
        assert state(inner) == content
    assert die_at > 8
