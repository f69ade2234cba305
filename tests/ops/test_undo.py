"""undo and reflog: every operation can be taken back, and taken back again."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lineages import add, empty_store, names, reopened

from erestore.api import Store
from erestore.errors import (
    ConflictError,
    ErestoreError,
    NotFoundError,
    RefConflictError,
    RemoteError,
    UnknownRevisionError,
)
from erestore.storage import refs
from erestore.storage.abc import Data, Storage
from erestore.storage.frames import KINDS
from erestore.storage.holder import Holder
from erestore.storage.lease_records import PREFIX
from erestore.storage.leases import Lease
from erestore.storage.memory import MemoryStorage
from erestore.storage.overlay import Overlay


def places(store: Store) -> dict[str, tuple[str, str]]:
    return {name: (entry.kind, entry.oid) for name, entry in store.refs.all().items() if entry.oid}


def test_undo_goes_back_step_by_step_and_redo_forth() -> None:
    store = empty_store()
    seen = [places(store)]
    add(store, "base")
    seen.append(places(store))
    add(store, "a", "base")
    seen.append(places(store))
    store.tag("v1", "a")
    seen.append(places(store))
    store.rename_branch("a", "b")
    seen.append(places(store))
    undone = []
    for before in reversed(seen[:-1]):
        undone.append(store.undo().operation)
        assert places(store) == before
    with pytest.raises(NotFoundError, match="nothing to undo"):
        store.undo()
    for operation, after in zip(reversed(undone), seen[1:], strict=True):
        store.undo(operation)
        assert places(store) == after
    store.undo()
    assert places(store) == seen[-2]
    assert not list(store.storage.list(PREFIX))


def test_result_says_what_was_done() -> None:
    store = empty_store()
    base = add(store, "base")
    oid = add(store, "a", "base", message="better\nthan before")
    done = store.undo()
    (ref,) = done.refs
    assert (ref.name, ref.before, ref.after, done.message) == ("a", oid, None, "better")
    newest = store.reflog()[0]
    assert (newest.operation, newest.undoes, newest.commit, newest.previous) == (done.operation, done.undone, None, oid)
    redone = store.undo(done.operation[:6])
    assert redone.refs[0].after == oid
    assert store.resolve("a~1") == base


def test_one_operation_may_move_many_names() -> None:
    store = empty_store()
    operation = store.begin()
    add(store, "base", operation=operation)
    add(store, "a", "base", operation=operation)
    assert {ref.name for ref in store.undo().refs} == {"a", "base"}
    assert places(store) == {}


def test_an_older_operation_conflicts_only_if_its_names_were_moved() -> None:
    store = empty_store()
    add(store, "base")
    add(store, "a", "base")
    first = store.reflog("a")[0].operation
    tag = store.tag("v1", "base").operation
    second = add(store, "a", "a", edge="versioned")
    with pytest.raises(ConflictError, match="'a' was moved again") as caught:
        store.undo(first)
    assert store.reflog("a")[0].operation[:12] in str(caught.value.hint)
    assert store.resolve("a") == second
    store.undo(tag)
    assert store.tags() == ()
    with pytest.raises(ConflictError, match="undone already"):
        store.undo(tag)


def test_a_name_that_was_branch_then_tag_gets_its_kind_back() -> None:
    store = empty_store()
    add(store, "base")
    store.branch("x", "base")
    store.delete_branches(["x"])
    store.tag("x", "base")
    store.undo()
    store.undo()
    assert store.ref("x").kind == "branch"


def test_unknown_and_ambiguous_operations() -> None:
    store = empty_store()
    add(store, "base")
    for operation in ("ffff0000", store.reflog()[0].operation[:3], ""):
        with pytest.raises(NotFoundError, match="There is no operation"):
            store.undo(operation)


def test_what_garbage_collection_took_cannot_come_back() -> None:
    store = empty_store()
    add(store, "base")
    add(store, "a", "base")
    (deleted,) = store.delete_branches(["a"])
    store.objects.delete(str(deleted.before))
    with pytest.raises(NotFoundError, match=r"the commit \w+ is no longer"):
        store.undo()
    assert not store.has_ref("a")
    store.delete_branches(["base"])
    manifest = store.commit_record(str(store.reflog("base")[0].previous)).manifest
    store.objects.delete(store.commit_record(str(store.reflog("base")[0].previous)).manifest)
    with pytest.raises(NotFoundError, match=f"the manifest {manifest[:12]}"):
        store.undo()


def test_tensors_that_garbage_collection_took_cannot_come_back() -> None:
    store = empty_store()
    add(store, "base", base="other")
    store.delete_branches(["base"])
    (oid,) = (
        stored.oid for stored in store.objects.list() if store.storage.read(_key(stored.oid))[5] == KINDS["tensors"]
    )
    store.objects.delete(oid)
    with pytest.raises(NotFoundError, match=f"the tensors {oid[:12]}"):
        store.undo()


def _key(oid: str) -> str:
    return f"objects/{oid[:2]}/{oid[2:]}"


def test_a_race_in_the_middle_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    operation = store.begin()
    add(store, "base", operation=operation)
    add(store, "a", "base", operation=operation)
    update = store.refs.update

    def raced(name: str, *args, **kwargs):
        if name == "base":
            raise RefConflictError(name)
        return update(name, *args, **kwargs)

    monkeypatch.setattr(store.refs, "update", raced)
    with pytest.raises(ConflictError, match="Undone so far: a"):
        store.undo()
    monkeypatch.undo()
    assert places(store).keys() == {"base"}
    assert [ref.name for ref in store.undo().refs] == ["base"]
    assert places(store) == {}


def test_reflog_of_one_name() -> None:
    store = empty_store()
    base = add(store, "base")
    tuned = add(store, "a", "base")
    store.delete_branches(["a"])
    entries = store.reflog("a")
    assert names(entries, "selector") == ["a@{0}", "a@{1}"]
    assert names(entries) == [None, tuned]
    assert names(entries, "previous") == [tuned, None]
    assert names(entries, "message") == ["deleted", "adapted"]
    assert names(store.reflog(), "ref") == ["a", "a", "base"]
    assert names(store.reflog(limit=1), "ref") == ["a"]
    assert store.resolve("base@{0}") == base
    with pytest.raises(UnknownRevisionError, match="'bas'") as caught:
        store.reflog("bas")
    assert caught.value.near == ("base",)


@pytest.mark.parametrize("skew", [3600, -3600, 400 * 86400])
def test_the_order_of_operations_is_that_of_the_logs_whatever_clocks_say(
    skew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = empty_store()
    add(store, "base")
    clock = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(refs.time, "time_ns", lambda: clock() + skew * 10**9)
        store.tag("theirs", "base")
    store.tag("mine", "base")
    assert names(store.reflog(), "ref") == ["mine", "theirs", "base"]
    assert store.status().last.ref == "mine"  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(refs.time, "time_ns", lambda: clock() - skew * 10**9)
        assert store.undo().refs[0].name == "mine"
    assert store.undo().refs[0].name == "theirs"


def test_the_order_survives_a_copy_that_sets_times(tmp_path: Path) -> None:
    store = Store.init(tmp_path / "s")
    add(store, "base")
    for name in ("c", "a", "b"):
        store.tag(name, "base")
    for number, path in enumerate(sorted((tmp_path / "s" / "refs").rglob("0*"))):
        os.utime(path, (number * 1000, number * 1000))
    assert [store.undo().refs[0].name for _ in range(4)] == ["b", "a", "c", "base"]


def test_entries_of_versions_that_did_not_count_stand_where_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    add(store, "base")
    with monkeypatch.context() as patch:
        patch.setattr(refs, "with_count", lambda writer, _: writer)
        store.tag("old", "base")
    store.tag("new", "base")
    with monkeypatch.context() as patch:
        patch.setattr(refs, "with_count", lambda writer, _: writer)
        store.tag("older", "base")
    assert names(store.reflog(), "ref") == ["older", "new", "old", "base"]


class Lossy(Overlay):
    """Loses the answer to one creation below ``refs/``, and then does not answer for a while."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner, MemoryStorage())
        self.is_lossy = False
        self.is_dead = False

    def __getattribute__(self, name: str):
        if name in {"read", "list", "exists", "delete"} and super().__getattribute__("is_dead"):
            raise RemoteError("The network is down.")
        return super().__getattribute__(name)

    def create(self, key: str, data: Data) -> bool:
        if self.is_dead:
            raise RemoteError("The network is down.")
        created = super().create(key, data)
        if self.is_lossy and key.startswith("refs/"):
            self.is_dead = True
            raise RemoteError("The network is down.")
        return created


