"""Refs: names, logs, conflicts and races."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erestore.errors import CorruptionError, RefConflictError, UnsupportedFormatError, UsageError
from erestore.storage.canonical import dump_canonical
from erestore.storage.keys import check_key
from erestore.storage.local import LocalStorage
from erestore.storage.log import NumberedLog
from erestore.storage.memory import MemoryStorage
from erestore.storage.refs import NAME_LIMIT, RefEntry, Refs, check_name

A, B, C = "a" * 64, "b" * 64, "c" * 64


def move(refs, name, oid, expected, kind="branch", writer="me", operation="op"):
    return refs.update(name, oid, expected=expected, kind=kind, operation=operation, writer=writer, message="a message")


@pytest.fixture
def refs():
    return Refs(MemoryStorage())


def test_a_ref_moves_and_remembers(refs):
    assert refs.read("main") is None
    first = move(refs, "main", A, 0)
    second = move(refs, "main", B, first.number)
    assert (second.number, second.previous, second.oid) == (2, A, B)
    assert refs.read("main") == second
    assert list(refs.log("main")) == [second, first]
    assert abs(second.time - first.time) < 60_000_000


def test_a_stale_writer_is_told_and_changes_nothing(refs):
    move(refs, "main", A, 0)
    move(refs, "main", B, 1)
    for expected in (0, 1, 3, 50):
        with pytest.raises(RefConflictError):
            move(refs, "main", C, expected)
    assert [entry.oid for entry in refs.log("main")] == [B, A]


def test_a_deleted_ref_keeps_its_log_and_can_come_back(refs):
    move(refs, "main", A, 0)
    gone = move(refs, "main", None, 1)
    assert refs.read("main") == gone
    assert (refs.names(), refs.names(deleted=True)) == ([], ["main"])
    move(refs, "main", C, 2)
    assert [entry.oid for entry in refs.log("main")] == [C, None, A]
    assert refs.names() == ["main"]


def test_names_in_one_listing(refs):
    move(refs, "b", A, 0)
    move(refs, "team/a", A, 0, kind="tag")
    move(refs, "team", B, 0)
    for number in range(12):
        move(refs, "a.long_log", A, number)
    assert refs.names() == ["a.long_log", "b", "team", "team/a"]
    assert refs.names("tag") == ["team/a"]
    assert {name: entry.number for name, entry in refs.all().items()} == {
        "a.long_log": 12,
        "b": 1,
        "team": 1,
        "team/a": 1,
    }
    assert refs.read("tea") is None


@pytest.mark.parametrize("name", ["main", "task-mnli", "a", "team/task_1.0", "-"[1:] + "x-", "0a" * 19, "_", "v1.0"])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "-x", ".x", "a/.b", "a..b", "a/", "/a", "a//b", "a.", "x" * (NAME_LIMIT + 1), "a" * 40, "AB" * 32],
        *["a b", "a~1", "a@{1}", "a\n", "ä", "a*b", "a+b", "(a)", "a%2Fb", "a\\b", "../x", "x/" * 80 + "x", "a:b"],
    ],
)
def test_bad_names(name, refs):
    with pytest.raises(UsageError):
        check_name(name)
    with pytest.raises(UsageError):
        move(refs, name, A, 0)


@given(st.text(max_size=250))
def test_any_good_name_has_a_key_that_storages_take(name):
    try:
        check_name(name)
    except UsageError:
        return
    refs = Refs(MemoryStorage())
    move(refs, name, A, 0)
    assert refs.names() == [name]
    (entry,) = refs._storage.list()
    assert len(check_key(entry.key).split("/")[1]) <= NAME_LIMIT


GOOD = {"kind": "branch", "oid": A, "previous": None, "writer": "w"}
GOOD |= {"operation": "o", "undoes": None, "time": 1, "message": "é"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        dump_canonical({**GOOD, "oid": "xyz"}),
        dump_canonical({**GOOD, "oid": 5}),
        dump_canonical({**GOOD, "previous": "A" * 64}),
        dump_canonical({**GOOD, "time": "1"}),
        dump_canonical({**GOOD, "time": True}),
        dump_canonical({key: value for key, value in GOOD.items() if key != "message"}),
        dump_canonical(GOOD)[:-1],
        dump_canonical(GOOD) + b"\n",
    ],
)
def test_malformed_entries_are_corrupt(content):
    storage = MemoryStorage()
    storage.create("refs/main/0000000000000001", content)
    with pytest.raises(CorruptionError, match="'main'"):
        Refs(storage).read("main")


@pytest.mark.parametrize("change", [{"kind": "stash"}, {"extra": 1}])
def test_entries_of_a_newer_format_are_refused(change):
    with pytest.raises(UnsupportedFormatError):
        RefEntry.from_bytes("main", 1, dump_canonical({**GOOD, **change}))


def test_the_stored_form_is_plain_json():
    entry = RefEntry(name="main", number=3, **GOOD)
    assert RefEntry.from_bytes("main", 3, entry.to_bytes()) == entry
    assert entry.to_bytes() == dump_canonical(GOOD)


def test_pruning_keeps_the_newest():
    now = [1000.0]
    refs = Refs(MemoryStorage(clock=lambda: now[0]))
    for number in range(5):
        now[0] += 10
        move(refs, "main", A if number < 4 else None, number)
    assert refs.prune("main", 1_025_000_000) == 2
    assert [entry.number for entry in refs.log("main")] == [5, 4, 3]
    assert refs.prune("main", 9_000_000_000) == 2
    assert [entry.number for entry in refs.log("main")] == [5]
    assert move(refs, "main", B, 5).number == 6


def test_pruning_makes_no_hole():
    now = [1000.0]
    storage = MemoryStorage(clock=lambda: now[0])
    refs = Refs(storage)
    for number in range(5):
        now[0] += 10
        move(refs, "main", A, number)
    now[0] += 1000
    storage.create("refs/main/0000000000000002", b"a loser's attempt makes it look young")
    assert refs.prune("main", 2_000_000_000) == 1
    assert [entry.number for entry in refs.log("main")] == [5, 4, 3, 2]


class Interfering(MemoryStorage):
    """Lets somebody else act just before or just after a creation, as a race would."""

    before = after = None

    def create(self, key, data):
        if self.before:
            act, self.before = self.before, None
            act()
        created = super().create(key, data)
        if self.after:
            act, self.after = self.after, None
            act()
        return created


def test_losing_a_race_is_a_conflict():
    storage = Interfering()
    refs = Refs(storage)
    move(refs, "main", A, 0)
    storage.before = lambda: move(refs, "main", B, 1, writer="other")
    with pytest.raises(RefConflictError):
        move(refs, "main", C, 1)
    assert refs.read("main").writer == "other"


@pytest.mark.parametrize("expected", [0, 1])
def test_being_built_upon_at_once_is_no_conflict(expected):
    storage = Interfering()
    refs = Refs(storage)
    if expected:
        move(refs, "main", A, 0)
    storage.after = lambda: [move(refs, "main", C, expected + 1), move(refs, "main", A, expected + 2)]
    assert move(refs, "main", B, expected).number == expected + 1


@pytest.mark.parametrize("moves", [2, 3])
@pytest.mark.parametrize("expected", [0, 1])
def test_writing_below_a_pruned_log_is_a_conflict(expected, moves):
    storage = Interfering()
    refs = Refs(storage)
    if expected:
        move(refs, "main", A, 0)

    def overtake():
        for number in range(expected, expected + moves):
            move(refs, "main", [A, C][number % 2], number)
        refs.prune("main", 2**62)

    storage.before = overtake
    with pytest.raises(RefConflictError):
        move(refs, "main", B, expected)
    assert refs.read("main").number == expected + moves


def test_a_log_is_of_any_content():
    log = NumberedLog(MemoryStorage(), "config")
    assert log.latest() is None
    assert log.append(0, b"one", lambda _: False) == 1
    assert log.append(0, b"other", lambda _: False) is None
    assert log.append(5, b"far ahead", lambda _: True) is None
    assert log.numbers() == [1]
    assert log.append(1, b"two", lambda _: False) == 2
    assert log.latest() == (2, b"two")
    assert list(log.newest_first()) == [(2, b"two"), (1, b"one")]


def insist(refs, writer, moves):
    """Move a branch `moves` times against others, and return the operations that were acknowledged."""
    acknowledged = []
    for number in range(moves):
        operation = f"{writer}-{number}"
        while True:
            current = refs.read("main")
            try:
                oid = operation.encode().hex().rjust(64, "0")
                move(refs, "main", oid, current.number if current else 0, writer=writer, operation=operation)
            except RefConflictError:
                continue
            acknowledged.append(operation)
            break
    return acknowledged


def check_history(refs, acknowledged):
    log = list(refs.log("main"))
    assert sorted(entry.operation for entry in log) == sorted(acknowledged)
    assert [entry.number for entry in log] == list(range(len(log), 0, -1))
    assert all(newer.previous == older.oid for newer, older in itertools.pairwise(log))


def test_threads_lose_nothing_in_memory():
    storage = MemoryStorage()
    start = threading.Barrier(8)

    def work(writer):
        start.wait()
        return insist(Refs(storage), f"w{writer}", 10)

    with ThreadPoolExecutor(8) as pool:
        acknowledged = list(itertools.chain.from_iterable(pool.map(work, range(8))))
    check_history(Refs(storage), acknowledged)
    assert len(acknowledged) == 80


def insist_in_process(directory, writer, moves):
    return insist(Refs(LocalStorage(directory)), f"w{writer}", moves)


def race_processes(directory, writers, moves):
    with ProcessPoolExecutor(writers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(insist_in_process, directory, writer, moves) for writer in range(writers)]
        acknowledged = [operation for job in jobs for operation in job.result(300)]
    check_history(Refs(LocalStorage(directory)), acknowledged)
    assert len(acknowledged) == writers * moves


def test_processes_lose_nothing_on_a_disk(tmp_path):
    race_processes(tmp_path, 8, 5)


@pytest.mark.soak
def test_processes_lose_nothing_on_a_disk_for_long(tmp_path):
    race_processes(tmp_path, 8, 50)
