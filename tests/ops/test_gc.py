"""Garbage collection: what it keeps, what it deletes, and when."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tiny

from erestore.errors import CorruptionError, MissingObjectError, UsageError
from erestore.objects.patch import Patch
from erestore.objects.references import references
from erestore.operation import new_id
from erestore.ops.commit import commit
from erestore.ops.fsck import fsck
from erestore.ops.gc import gc
from erestore.ops.undo import undo
from erestore.storage.abc import Entry, Storage
from erestore.storage.condemned import PREFIX as CONDEMNED
from erestore.storage.leases import Lease
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.store import Store

DAY = tiny.DAY


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def filled(models: Path) -> Storage:
    return tiny.filled_store(MemoryStorage(), models).storage


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, filled: Storage, tmp_path: Path) -> Store:
    storage = MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "store")
    return tiny.copy_store(filled, storage)


def objects(store: Store) -> set[str]:
    return {stored.oid for stored in store.objects.list()}


def test_nothing_is_garbage_in_a_fresh_store(store: Store) -> None:
    before = tiny.keys_of(store.storage)
    result = gc(store, grace_days=0)
    assert result.deleted_objects == result.condemned_objects == result.freed_bytes == 0
    assert result.kept_objects == len(objects(store))
    assert result.waiting is None
    assert tiny.keys_of(store.storage) == before


def test_a_young_object_is_left_alone(store: Store) -> None:
    blob = store.objects.put_blob(b"of a writer that is at work")
    result = gc(store)
    assert (result.deleted_objects, result.condemned_objects) == (0, 0)
    assert store.objects.exists(blob.oid)
    assert not tiny.keys_of(store.storage, "gc/")


def test_two_phases_with_a_grace_period_between(store: Store) -> None:
    blob = store.objects.put_blob(b"left over")
    tiny.make_older(store.storage, 15 * DAY, "objects/")
    condemned = gc(store)
    assert (condemned.deleted_objects, condemned.condemned_objects) == (0, 1)
    assert condemned.condemned_bytes == store.objects.size(blob.oid)
    (key,) = tiny.keys_of(store.storage, CONDEMNED)
    again = gc(store)
    assert (again.deleted_objects, again.condemned_objects) == (0, 1)
    assert tiny.keys_of(store.storage, CONDEMNED) == {key}
    tiny.make_older(store.storage, 15 * DAY, CONDEMNED)
    size = store.objects.size(blob.oid)
    deleted = gc(store)
    assert (deleted.deleted_objects, deleted.freed_bytes, deleted.condemned_objects) == (1, size, 0)
    assert not store.objects.exists(blob.oid)
    assert not tiny.keys_of(store.storage, "gc/")
    assert fsck(store, deep=True).clean


def test_what_was_written_again_since_it_was_condemned_is_spared(store: Store) -> None:
    blob = store.objects.put_blob(b"left over")
    tiny.make_older(store.storage, 60 * DAY, "objects/")
    gc(store)
    assert not store.objects.put_blob(b"left over").added_bytes
    tiny.make_older(store.storage, 20 * DAY)
    spared = gc(store)
    assert (spared.deleted_objects, spared.condemned_objects) == (0, 1)
    assert store.objects.exists(blob.oid)
    assert len(tiny.keys_of(store.storage, CONDEMNED)) == 1  # the old list holds for nothing any more
    tiny.make_older(store.storage, 20 * DAY)
    assert gc(store).deleted_objects == 1


def test_what_became_reachable_again_is_spared(store: Store) -> None:
    oid = store.resolve("lossy")
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, 40 * DAY)
    assert gc(store).condemned_objects > 3
    tiny.make_older(store.storage, 40 * DAY)
    operation = store.begin()
    store.refs.update(
        "again", oid, expected=0, kind="branch", operation=operation.id, writer=operation.writer, message=""
    )
    assert gc(store).deleted_objects == 0
    assert not tiny.keys_of(store.storage, CONDEMNED)
    tiny.tensors_of(store, "again")
    assert fsck(store, deep=True).clean


def test_a_deleted_branch_is_kept_for_thirty_days(store: Store) -> None:
    expected = tiny.tensors_of(store, "lossy")
    oid = store.resolve("lossy")
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, 29 * DAY)
    assert gc(store, grace_days=0).deleted_objects == 0
    assert tiny.same_tensors(tiny.tensors_of(store, oid), expected)
    tiny.make_older(store.storage, 2 * DAY)
    result = gc(store, grace_days=0)
    assert result.deleted_objects >= 6
    assert result.expired_entries == 2
    assert len(tiny.keys_of(store.storage, "refs/lossy/")) == 1  # the deletion, so that numbers go on
    assert not store.objects.exists(oid)
    assert fsck(store, deep=True).clean
    assert store.refs.read("lossy") is not None


def test_old_versions_in_the_history_stay_with_the_branch(store: Store) -> None:
    first = store.resolve("exact~1")
    expected = tiny.tensors_of(store, first)
    tiny.make_older(store.storage, 1000 * DAY)
    result = gc(store, grace_days=0)
    assert result.deleted_objects == 0
    assert result.expired_entries == 2
    assert tiny.same_tensors(tiny.tensors_of(store, first), expected)


@pytest.mark.parametrize("days", [None, 10])
def test_what_a_branch_pointed_to_stays_while_its_entry_does(store: Store, days: float | None) -> None:
    abandoned = store.resolve("lossy")
    operation = store.begin()
    entry = store.ref("lossy")
    store.refs.update(
        "lossy",
        store.resolve("lossy~1"),
        expected=entry.number,
        kind="branch",
        operation=operation.id,
        writer=operation.writer,
        message="back",
    )
    limit = 90 if days is None else days
    tiny.make_older(store.storage, (limit - 1) * DAY)
    assert gc(store, grace_days=0, reflog_days=days).deleted_objects == 0
    tiny.make_older(store.storage, 2 * DAY)
    assert gc(store, grace_days=0, reflog_days=days).deleted_objects > 0
    assert not store.objects.exists(abandoned)
    assert fsck(store, deep=True).clean


def test_the_replaced_commit_stays_when_only_its_own_entry_has_expired(store: Store) -> None:
    replaced = store.resolve("lossy")
    tiny.make_older(store.storage, 100 * DAY)
    entry = store.ref("lossy")
    operation = store.begin()
    store.refs.update(
        "lossy",
        store.resolve("lossy~1"),
        expected=entry.number,
        kind="branch",
        operation=operation.id,
        writer=operation.writer,
        message="back",
    )
    assert gc(store, grace_days=0).expired_entries == 3  # two of lossy, one of exact
    tiny.tensors_of(store, replaced)
    assert fsck(store, deep=True).clean


def test_manifests_that_exact_remainders_are_relative_to_stay(store: Store, tmp_path: Path) -> None:
    nudged = tiny.tensors_of(store, "exact")
    nudged["embedding.weight"][0] *= 1.001
    tiny.commit(
        store, tiny.write_model(tmp_path / "nudged", nudged), name="exact", quality=tiny.Quality(exact_only=True)
    )
    patch = store.manifest_of("exact").patch
    assert patch is not None
    assert Patch.open(store.objects, patch).manifests, "the last version must be patched against the one before"
    expected = tiny.tensors_of(store, "exact")
    # Drop the history, so that only the remainder needs the first version.
    record = store.commit_record(store.resolve("exact"))
    alone = store.objects.put_record("commit", replace(record, parents=(), own=()).to_record())
    operation = store.begin()
    store.refs.update(
        "alone", alone.oid, expected=0, kind="branch", operation=operation.id, writer=operation.writer, message=""
    )
    tiny.delete_ref(store, "exact")
    tiny.make_older(store.storage, 40 * DAY)
    assert gc(store, grace_days=0).deleted_objects > 0
    assert tiny.same_tensors(tiny.tensors_of(store, "alone"), expected)
    assert fsck(store, deep=True).clean


def test_what_a_young_object_refers_to_stays(store: Store) -> None:
    layout = store.objects.put_record("layout", {"unknown": 1})  # damaged, so it refers to nothing
    side = store.objects.put_blob(b"a side file")
    record = {
        "files": [],
        "format": "safetensors",
        "is_directory": True,
        "side_files": {"a": side.oid},
        "structure": None,
        "tensors": {},
        "ties": [],
    }
    tiny.make_older(store.storage, 20 * DAY)
    young = store.objects.put_record("layout", record)
    result = gc(store, dry_run=True)
    assert {each.oid for each in result.objects} == {side.oid}  # the first may be of a newer version
    gc(store)
    tiny.make_older(store.storage, 20 * DAY, CONDEMNED)
    gc(store)
    assert store.objects.exists(side.oid)
    assert store.objects.exists(young.oid)
    assert store.objects.exists(layout.oid)


def test_a_dry_run_lists_and_does_nothing(store: Store) -> None:
    blob = store.objects.put_blob(b"left over")
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, 31 * DAY)
    before = tiny.keys_of(store.storage)
    planned = gc(store, dry_run=True)
    assert planned.dry_run
    assert {each.action for each in planned.objects} == {"condemn"}
    assert {each.kind for each in planned.objects} >= {"commit", "manifest", "residual", "blob", "tensors", "layout"}
    assert blob.oid in {each.oid for each in planned.objects}
    assert planned.condemned_bytes == sum(each.size for each in planned.objects)
    now = gc(store, dry_run=True, grace_days=0)
    assert {each.action for each in now.objects} == {"delete"}
    assert {each.oid for each in now.objects} == {each.oid for each in planned.objects}
    assert tiny.keys_of(store.storage) == before
    done = gc(store, grace_days=0)
    assert (done.deleted_objects, done.freed_bytes) == (now.deleted_objects, now.freed_bytes)
    assert before - tiny.keys_of(store.storage, "") >= {f"objects/{o.oid[:2]}/{o.oid[2:]}" for o in now.objects}


def test_nothing_is_deleted_before_what_refers_to_it(store: Store) -> None:
    tiny.delete_ref(store, "exact")
    tiny.delete_ref(store, "lossy")
    planned = gc(store, dry_run=True, grace_days=0, reflog_days=0)
    position = {each.oid: number for number, each in enumerate(planned.objects)}
    followed = 0
    for each in planned.objects:
        assert each.kind is not None
        for _, needed in references(store.objects, each.kind, each.oid):
            followed += needed in position
            assert position.get(needed, len(position)) > position[each.oid]
    assert followed > 10


def test_a_live_writer_keeps_everything(store: Store) -> None:
    store.objects.put_blob(b"left over")
    before = tiny.keys_of(store.storage)
    with Lease(store.storage, "writer", "somebody"):
        result = gc(store, grace_days=0)
    assert result.waiting is not None
    assert "nothing was deleted" in result.waiting
    assert result.deleted_objects == 0
    assert result.kept_objects == len(objects(store))
    assert tiny.keys_of(store.storage) == before
    assert gc(store, grace_days=0).deleted_objects == 1


def test_a_writer_that_was_killed_keeps_everything_for_an_hour(store: Store) -> None:
    store.objects.put_blob(b"left over")
    Lease(store.storage, "writer", "killed").renew()
    assert gc(store, grace_days=0).waiting
    tiny.make_older(store.storage, 3601, "gc/leases/")
    assert gc(store, grace_days=0).deleted_objects == 1
    assert tiny.keys_of(store.storage, "gc/leases/")
    tiny.make_older(store.storage, DAY, "gc/leases/")
    gc(store)
    assert not tiny.keys_of(store.storage, "gc/leases/")


@pytest.mark.parametrize("kind", ["commit", "manifest", "residual", "patch", "layout", "base"])
def test_nothing_is_deleted_while_references_are_unknown(store: Store, kind: str) -> None:
    manifest = store.manifest_of("exact")
    oids = {
        "commit": store.resolve("exact~1"),
        "manifest": store.commit_record(store.resolve("exact")).manifest,
        "residual": manifest.terms[0].residual,
        "patch": manifest.patch,
        "layout": manifest.layout,
        "base": manifest.base,
    }
    blob = store.objects.put_blob(b"left over")
    oid = oids[kind]
    assert oid is not None
    store.objects.delete(oid)
    with pytest.raises(MissingObjectError):
        gc(store, grace_days=0)
    assert store.objects.exists(blob.oid)


def test_nothing_is_deleted_while_a_ref_is_damaged(store: Store) -> None:
    blob = store.objects.put_blob(b"left over")
    store.storage.create("refs/broken/0000000000000001", b"{")
    with pytest.raises(CorruptionError):
        gc(store, grace_days=0)
    assert store.objects.exists(blob.oid)


def test_damaged_lists_are_forgotten(store: Store) -> None:
    store.storage.create(f"{CONDEMNED}broken", b'{"objects":[["x"]]}')
    gc(store)
    assert not tiny.keys_of(store.storage, CONDEMNED)


def test_periods_come_from_the_configuration(store: Store) -> None:
    store.objects.put_blob(b"left over")
    store.configure("gc.grace_days", "2")
    store.configure("gc.reflog_days", "50")
    store.configure("gc.reflog_deleted_days", "5")
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, 6 * DAY)
    assert gc(store).condemned_objects > 3
    tiny.make_older(store.storage, 3 * DAY)
    assert gc(store).deleted_objects > 3
    store.configure("gc.grace_days", "soon")
    with pytest.raises(UsageError, match="soon"):
        gc(store)
    with pytest.raises(UsageError):
        gc(store, grace_days=-1)


def test_after_a_collection_everything_can_be_committed_again(store: Store, models: Path) -> None:
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, 1)  # clocks of file systems tick: the lease could have the time of the deletion
    assert gc(store, grace_days=0, reflog_days=0).deleted_objects > 3
    again = commit(store, models / "lossy", base="base", name="lossy")
    assert again.stored_bytes > 0
    assert fsck(store, deep=True).clean
    assert not gc(store, grace_days=0).deleted_objects


def test_files_of_killed_writers_go_after_the_grace_period(tmp_path: Path) -> None:
    store = tiny.make_store(LocalStorage(tmp_path))
    (tmp_path / "objects" / "ab").mkdir(parents=True)
    stray = tmp_path / "objects" / "ab" / "#new-0123456789abcdef"
    stray.write_bytes(b"half")
    assert gc(store).unfinished == 0
    assert stray.exists()
    assert gc(store, grace_days=0).unfinished == 1
    assert not stray.exists()


def test_directories_of_leases_go_after_the_grace_period(tmp_path: Path) -> None:
    store = tiny.make_store(LocalStorage(tmp_path))
    for number in range(3):
        with Lease(store.storage, "writer", str(number)):
            pass
    left = list((tmp_path / "gc" / "leases").iterdir())
    assert len(left) == 3
    gc(store)
    assert set(left) <= set((tmp_path / "gc" / "leases").iterdir())
    for directory in left:
        os.utime(directory, (0, 0))
    gc(store)
    assert not set(left) & set((tmp_path / "gc" / "leases").iterdir())
    with Lease(store.storage, "writer", "again"):
        assert gc(store).waiting


@pytest.mark.parametrize("seconds", [0, 2**31])
def test_times_of_files_that_a_copy_set_collect_nothing(filled: Storage, tmp_path: Path, seconds: int) -> None:
    store = tiny.copy_store(filled, LocalStorage(tmp_path))
    tiny.delete_ref(store, "lossy")
    blob = store.objects.put_blob(b"condemned")
    tiny.make_older(store.storage, 15 * DAY, "objects/")
    assert gc(store).condemned_objects == 1
    before = tiny.keys_of(store.storage, "objects/") | tiny.keys_of(store.storage, "refs/")
    for path in tmp_path.rglob("*"):
        os.utime(path, (seconds, seconds))
    for _ in range(2):
        done = gc(store)
        assert (done.waiting, done.deleted_objects, done.expired_entries) == (None, 0, 0)
    assert store.objects.exists(blob.oid)
    assert tiny.keys_of(store.storage, "objects/") | tiny.keys_of(store.storage, "refs/") == before


@pytest.mark.parametrize("years", [3, 40, 60])
def test_what_a_clock_that_was_reset_deleted_can_be_undone(store: Store, years: int) -> None:
    before = objects(store)
    tiny.make_older(store.storage, 40 * DAY, "refs/")
    store.refs.update("seen", store.resolve("base"), expected=0, kind="tag", operation="", writer=new_id(), message="")
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, min(years * 365 * DAY, time.time() - 5), "refs/lossy/0000000000000002")
    tiny.make_older(store.storage, 15 * DAY, "objects/")
    done = gc(store, dry_run=True)
    assert done.condemned_objects == 0
    assert {hold.name: hold.until > datetime.now(UTC) for hold in done.reflog}["lossy"]
    gc(store)
    assert store.refs.read("lossy").oid is None
    undo(store)
    assert store.has_ref("lossy")
    assert objects(store) == before
    # Once it is older than what others saw after it, its age is known again.
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, 40 * DAY, "refs/")
    assert gc(store).condemned_objects > 0


def test_without_any_time_nothing_expires_unless_all_may(store: Store) -> None:
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, time.time() - 5)
    assert gc(store).deleted_objects == gc(store).condemned_objects == 0
    assert gc(store, reflog_days=0, grace_days=0).deleted_objects > 0
    assert not fsck(store).unreachable


def test_what_comes_from_the_future_has_a_way_out(store: Store) -> None:
    tiny.delete_ref(store, "lossy")
    tiny.make_older(store.storage, -4000 * DAY)
    assert gc(store, grace_days=0).deleted_objects == 0
    assert gc(store, reflog_days=0, grace_days=0).deleted_objects > 0
    assert not fsck(store).unreachable


def test_a_list_from_the_future_is_made_anew(store: Store) -> None:
    store.objects.put_blob(b"condemned by a clock that was ahead")
    tiny.make_older(store.storage, 15 * DAY, "objects/")
    assert gc(store).condemned_objects == 1
    tiny.make_older(store.storage, -4000 * DAY, CONDEMNED)
    assert gc(store).condemned_objects == 1
    tiny.make_older(store.storage, 15 * DAY, CONDEMNED)
    assert gc(store).deleted_objects == 1


def test_every_record_is_read_once(filled: Storage) -> None:
    class Counting(MemoryStorage):
        def __init__(self) -> None:
            super().__init__()
            self.reads: Counter[str] = Counter()

        def read_range(self, key: str, start: int, stop: int) -> bytes:
            self.reads[key] += 1
            return super().read_range(key, start, stop)

        def list(self, prefix: str = "") -> Iterator[Entry]:
            self.reads[f"list {prefix}"] += 1
            return super().list(prefix)

    storage = Counting()
    store = tiny.copy_store(filled, storage)
    storage.reads.clear()
    gc(store)
    assert storage.reads["list objects/"] == 1
    kinds = [count for key, count in storage.reads.items() if key.startswith("objects/")]
    assert kinds
    assert max(kinds) == 1
