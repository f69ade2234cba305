"""A store that changes, breaks or goes while it is looked at: a sentence on the page, and the server goes on."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
import tiny
from asking import ask, settled
from browsing import Watched

from erestore.api import Store
from erestore.storage.abc import Entry, Storage
from erestore.ui.server import Served, serve
from erestore.ui.snapshots import Snapshots


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("filled")
    store = Store.init(directory / "store")
    base = tiny.base_weights()
    store.import_base(tiny.write_model(directory / "base", base), name="base")
    for number, name in enumerate(("one", "two", "three")):
        store.commit(tiny.write_model(directory / name, tiny.tuned(base, number)), base="base", name=name)
    return directory


@pytest.fixture
def place(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def served(place: Path) -> Iterator[Served]:
    with serve(Store.open(place)) as found:
        yield found


def told(text: str) -> str:
    """The sentence on a page."""
    return text.partition('role="alert">')[2].partition("<")[0]


def object_of(place: Path, oid: str) -> Path:
    return place / "objects" / oid[:2] / oid[2:]


VIEWS = ("", "storage", "similarity", "compare?rev=one&rev=two")


def test_a_store_that_is_gone_and_comes_back(served: Served, place: Path) -> None:
    oid = Store.open(place).resolve("one")
    views = (*VIEWS, f"commit/{oid}")
    assert {settled(served, view).status for view in views} == {200}
    place.rename(place.with_name("elsewhere"))
    for view in views:
        answer = settled(served, view)
        assert answer.status == 404
        assert told(answer.text) == f"The store at {place} is gone."
    assert json.loads(ask(served, "state").text) == {"error": f"The store at {place} is gone."}
    assert "is gone" in ask(served, f"usage/{oid}").text
    place.with_name("elsewhere").rename(place)
    assert {settled(served, view).status for view in views} == {200}


def test_a_damaged_residual_is_told_where_it_is_needed(served: Served, place: Path) -> None:
    store = Store.open(place)
    one = store.commit_record(store.resolve("one"))
    broken = object_of(place, one.own[0])
    content = broken.read_bytes()
    broken.write_bytes(content[:200] + bytes(200) + content[400:])
    for view in (f"commit/{store.resolve('one')}", "storage", "similarity", "compare?rev=one&rev=two"):
        answer = settled(served, view)
        assert answer.status == 500
        assert one.own[0][:12] in told(answer.text)
        assert "Traceback" not in answer.text
    # What does not need it is there all the same.
    assert settled(served, "").status == 200
    assert settled(served, f"commit/{store.resolve('two')}").status == 200
    assert settled(served, "compare?rev=two&rev=three").status == 200
    broken.write_bytes(content)
    assert settled(served, f"commit/{store.resolve('one')}").status == 200
    assert settled(served, "storage").status == 200


def test_a_missing_commit_is_told(served: Served, place: Path) -> None:
    oid = Store.open(place).resolve("two")
    lost = object_of(place, oid)
    content = lost.read_bytes()
    lost.unlink()
    answer = settled(served, "")
    assert answer.status == 500
    assert told(answer.text) == f"The commit {oid[:12]} is referred to but missing from the store."
    lost.write_bytes(content)
    assert settled(served, "").status == 200


def test_a_file_that_is_no_entry_is_told(served: Served, place: Path) -> None:
    log = place / "refs" / "one"
    (log / f"{7:016d}").write_text("{nonsense")
    answer = settled(served, "")
    assert answer.status == 500
    assert told(answer.text) == "Entry 7 of the log of &#39;one&#39; is corrupt."


def test_an_unexpected_failure_is_a_sentence_as_well(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("<b>division</b>")

    monkeypatch.setattr("erestore.ui.commit_views.lineage_values", fail)
    answer = settled(served, "")
    assert answer.status == 500
    assert told(answer.text) == "Something unexpected happened (ZeroDivisionError: &lt;b&gt;division&lt;/b&gt;)."
    monkeypatch.undo()
    assert settled(served, "").status == 200


def test_an_empty_store(tmp_path: Path, watched: Watched) -> None:
    with serve(Store.init(tmp_path / "empty")) as served:
        shown = watched.open(served.address)
        assert "There are no commits yet." in (shown.locator("#view").text_content() or "")
        assert shown.locator(".chart").count() == 0
        assert settled(served, "storage").status == 404
        assert settled(served, "similarity").status == 404
    assert watched.complaints == []


def test_new_commits_are_announced_and_shown(served: Served, place: Path, watched: Watched) -> None:
    shown = watched.open(served.address)
    notice = shown.locator("#changed")
    store = Store.open(place)
    store.branch("new-name", "one")
    shown.locator("#views a", has_text="Storage").click()
    watched.until("document.querySelector('h1').textContent === 'Storage'")
    assert "new-name" in shown.locator("#names").inner_text()
    shown.go_back()
    watched.until("!document.getElementById('changed').hidden")
    assert "new-name" not in shown.locator("#commits").inner_text()
    notice.locator("button").click()
    watched.until("document.getElementById('commits')?.textContent.includes('new-name')")
    assert notice.is_hidden()
    assert watched.complaints == []


def test_a_server_that_is_gone_is_told(place: Path, watched: Watched) -> None:
    with serve(Store.open(place)) as served:
        shown = watched.open(served.address)
    shown.locator("#views a", has_text="Storage").click()
    watched.until("document.querySelector('h1').textContent === 'The server does not answer'")
    shown.go_back()
    watched.until("document.querySelector('h1').textContent === 'Lineage'")  # it was kept


def test_snapshots_stand_still_and_the_newest_is_new(place: Path) -> None:
    store = Store.open(place)
    snapshots = Snapshots(store)
    before = snapshots.now()
    assert snapshots.now() is before
    store.branch("later", "one")
    after = snapshots.now()
    assert after.state != before.state
    assert (before.has_ref("later"), after.has_ref("later")) == (False, True)
    assert len(after.entries()) == len(before.entries()) == 4
    assert after.entries() == store.log()
    assert before.show("one") != after.show("one") == store.show("one")


def test_a_slow_look_is_not_waited_for_where_there_was_one_just_now(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(place)
    snapshots, looks, go_on = Snapshots(store), threading.Semaphore(0), threading.Event()
    first = snapshots.now()
    store.branch("later", "one")
    original = type(store.storage).list

    def slow(self: Storage, prefix: str = "") -> Iterator[Entry]:
        looks.release()
        go_on.wait(60)
        return original(self, prefix)

    monkeypatch.setattr(type(store.storage), "list", slow)
    monkeypatch.setattr("erestore.ui.snapshots.PATIENCE", 0.01)
    monkeypatch.setattr("erestore.ui.snapshots.RECENT", 60)
    assert snapshots.now() is first
    assert looks.acquire(timeout=60)
    assert snapshots.now() is first
    assert not looks.acquire(blocking=False)  # one look for both
    # What was seen long ago does not stand in for the present.
    monkeypatch.setattr("erestore.ui.snapshots.RECENT", 0)

    def impatient(futures: list[Future[Any]], patience: float) -> None:
        assert not wait(futures, patience).done
        go_on.set()

    monkeypatch.setattr("erestore.ui.snapshots.wait", impatient)
    assert snapshots.now().has_ref("later")


def test_turns_of_threads_are_short_while_it_serves(place: Path) -> None:
    before = sys.getswitchinterval()
    with serve(Store.open(place)):
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


def test_what_was_read_of_commits_is_not_read_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(place)
    snapshots = Snapshots(store)
    snapshots.now().entries()
    store.branch("later", "one")
    read: list[tuple[str, str]] = []
    original = type(store.objects).get_record
    monkeypatch.setattr(
        type(store.objects), "get_record", lambda self, kind, oid: read.append((kind, oid)) or original(self, kind, oid)
    )
    assert len(snapshots.now().entries()) == 4
    assert read == []