def test_an_undo_whose_answer_was_lost_is_not_done_twice() -> None:
    inner = empty_store()
    add(inner, "base")
    inner.tag("keep", "base")
    inner.tag("oops", "base")
    storage = Lossy(inner.storage)
    store = reopened(storage)
    storage.is_lossy = True
    with pytest.raises(RemoteError, match="not known whether 'oops'") as caught:
        store.undo()
    storage.is_lossy = storage.is_dead = False
    operation = str(caught.value.hint).split("`")[1].split()[-1]
    with pytest.raises(ConflictError, match="undone already"):
        store.undo(operation)
    again = store.undo()
    assert (again.repeated, again.refs[0].name, again.undone[:12]) == (True, "oops", operation)
    assert store.has_ref("keep")
    assert store.undo().repeated  # this process might still be at it
    for entry in storage.list(PREFIX):
        storage.delete(entry.key)
    assert store.undo().refs[0].name == "keep"


def test_an_undo_that_was_killed_counts_as_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    add(store, "base")
    store.tag("keep", "base")
    store.tag("oops", "base")
    monkeypatch.setattr(Lease, "remove", lambda _: None)
    gone = replace(Holder.current(), started=1)
    monkeypatch.setattr(Holder, "current", lambda: gone)
    store.undo()
    monkeypatch.undo()
    if not gone.boot:
        pytest.skip("this system does not say which processes run")
    assert store.undo().repeated
    assert not store.undo().repeated  # the lease that was left went with the first answer
    assert not store.has_ref("keep")


