"""branch: list, make, move, rename, delete."""

from __future__ import annotations

import pytest
from lineages import add, empty_store, names

from erestore.api import Store
from erestore.errors import ConflictError, TargetExistsError, UnknownRevisionError, UsageError
from erestore.storage.lease_records import PREFIX


def test_list_says_base_size_error_and_date() -> None:
    store = empty_store()
    base = add(store, "base")
    tuned = add(store, "a", "base", seconds=1, message="tuned")
    store.tag("v1", "a")
    store.branch("gone", "a")
    store.delete_branches(["gone"])
    listed = store.branches()
    assert names(listed, "name") == ["a", "base"]
    assert names(listed) == [tuned, base]
    assert names(listed, "base") == ["base", "base"]
    assert (listed[0].relative_error, listed[0].original_bytes, listed[0].message) == (0.25, 1000, "tuned")
    assert listed[0].stored_bytes == store.log(["a"])[0].stored_bytes


def test_a_base_without_a_name_is_called_by_its_oid() -> None:
    store = empty_store()
    add(store, "base")
    add(store, "a", "base")
    oid = store.resolve("base")
    store.delete_branches(["base"])
    assert names(store.branches(), "base") == [oid[:12]]


def test_two_names_of_one_base_are_each_their_own() -> None:
    store = empty_store()
    add(store, "base")
    store.branch("alias", "base")
    assert names(store.branches(), "base") == ["alias", "base"]


def test_make_and_move() -> None:
    store = empty_store()
    base, tuned = add(store, "base"), add(store, "a", "base")
    made = store.branch("x", "a~1")
    assert (made.before, made.after) == (None, base)
    with pytest.raises(TargetExistsError, match="'x' already"):
        store.branch("x", "a")
    assert store.resolve("x") == base
    moved = store.branch("x", "a", force=True)
    assert (moved.before, moved.after, store.resolve("x")) == (base, tuned, tuned)
    assert not list(store.storage.list(PREFIX))


def test_what_cannot_be_made() -> None:
    store = empty_store()
    add(store, "base")
    store.tag("v1", "base")
    with pytest.raises(UnknownRevisionError):
        store.branch("x", "nothing")
    with pytest.raises(UsageError):
        store.branch("not a name", "base")
    with pytest.raises(TargetExistsError, match="tag"):
        store.branch("v1", "base", force=True)
    assert store.refs.names() == ["base", "v1"]


def test_delete_is_all_or_nothing_and_one_operation() -> None:
    store = empty_store()
    oid = add(store, "base")
    store.branch("x", "base")
    store.branch("y", "base")
    with pytest.raises(UnknownRevisionError):
        store.delete_branches(["x", "nothing"])
    assert store.has_ref("x")
    x, y = store.delete_branches(["x", "y", "x"])
    assert (x.before, x.after, x.operation) == (oid, None, y.operation)
    assert store.refs.names() == ["base"]
    store.tag("v1", "base")
    with pytest.raises(ConflictError, match="tag"):
        store.delete_branches(["v1"])
    with pytest.raises(UnknownRevisionError):
        store.delete_branches(["x"])


def test_deleting_a_base_names_the_variants_that_stay() -> None:
    store = empty_store()
    add(store, "base")
    add(store, "other", base="other")
    add(store, "a", "base")
    add(store, "b", "base")
    add(store, "c", "other", base="other")
    store.tag("v1", "a")
    deleted = store.delete_branches(["base", "b"])
    assert names(deleted, "variants") == [("a", "v1"), ()]
    assert store.manifest_of("a")


def test_a_deleted_name_can_be_used_again() -> None:
    store = empty_store()
    add(store, "base")
    store.branch("x", "base")
    store.delete_branches(["x"])
    assert store.branch("x", "base").before is None


def test_rename() -> None:
    store = empty_store()
    oid = add(store, "base")
    store.branch("x", "base")
    renamed = store.rename_branch("x", "y")
    assert (renamed.name, renamed.after) == ("y", oid)
    assert store.refs.names() == ["base", "y"]
    with pytest.raises(TargetExistsError):
        store.rename_branch("y", "base")
    with pytest.raises(UnknownRevisionError):
        store.rename_branch("x", "z")
    with pytest.raises(UsageError):
        store.rename_branch("y", "-z")
    store.undo()
    assert store.refs.names() == ["base", "x"]


@pytest.fixture(scope="module")
def measured() -> Store:
    store = empty_store()
    add(store, "base")
    metrics = {
        "a": {"acc": "0.9", "task": "mnli"},
        "b": {"acc": "0.10", "task": "qqp"},
        "c": {"acc": "1e-1", "loss": "2"},
        "d": {"acc": "n/a"},
        "e": {"acc": "85%", "task": "mnli"},
        "f": {"acc": "nan"},
    }
    for second, (name, values) in enumerate(metrics.items()):
        add(store, name, "base", seconds=second, metrics=values)
    return store


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("metric:acc", "b c e a d f base"),
        ("-metric:acc", "a e b c f d base"),
        ("metric:loss", "c a b base d e f"),
        ("-name", "f e d c base b a"),
        ("-time", "f e d c b a base"),
    ],
)
def test_sorted_by_what_was_recorded(measured: Store, key: str, expected: str) -> None:
    assert names(measured.branches(sort=key), "name") == expected.split()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["acc>=0.85"], "a e"),
        (["acc = .1"], "b c"),
        (["acc!=0.1"], "a d e f"),
        (["acc<0.9", "task=mnli"], "e"),
        (["task!=mnli"], "b"),
        (["acc=n/a"], "d"),
        (["task>=1"], ""),
        (["nothing=1"], ""),
    ],
)
def test_listed_by_what_was_recorded(measured: Store, where: list[str], expected: str) -> None:
    assert names(measured.branches(where=where), "name") == expected.split()


def test_what_is_no_order_and_no_condition(measured: Store) -> None:
    for options in (
        {"sort": "colour"},
        {"sort": "metric:"},
        {"where": ["acc"]},
        {"where": ["acc>high"]},
        {"where": [">1"]},
    ):
        with pytest.raises(UsageError):
            measured.branches(**options)
