"""status: what a store holds at a glance."""

from __future__ import annotations

import pytest
import tiny
from lineages import add, empty_store, reopened

from erestore.api import Store
from erestore.storage.abc import Storage
from erestore.storage.leases import Lease
from erestore.storage.memory import MemoryStorage


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return tiny.filled_store(MemoryStorage(), tmp_path_factory.mktemp("models")).storage


@pytest.fixture
def store(filled: Storage) -> Store:
    return reopened(tiny.copy_store(filled, MemoryStorage()).storage)


def test_status_counts(store: Store) -> None:
    store.tag("v1", "lossy")
    found = store.status()
    assert (found.bases, found.variants, found.tags, found.commits) == (1, 2, 1, 5)
    assert (found.objects, found.stored_bytes) == (len(list(store.objects.list())), store.du().stored_bytes)
    assert (found.unreachable_objects, found.unreachable_bytes, found.running) == (0, 0, 0)
    assert found.last is not None
    assert (found.last.ref, found.last.message) == ("v1", "lossy")


def test_status_tells_garbage_from_what_the_reflog_holds(store: Store) -> None:
    store.delete_branches(["exact"])
    found = store.status()
    assert (found.variants, found.unreachable_objects) == (1, 0)
    stray = store.objects.put_blob(b"stray" * 100)
    found = store.status()
    assert (found.unreachable_objects, found.unreachable_bytes) == (1, stray.added_bytes)


def test_status_sees_who_is_writing() -> None:
    store = empty_store()
    assert store.status().last is None
    with Lease(store.storage, "writer", "somebody"):
        assert store.status().running == 1
    assert store.status().running == 0


def test_status_survives_a_reflog_that_outlived_its_commits() -> None:
    store = empty_store()
    add(store, "base")
    oid = add(store, "a", "base")
    store.delete_branches(["a"])
    store.objects.delete(oid)
    assert store.status().commits == 1
