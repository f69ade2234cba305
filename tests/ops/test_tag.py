"""tag: names that never move."""

from __future__ import annotations

import pytest
from lineages import add, empty_store, names

from erestore.errors import ConflictError, TargetExistsError, UnknownRevisionError


def test_tags_do_not_move() -> None:
    store = empty_store()
    base = add(store, "base")
    tuned = add(store, "a", "base")
    made = store.tag("v1", "a", message="as published")
    assert (made.before, made.after) == (None, tuned)
    for revision in ("base", "a"):
        with pytest.raises(TargetExistsError, match="never moves") as caught:
            store.tag("v1", revision)
        assert caught.value.exit_code == 5
    with pytest.raises(TargetExistsError, match="branch"):
        store.tag("a", "base")
    assert store.resolve("v1") == tuned
    store.tag("v0", "base")
    listed = store.tags()
    assert names(listed, "name") == ["v0", "v1"]
    assert names(listed) == [base, tuned]
    assert names(listed, "message") == ["base", "as published"]


def test_delete() -> None:
    store = empty_store()
    oid = add(store, "base")
    store.tag("v1", "base")
    with pytest.raises(ConflictError, match="branch"):
        store.delete_tags(["base"])
    with pytest.raises(UnknownRevisionError):
        store.delete_tags(["v1", "v2"])
    assert store.tags()
    (deleted,) = store.delete_tags(["v1"])
    assert (deleted.before, deleted.after) == (oid, None)
    assert store.tags() == ()
    store.tag("v1", "base")
    assert names(store.tags(), "name") == ["v1"]
