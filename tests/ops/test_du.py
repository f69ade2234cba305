"""du: what takes how much space."""

from __future__ import annotations

import pytest
import tiny
from lineages import empty_store, reopened

from erestore.api import Store
from erestore.errors import UnknownRevisionError
from erestore.storage.abc import Storage
from erestore.storage.memory import MemoryStorage


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return tiny.filled_store(MemoryStorage(), tmp_path_factory.mktemp("models")).storage


@pytest.fixture
def store(filled: Storage) -> Store:
    return reopened(tiny.copy_store(filled, MemoryStorage()).storage)


def test_own_bytes_are_what_deleting_a_name_frees(store: Store) -> None:
    for name in ("lossy", "exact", "base"):
        usage = next(usage for usage in store.du().variants if usage.name == name)
        store.delete_branches([name])
        assert usage.own_bytes > 0 or name == "base"
        freed = store.gc(grace_days=0, reflog_days=0).freed_bytes
        # A reflog's newest entry says what a deletion replaced, and holds on to nothing.
        assert freed == usage.own_bytes


def test_totals_add_up(store: Store) -> None:
    found = store.du()
    sizes = {held.oid: held.size for held in store.objects.list()}
    kinds = {usage.name: usage.kind for usage in found.variants}
    assert kinds == {"base": "base", "exact": "variant", "lossy": "variant"}
    assert found.stored_bytes == sum(sizes.values()) == found.reachable_bytes + found.other_bytes
    assert found.other_bytes == 0
    assert found.separate_bytes == sum(usage.original_bytes for usage in found.variants)
    assert found.saved_ratio == found.separate_bytes / found.stored_bytes
    base = next(usage for usage in found.variants if usage.name == "base")
    assert base.own_bytes == 0  # every variant needs it
    assert all(usage.shared_bytes >= base.shared_bytes for usage in found.variants)


def test_a_tag_shares_everything_and_counts_once(store: Store) -> None:
    before = store.du()
    store.tag("v1", "lossy")
    after = store.du()
    usage = {usage.name: usage for usage in after.variants}
    assert (usage["v1"].kind, usage["v1"].own_bytes, usage["lossy"].own_bytes) == ("tag", 0, 0)
    assert after.separate_bytes == before.separate_bytes


def test_what_no_name_leads_to_is_other(store: Store) -> None:
    own = next(usage.own_bytes for usage in store.du().variants if usage.name == "exact")
    store.delete_branches(["exact"])
    assert store.du().other_bytes == own


@pytest.mark.parametrize(
    "names", [("lossy",), ("exact", "lossy"), ("base",), ("base", "exact", "lossy"), ("child", "lossy")]
)
def test_what_deleting_names_frees_is_what_it_frees(store: Store, names: tuple[str, ...]) -> None:
    store.branch("child", "lossy")
    store.branch("old", "exact~1")
    store.delete_branches(["old"])
    found = store.du(names)
    assert tuple(usage.name for usage in found.variants) == names
    store.delete_branches(names)
    assert store.gc(grace_days=0, reflog_days=0).freed_bytes == found.selection.freed_bytes
    rest = store.du()
    assert rest.stored_bytes == found.stored_bytes - found.selection.freed_bytes
    assert rest.other_bytes == 0


def test_what_is_unreachable_already_is_told_from_what_is_theirs(store: Store) -> None:
    own = {usage.name: usage.own_bytes for usage in store.du().variants}
    store.delete_branches(["exact"])
    found = store.du(["lossy"]).selection
    assert (found.own_bytes, found.unreachable_bytes) == (own["lossy"], own["exact"])
    assert found.freed_bytes == own["lossy"] + own["exact"]


def test_names_that_need_each_other_are_counted_together(store: Store) -> None:
    store.branch("child", "lossy")
    store.tag("v1", "lossy~1")
    alone, both = store.du(["lossy"]), store.du(["lossy", "child"])
    assert (alone.selection.own_bytes, alone.selection.kept_for) == (0, ("child",))
    assert both.selection.own_bytes > 0
    assert sum(usage.own_bytes for usage in both.variants) == 0
    assert store.du(["v1"]).selection.kept_for == ("child", "lossy")
    assert store.du().selection is None
    with pytest.raises(UnknownRevisionError):
        store.du(["lossy", "nothing"])


def test_an_empty_store_takes_nothing() -> None:
    found = empty_store().du()
    assert (found.variants, found.stored_bytes, found.saved_ratio) == ((), 0, None)
