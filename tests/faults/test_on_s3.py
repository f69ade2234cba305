"""A remote, which does not refresh times: collection, and deaths at every write."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import tiny
from servers import Remote
from verbs import VERBS, check_old_or_new, names_of

from erestore.ops.branch import delete_branches
from erestore.ops.commit import commit
from erestore.ops.fsck import fsck
from erestore.ops.gc import gc
from erestore.ops.import_base import import_base
from erestore.storage.lease_records import PREFIX
from erestore.storage.leases import Lease
from erestore.storage.remote import FsspecStorage
from erestore.testing.faults import FaultInjected, FaultyStorage

pytestmark = pytest.mark.s3


@pytest.fixture
def storage(moto_url: Remote) -> FsspecStorage:
    return FsspecStorage(*moto_url)


def wait_for_the_next_second(storage: FsspecStorage) -> None:
    """S3 tells times in whole seconds, and an entry of this second is not older than now."""

    def now() -> float:
        with Lease(storage, "writer", "clock") as lease:
            return max(entry.modified for entry in storage.list(f"{PREFIX}{lease.name}/"))

    start = now()
    limit = time.monotonic() + 30
    while now() == start:
        assert time.monotonic() < limit


def test_a_collection(storage: FsspecStorage, models: Path) -> None:
    store = tiny.make_store(storage)
    import_base(store, models / "base", name="base")
    commit(store, models / "one", base="base", name="one", quality=tiny.EXACT)
    commit(store, models / "two", base="base", name="two")
    delete_branches(store, ["two"])
    with Lease(storage, "writer", "somebody"):
        assert gc(store, grace_days=0, reflog_days=0).waiting
    assert gc(store).condemned_objects == 0
    wait_for_the_next_second(storage)
    assert gc(store, grace_days=0, reflog_days=0).deleted_objects > 3
    found = fsck(store, deep=True)
    assert found.clean
    assert found.unreachable == ()
    commit(store, models / "two", base="base", name="two")
    assert fsck(store, deep=True).clean
    assert not tiny.keys_of(storage, "gc/")


def test_a_commit_dies_at_every_eighth_call(storage: FsspecStorage, models: Path) -> None:
    store = tiny.make_store(storage)
    import_base(store, models / "base", name="base")
    verb = VERBS["commit --exact"]
    for number in itertools.count(1, 8):
        before = names_of(store)
        try:
            verb.run(tiny.store_on(FaultyStorage(storage, number, "after")), models)
        except FaultInjected:
            check_old_or_new(verb, before, storage, models)
            continue
        check_old_or_new(verb, before, storage, models)
        break
    for key in tiny.keys_of(storage, "gc/leases/"):  # the hour after which they are dead
        storage.delete(key)
    wait_for_the_next_second(storage)
    assert gc(store, grace_days=0).waiting is None
    found = fsck(store, deep=True)
    assert found.clean
    assert found.unreachable == ()
