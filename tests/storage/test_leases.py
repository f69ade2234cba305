"""Leases keep writers and collectors apart, whatever the order of their calls."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from erestore.errors import AccessError, ConflictError, RemoteError
from erestore.storage import leases
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.holder import Holder
from erestore.storage.lease_records import EXPIRES_SECONDS, PREFIX, SKEW_SECONDS
from erestore.storage.leases import Lease
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


@pytest.mark.parametrize("kind", ["writer", "collector"])
def test_renewing_does_not_hide_that_a_lease_had_lapsed(storage, monkeypatch, kind):
    with Lease(storage, kind, "on a laptop that slept") as lease:
        clock = leases.time.time
        monkeypatch.setattr(leases.time, "time", lambda: clock() + EXPIRES_SECONDS)
        for _ in range(2):
            with pytest.raises(ConflictError, match="interrupted"):
                lease.renew()
        with pytest.raises(ConflictError, match="interrupted"):
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


@pytest.mark.parametrize("kind", ["collector", "writer"])
@pytest.mark.parametrize(
    ("ahead", "counts"), [(SKEW_SECONDS - 1, True), (SKEW_SECONDS + 1, False), (400 * 86400, False)]
)
def test_a_lease_from_the_future_counts_within_the_skew_of_clocks(storage, now, kind, ahead, counts):
    now[0] += ahead
    Lease(storage, kind, "whose clock was ahead").renew()
    now[0] -= ahead
    other = Lease(storage, "writer" if kind == "collector" else "collector", "two")
    if counts:
        with pytest.raises(ConflictError, match=r"deleting|writing"):
            other.__enter__()
    else:
        with other:
            assert other.others() == []


def test_a_lease_that_was_copied_without_its_time_is_dead(storage, now):
    Lease(storage, "collector", "killed last week").renew()
    (entry,) = storage.list(PREFIX)
    content = parse_canonical(storage.read(entry.key))
    storage.delete(entry.key)
    storage.create(entry.key, dump_canonical({**content, "time": content["time"] - 7 * 86_400_000_000}))
    for kind in ("writer", "collector"):
        with Lease(storage, kind, "of the copy") as lease:
            assert lease.others() == []


def test_the_newest_entry_is_the_highest_whatever_its_time(storage, now):
    lease = Lease(storage, "collector", "whose clock went back")
    lease.renew()
    storage.delete = lambda _key: None  # it died between creating the next entry and removing the one before
    now[0] -= 5 * EXPIRES_SECONDS
    lease.renew()
    with pytest.raises(ConflictError, match="deleting"), Lease(storage, "writer", "one"):
        pytest.fail("entered")


class AddOnly(MemoryStorage):
    """Credentials that may write and read, but not delete."""

    def delete(self, key):
        raise AccessError(f"There is no permission to delete '{key}'.")


def test_who_may_not_delete_ends_a_lease_by_adding_to_it():
    storage = AddOnly()
    with Lease(storage, "writer", "one") as lease:
        lease.renew()
        lease.confirm()
    assert [entry.key.split("/")[3] for entry in sorted(storage.list(PREFIX))] == [f"{1:016d}", f"{2:016d}", "released"]
    with Lease(storage, "collector", "gc") as lease:
        assert lease.others() == []


@pytest.mark.parametrize("kind", ["writer", "collector"])
def test_an_operation_whose_lease_was_removed_stops(storage, kind):
    with Lease(storage, kind, "one") as lease:
        lease.confirm()
        for entry in storage.list(PREFIX):
            storage.delete(entry.key)
        lease._looked_up = None  # as after a second
        with pytest.raises(ConflictError, match="removed"):
            lease.confirm()
        with pytest.raises(ConflictError, match="removed"):
            lease.renew()
        assert list(storage.list(PREFIX)) == []


def test_who_is_refused_learns_by_whom_and_what_to_do(storage):
    with Lease(storage, "collector", "gc"), pytest.raises(ConflictError) as caught, Lease(storage, "writer", "one"):
        pytest.fail("entered")
    assert str(Holder.current()) in caught.value.message
    assert "an hour" in str(caught.value.hint)
    assert "erestore unlock" in str(caught.value.hint)


def test_a_process_of_this_machine_is_known_to_be_gone():
    program = "from erestore.storage.holder import Holder; print(Holder.current().to_record())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ended = Holder.from_record(ast.literal_eval(done.stdout))
    assert ended is not None
    if not ended.boot:
        pytest.skip("this system does not say which processes run")
    assert ended.is_gone
    assert not Holder.current().is_gone
    assert replace(Holder.current(), started=1).is_gone  # another process got the number
    assert not replace(ended, host="elsewhere").is_gone
    assert not replace(ended, boot="another container").is_gone


_LOOK_AT_HIDDEN = """
import os, sys
from erestore.storage.holder import Holder
other = Holder(**{**Holder.current().to_record(), "pid": int(sys.argv[1]), "started": int(sys.argv[2])})
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(os.path.exists(f"/proc/{other.pid}"), other.is_gone)
"""


def test_a_process_that_is_hidden_from_this_user_is_not_gone():
    if os.geteuid() != 0:
        pytest.skip("takes root, to mount /proc with hidepid")
    here = Holder.current()
    command = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"']
    done = subprocess.run(
        [*command, sys.executable, "-c", _LOOK_AT_HIDDEN, str(here.pid), str(here.started)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or done.stdout.startswith("True"):
        pytest.skip(f"this system hides no processes: {done.stderr[-200:]}")
    assert done.stdout.split() == ["False", "False"]


def test_what_is_no_holder_is_nobody():
    for record in (None, "ada", {}, {"user": "ada"}, {**Holder.current().to_record(), "pid": "7"}):
        assert Holder.from_record(record) is None
