"""Leases keep writers and collectors apart, whatever the order of their calls."""

from __future__ import annotations

import threading

import pytest

from erestore.errors import ConflictError, RemoteError
from erestore.storage import leases
from erestore.storage.leases import EXPIRES_SECONDS, PREFIX, Lease
from erestore.storage.memory import MemoryStorage


@pytest.fixture
def now():
    return [1_000_000.0]


@pytest.fixture
def storage(now):
    return MemoryStorage(clock=lambda: now[0])


def test_writers_run_together_and_leave_nothing(storage):
    with Lease(storage, "writer", "one") as one, Lease(storage, "writer", "two") as two:
        assert one.others() == [two.name]
        assert len(list(storage.list(PREFIX))) == 2
        one.confirm()
    assert list(storage.list()) == []


@pytest.mark.parametrize(("first", "second"), [("writer", "collector"), ("collector", "writer"), ("collector",) * 2])
def test_whoever_comes_second_is_refused_and_leaves_nothing(storage, first, second):
    with Lease(storage, first, "one") as holder:
        with pytest.raises(ConflictError), Lease(storage, second, "two"):
            pytest.fail("entered")
        assert [entry.key for entry in storage.list()] == [f"{PREFIX}{holder.name}/{1:016d}"]
    with Lease(storage, second, "two"):
        pass


class Hooked(MemoryStorage):
    """Does something else just before its n-th call."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.hooks = {}

    def _count(self):
        self.calls += 1
        if act := self.hooks.pop(self.calls, None):
            act()

    def create(self, key, data):
        self._count()
        return super().create(key, data)

    def list(self, prefix=""):
        self._count()
        return super().list(prefix)

    def delete(self, key):
        self._count()
        super().delete(key)


@pytest.mark.parametrize("kinds", [("writer", "collector"), ("collector", "writer"), ("collector", "collector")])
@pytest.mark.parametrize("call", range(1, 4))
def test_of_two_that_start_at_once_never_both_enter(kinds, call):
    storage = Hooked()
    entered = []

    def enter(kind):
        lease = Lease(storage, kind, kind)
        try:
            lease.__enter__()
        except ConflictError:
            return
        entered.append(lease)

    storage.hooks = {call: lambda: enter(kinds[1])}
    enter(kinds[0])
    assert len(entered) <= 1
    for lease in entered:
        lease.__exit__()
    assert list(storage.list()) == []


def test_expired_leases_are_ignored(storage, now):
    crashed = Lease(storage, "writer", "killed")
    crashed.renew()
    now[0] += EXPIRES_SECONDS - 1
    with pytest.raises(ConflictError, match="nothing was deleted"), Lease(storage, "collector", "gc"):
        pytest.fail("entered")
    now[0] += 1
    with Lease(storage, "collector", "gc") as lease:
        assert lease.others() == []


def test_a_renewed_lease_lives_on(storage, now):
    with Lease(storage, "writer", "long") as lease:
        for _ in range(5):
            now[0] += EXPIRES_SECONDS * 0.9
            lease.renew()
            assert [entry.key for entry in storage.list()] == [f"{PREFIX}{lease.name}/{lease._number:016d}"]
            with pytest.raises(ConflictError), Lease(storage, "collector", "gc"):
                pytest.fail("entered")


def test_the_clock_of_this_machine_does_not_matter(storage, now):
    now[0] = 5.0  # the storage's clock is decades behind
    with Lease(storage, "writer", "one"), pytest.raises(ConflictError), Lease(storage, "collector", "gc"):
        pytest.fail("entered")


def test_renewal_needs_no_help():
    renewed = threading.Event()
    storage = Hooked()
    storage.hooks = {6: renewed.set}  # create, list, then create and delete for each renewal
    with Lease(storage, "writer", "one", expires_seconds=1):
        assert renewed.wait(60)


def test_confirming_after_a_long_pause(storage, monkeypatch):
    with Lease(storage, "writer", "laptop") as lease:
        lease.confirm()
        clock = leases.time.time
        monkeypatch.setattr(leases.time, "time", lambda: clock() + EXPIRES_SECONDS / 2 + 1)
        with pytest.raises(ConflictError, match="interrupted"):
            lease.confirm()
        lease.renew()
        lease.confirm()


def test_a_lease_that_somebody_removed_is_noticed(storage):
    with Lease(storage, "writer", "one") as lease:
        storage.delete(f"{PREFIX}{lease.name}/{1:016d}")
        with pytest.raises(ConflictError, match="removed"):
            lease.others()


def test_a_remote_that_fails_at_the_end_does_not_undo_what_was_done():
    storage = Hooked()

    def fail():
        raise RemoteError("The network is down.")

    with Lease(storage, "writer", "one"):
        storage.hooks = {storage.calls + 1: fail}
