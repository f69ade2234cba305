"""unlock: leases that are dead go, others are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lineages import add, empty_store

from erestore.api import Store
from erestore.errors import ConflictError
from erestore.storage import holder
from erestore.storage.holder import Holder
from erestore.storage.lease_records import PREFIX
from erestore.storage.leases import Lease, storage_time


@pytest.fixture
def store() -> Store:
    made = empty_store()
    add(made, "base")
    return made


def test_nothing_to_unlock(store: Store) -> None:
    assert store.unlock() == store.unlock(everything=True)
    assert not store.unlock().removed
    assert not list(store.storage.list(PREFIX))


def test_a_lease_of_a_process_that_ended_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    current = Holder.current()
    if not current.boot:
        pytest.skip("this system does not say which processes run")
    monkeypatch.setattr(Holder, "current", lambda: replace(current, started=1))
    Lease(store.storage, "collector", "killed").renew()
    monkeypatch.undo()
    with pytest.raises(ConflictError, match="that process has ended"):
        store.tag("v1", "base")
    (lease,) = store.unlock(dry_run=True).removed
    assert (lease.kind, lease.holder, lease.reason) == ("collector", str(current), "its process has ended")
    assert list(store.storage.list(PREFIX))
    assert store.unlock().removed == (lease,)
    store.tag("v1", "base")


def test_a_lease_of_another_machine_goes_when_that_is_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = replace(Holder.current(), host="gpu7", boot="another")
    monkeypatch.setattr(Holder, "current", lambda: elsewhere)
    lease = Lease(store.storage, "collector", "gc")
    lease.renew()
    monkeypatch.undo()
    assert [held.holder for held in store.unlock().kept] == [str(elsewhere)]
    with pytest.raises(ConflictError, match="gpu7"):
        store.tag("v1", "base")
    assert len(store.unlock(everything=True).removed) == 1
    store.tag("v1", "base")
    with pytest.raises(ConflictError, match="removed"):
        lease.confirm()


def test_who_works_while_unlock_runs_is_left_alone(store: Store) -> None:
    with Lease(store.storage, "writer", "here") as lease:
        (kept,) = store.unlock().kept
        assert (kept.name, kept.reason) == (lease.name, "")
        lease.confirm()


def test_without_a_file_of_processes_nobody_is_known_to_be_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(holder, "_PROC", tmp_path)
    Lease(store.storage, "writer", "killed").renew()
    assert len(store.unlock().kept) == 1
    assert len(store.unlock(everything=True).removed) == 1


def test_the_storage_tells_its_time(store: Store) -> None:
    store.storage._clock = lambda: 42.0  # type: ignore[attr-defined]
    assert storage_time(store.storage) == 42.0
    assert not list(store.storage.list(PREFIX))
