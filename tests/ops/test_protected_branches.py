"""Protected branches: they go forward, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lineages import add, empty_store

from erestore.api import Store
from erestore.errors import ProtectedBranchError, UsageError
from erestore.ops.config import set_config
from erestore.settings import PROTECTED


@pytest.fixture
def store() -> Store:
    store = empty_store()
    add(store, "base")
    for name in ("main", "release/1", "other"):
        add(store, name, "base", message=f"{name}, first")
        add(store, name, name, edge="versioned", message=f"{name}, second")
    set_config(store, PROTECTED, "main, release/*")
    return store


REFUSED: list[Callable[[Store, str], object]] = [
    lambda store, name: store.delete_branches(["other", name]),
    lambda store, name: store.rename_branch(name, "new"),
    lambda store, name: store.branch(name, "other", force=True),
    lambda store, name: store.branch(name, f"{name}~1", force=True),
    lambda store, name: store.undo(store.reflog(name)[0].operation),
    lambda store, name: store.undo(store.reflog(name)[0].operation, dry_run=True),
    lambda store, name: store.drop_exact(name, dry_run=True),
    lambda store, name: store.merge(["other"], name=name),
    lambda store, name: add(store, name, "other"),
]


@pytest.mark.parametrize("name", ["main", "release/1"])
@pytest.mark.parametrize("act", REFUSED)
def test_what_would_lose_versions_is_refused(store: Store, act: Callable[[Store, str], object], name: str) -> None:
    before = {name: entry.oid for name, entry in store.refs.all().items()}
    with pytest.raises(ProtectedBranchError) as raised:
        act(store, name)
    assert (raised.value.exit_code, raised.value.name) == (5, name)
    assert {name: entry.oid for name, entry in store.refs.all().items()} == before


def test_what_goes_forward_is_allowed(store: Store) -> None:
    main = store.resolve("main")
    add(store, "main", "main", edge="versioned")
    add(store, "next", "main", message="ahead")
    store.branch("main", "next", force=True)
    assert (store.resolve("main"), store.resolve("main~2")) == (store.resolve("next"), main)
    store.branch("main", "main", force=True)  # nowhere
    store.branch("release/2", "main")  # new
    with pytest.raises(ProtectedBranchError):
        store.delete_branches(["release/2"])


def test_others_are_as_ever_and_the_way_out_works(store: Store) -> None:
    store.rename_branch("other", "another")
    store.delete_branches(["another"])
    with pytest.raises(ProtectedBranchError, match="protected") as raised:
        store.delete_branches(["main"])
    assert "erestore config branch.protected" in str(raised.value.hint)
    set_config(store, PROTECTED, "release/*")
    store.delete_branches(["main"])
    store.undo()
    assert store.has_ref("main")
    set_config(store, PROTECTED, None)
    store.delete_branches(["release/1"])


def test_a_user_cannot_protect_for_all_stores(store: Store) -> None:
    with pytest.raises(UsageError):
        set_config(store, PROTECTED, "main", user=True)
