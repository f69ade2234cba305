"""log: order, names, sizes; and the lineage as a graph."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from lineages import START, add, empty_store, names

from erestore.commit_graph import by_time, children_first
from erestore.errors import UnknownRevisionError
from erestore.records import Commit


def test_newest_first_with_every_name() -> None:
    store = empty_store()
    base = add(store, "base", seconds=0)
    one = add(store, "a", "base", seconds=2, message="one\n\nmore")
    two = add(store, "b", "base", seconds=1)
    three = add(store, "a", "a", seconds=3, edge="versioned")
    store.tag("v1", "a~1")
    store.branch("also", "a")
    entries = store.log()
    assert names(entries) == [three, one, two, base]
    assert names(entries, "refs") == [("a", "also"), ("v1",), ("b",), ("base",)]
    assert names(entries, "tags") == [(), ("v1",), (), ()]
    assert names(entries, "edge") == ["versioned", "adapted", "adapted", "imported"]
    assert entries[0].parents == (one,)
    assert (entries[0].relative_error, entries[0].exact, entries[0].original_bytes) == (0.25, False, 1000)
    assert entries[1].message == "one\n\nmore"
    assert entries[1].author == "tester"
    assert entries[1].time == datetime.fromtimestamp(START / 1e6 + 2, UTC)


def test_limit_and_start() -> None:
    store = empty_store()
    base = add(store, "base")
    one = add(store, "a", "base", seconds=1)
    add(store, "b", "base", seconds=2)
    assert names(store.log(["a"])) == [one, base]
    assert names(store.log(["a", "a~1"], limit=1)) == [one]
    assert store.log(limit=0) == ()
    with pytest.raises(UnknownRevisionError):
        store.log(["nothing"])


def test_a_limited_log_reads_no_more_commits_than_it_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    add(store, "a")
    for number in range(20):
        add(store, "a", "a", seconds=number, edge="versioned")
    read: list[str] = []
    original = store.commit_record
    monkeypatch.setattr(store, "commit_record", lambda oid: read.append(oid) or original(oid))
    assert len(store.log(limit=3)) == 3
    assert len(read) <= 4


def test_the_base_that_one_operation_imported_comes_after_its_variant() -> None:
    for _ in range(8):  # oids differ from run to run, so order by oid would pass half the time
        store = empty_store()
        operation = store.begin()
        base = add(store, "base", operation=operation)
        variant = add(store, "a", "base", operation=operation, message=operation.id)
        assert names(store.log()) == [variant, base]


def test_without_any_commit() -> None:
    assert empty_store().log() == ()


def test_stored_bytes_count_everything_but_are_not_stored_in_full() -> None:
    store = empty_store()
    before = sum(entry.size for entry in store.storage.list())
    oid = add(store, "a")
    shared = {"base", "layout", "manifest"}
    added = sum(entry.size for entry in store.storage.list()) - before
    others = sum(
        store.objects.size(found.oid)
        for found in store.objects.list()
        if found.oid != oid and any(_is(store, kind, found.oid) for kind in shared)
    )
    assert store.log()[0].stored_bytes == 100 + added - others


def _is(store, kind: str, oid: str) -> bool:
    from erestore.errors import ErestoreError

    try:
        store.objects.get_record(kind, oid)
    except ErestoreError:
        return False
    return True


def commit(time: int, *parents: str) -> Commit:
    return Commit(manifest="", parents=parents, edge="adapted", author="", time=time, message="")


CROOKED = {"base": commit(9), "a": commit(1, "base"), "b": commit(5, "base"), "m": commit(3, "a", "b")}
"""A merge whose parents' machines had clocks of their own."""


def test_children_come_first_whatever_the_clocks_said() -> None:
    assert [oid for oid, _ in children_first(CROOKED)] == ["m", "b", "a", "base"]


def test_by_time_yields_each_commit_once() -> None:
    found = [oid for oid, _ in by_time(["m", "a", "m"], CROOKED.__getitem__)]
    assert sorted(found) == sorted(CROOKED)


def test_children_first_leaves_out_what_it_was_not_given() -> None:
    cut = {oid: node for oid, node in CROOKED.items() if oid != "base"}
    assert [oid for oid, _ in children_first(cut)] == ["m", "b", "a"]
    doubled = {**CROOKED, "m": replace(CROOKED["m"], parents=("a", "a"))}
    assert {oid for oid, _ in children_first(doubled)} == set(doubled)


def test_graph_has_typed_edges_from_parent_to_child() -> None:
    store = empty_store()
    base = add(store, "base")
    a = add(store, "a", "base", seconds=1)
    b = add(store, "b", "base", seconds=2)
    m = add(store, "m", "a", "b", seconds=3, edge="merged")
    graph = store.graph()
    assert set(graph.nodes) == {base, a, b, m}
    assert graph.edges[b, m] == {"edge": "merged", "position": 1}
    assert graph.nodes[a]["refs"] == ("a",)
    assert list(graph.successors(base)) in ([a, b], [b, a])