def test_another_writers_undo_does_not_stand_for_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    add(store, "base")
    store.tag("first", "base")
    store.tag("second", "base")
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "remove", lambda _: None)
        theirs = replace(Holder.current(), host="elsewhere")
        patch.setattr(Holder, "current", lambda: theirs)
        store.undo()
    undone = store.undo()
    assert (undone.repeated, undone.refs[0].name) == (False, "first")


class Undoing(RuleBasedStateMachine):
    """After any operations, undoing all of them leads back through every earlier state."""

    @initialize()
    def begin(self) -> None:
        self.store = empty_store()
        add(self.store, "base")
        self.states = [places(self.store)]

    def _note(self) -> None:
        self.states.append(places(self.store))

    @rule(name=st.sampled_from("abc"), kind=st.sampled_from(["branch", "tag"]))
    def make(self, name: str, kind: str) -> None:
        try:
            getattr(self.store, kind)(name, "base")
        except ErestoreError:
            return
        self._note()

    @rule(name=st.sampled_from("abc"))
    def delete(self, name: str) -> None:
        if name not in places(self.store):
            return
        kind = self.store.ref(name).kind
        self.store.delete_tags([name]) if kind == "tag" else self.store.delete_branches([name])
        self._note()

    @rule(old=st.sampled_from("abc"), new=st.sampled_from("abc"))
    def rename(self, old: str, new: str) -> None:
        try:
            self.store.rename_branch(old, new)
        except ErestoreError:
            return
        self._note()

    @rule()
    def version(self) -> None:
        add(self.store, "base", "base", edge="versioned", message=str(len(self.states)))
        self._note()

    @precondition(lambda self: len(self.states) > 1)
    @rule()
    def undo(self) -> None:
        self.store.undo()
        self.states.pop()
        assert places(self.store) == self.states[-1]

    @precondition(lambda self: len(self.states) > 1)
    @rule()
    def undo_and_redo(self) -> None:
        self.store.undo(self.store.undo().operation)
        assert places(self.store) == self.states[-1]


TestUndoing = Undoing.TestCase
TestUndoing.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
