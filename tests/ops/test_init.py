"""init: a new store, where there is room for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from lineages import add

from erestore.api import Store
from erestore.errors import (
    CorruptionError,
    ErestoreError,
    StoreNotFoundError,
    TargetExistsError,
    UnsupportedFormatError,
)
from erestore.ops.init import init
from erestore.store import MARKER


def test_init(tmp_path: Path) -> None:
    made = init(tmp_path / "store")
    assert made.store == str(tmp_path / "store")
    assert Store.open(made.store).id == made.id
    with pytest.raises(TargetExistsError, match="a store at"):
        init(tmp_path / "store")
    with pytest.raises(TargetExistsError, match="holds other files") as caught:
        init(tmp_path)
    assert str(tmp_path / ".erestore") in str(caught.value.hint)
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty")
    assert init("memory://test-init").store == "memory://test-init"


@pytest.mark.parametrize("content", [b"", b"\0" * 45, b"garbage", b"{}", None])
def test_a_store_whose_marker_is_damaged_has_a_way_back(tmp_path: Path, content: bytes | None) -> None:
    store = Store.init(tmp_path / "s")
    add(store, "base")
    before = store.reflog()
    marker = tmp_path / "s" / MARKER
    marker.unlink()
    if content is not None:
        marker.write_bytes(content)
    with pytest.raises(ErestoreError) as caught:
        Store.open(tmp_path / "s")
    assert content == b"{}" or f"init --repair {tmp_path / 's'}" in str(caught.value.hint)
    with pytest.raises(ErestoreError, match=r"damaged|empty|already|other files"):
        init(tmp_path / "s")
    init(tmp_path / "s", repair=True)
    assert Store.open(tmp_path / "s").reflog() == before
    assert Store.open(tmp_path / "s").fsck().clean
    with pytest.raises(TargetExistsError, match="is whole"):
        init(tmp_path / "s", repair=True)


def test_nothing_but_a_damaged_marker_is_repaired(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no trace of a store"):
        init(tmp_path / "nothing", repair=True)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "papers/refs/heads").mkdir(parents=True)
    (tmp_path / "papers/refs/heads/main").write_text("of git")
    (tmp_path / "papers/objects").mkdir()
    (tmp_path / "papers/objects/chair.obj").write_text("of somebody")
    with pytest.raises(StoreNotFoundError, match="no trace of a store"):
        init(tmp_path / "papers", repair=True)
    store = Store.init(tmp_path / "newer")
    add(store, "base")
    marker = tmp_path / "newer" / MARKER
    marker.write_bytes(marker.read_bytes().replace(b'"erestore":1', b'"erestore":2'))
    with pytest.raises(UnsupportedFormatError, match="format 2"):
        init(tmp_path / "newer", repair=True)


def test_a_write_that_was_cut_off_is_no_store_that_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / MARKER).write_bytes(b"")
    with pytest.raises(CorruptionError, match="is empty"):
        init(tmp_path / "s")
