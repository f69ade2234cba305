"""``log --html``: the lineage as one file, with what the log says of a commit that is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import Watched
from markup import CLOSING, HOSTILE
from playwright.sync_api import Page
from pointing import point, settle

from erestore.api import Store
from erestore.cli.main import run
from erestore.ops.log import log as listed
from erestore.records import EDGES
from erestore.report.figures.lineage import STYLES
from erestore.report.lineage_page import lineage_page


@pytest.fixture(scope="module")
def page(fleet: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("lineage") / "lineage.html"
    assert run(["--store", fleet.url, "log", "--html", str(found)]) == 0
    return found


@pytest.fixture
def log(fleet: Store, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["--store", fleet.url, "log", "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def shown(shown: Page) -> Page:
    shown.fill("#filter", "")
    shown.select_option("#kind", "")
    return shown


def test_it_loads_in_silence_fits_and_is_accessible(watched: Watched, page: Path) -> None:
    shown = watched.see(page, "document.querySelector('#commits button.name').click()")
    assert shown.locator("#details").is_visible()
    assert shown.locator("#lineage .scatterlayer .point").count() > 0
    assert (watched.complaints, watched.requests) == ([], [])


def test_it_holds_the_log(shown: Page, log: list[dict[str, Any]]) -> None:
    assert shown.evaluate("JSON.parse(document.getElementById('data').textContent)")["entries"] == log
    assert shown.locator("a, input[data-pick]").count() == 0


def test_a_commit_that_is_chosen_is_told(shown: Page, log: list[dict[str, Any]]) -> None:
    entry = next(each for each in log if each["edge"] == "merged")
    shown.fill("#filter", entry["commit"][:16])
    shown.locator("#commits button.name").click()
    text = shown.locator("#details").inner_text()
    assert entry["commit"] in text
    assert f"{entry['stored_bytes']:,} bytes" in text
    names = {each["commit"]: next(iter(each["refs"]), each["commit"][:12]) for each in log}
    assert ", ".join(names[parent] for parent in entry["parents"]) in text
    assert f"{entry['error_bound']}" in text
    assert entry["message"] in text
    assert shown.locator("#commits tr.chosen").get_attribute("data-commit") == entry["commit"]


def test_a_mark_that_is_pressed_is_chosen(loaded: Watched, shown: Page, log: list[dict[str, Any]]) -> None:
    entry = next(each for each in log if "base-2" in each["refs"])
    shown.select_option("#kind", "imported")
    shown.mouse.click(*point(shown, entry["commit"]))
    loaded.until(f"document.getElementById('details').textContent.includes('{entry['commit']}')")


def test_what_others_wrote_is_text(shown: Page) -> None:
    shown.fill("#filter", "odd")
    shown.locator("#commits button.name").click()
    details = shown.locator("#details")
    assert details.locator("pre").text_content() == f"{HOSTILE}\n\n{CLOSING}"
    assert f"Metric <i>loss</i>{CLOSING}" in (details.text_content() or "")
    assert shown.title() == "Lineage · erestore"
    assert shown.locator("main img, main i, main u").count() == 0


def test_part_of_a_lineage(watched: Watched, fleet: Store, tmp_path: Path) -> None:
    page = tmp_path / "part.html"
    assert run(["--store", fleet.url, "log", "mnli-0000", "-n", "1", "--html", str(page)]) == 0
    shown = watched.open(page)
    assert shown.locator("#commits tbody tr").count() == 1
    assert shown.locator("#lineage .scatterlayer .point").count() == 1
    shown.locator("#commits button.name").click()
    assert "mnli-0000" in (shown.locator("#details h2").text_content() or "")
    assert watched.complaints == []


def test_many_rows_come_when_they_are_asked_for(watched: Watched, fleet: Store, tmp_path: Path) -> None:
    entries = fleet.log()
    many = [entry.__class__(**{**vars(entry), "commit": f"{number:064x}"}) for number, entry in enumerate(entries * 4)]
    page = tmp_path / "many.html"
    page.write_text(lineage_page(many), encoding="utf-8")
    shown = watched.open(page)
    rows = shown.locator("#commits tbody tr")
    assert rows.count() == 100
    more = shown.locator("#more")
    assert more.text_content() == f"Show 100 more of {len(many)}"
    more.click()
    assert rows.count() == 200
    while more.is_visible():
        more.click()
    assert rows.count() == len(many)
    shown.fill("#filter", "base-2/mnli")
    assert more.is_hidden()
    shown.fill("#filter", "")
    assert rows.count() == 100
    # A commit that is chosen in the graph comes into the list.
    pressed = {"points": [{"customdata": many[-1].commit}]}
    shown.evaluate("event => document.getElementById('lineage').emit('plotly_click', event)", pressed)
    assert shown.locator("#commits tr.chosen").get_attribute("data-commit") == many[-1].commit
    assert watched.complaints == []


def test_a_page_replaces_nothing_unasked(fleet: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    arguments = ["--store", fleet.url, "log", "--html", str(page)]
    capsys.readouterr()
    assert run(arguments) == 5
    assert "already exists" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert run([*arguments, "--force"]) == 0
    assert capsys.readouterr() == ("", f"Wrote {page}.\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run([*arguments[:-1], str(tmp_path)]) == 5
    assert run([*arguments, "--force", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(fleet.log())


def test_entries_that_are_known_are_not_made_again(fleet: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Any] = {}
    first = listed(fleet, known=known)
    assert set(known) == {entry.commit for entry in first}
    assert first == fleet.log()
    monkeypatch.setattr("erestore.ops.log.recorded_error", lambda *_: pytest.fail("made again"))
    told: list[tuple[str, int, int]] = []
    assert listed(fleet, known=known, progress=lambda *each: told.append(each)) == first
    assert told[-1] == ("reading", len(first), len(first))


def test_every_kind_of_commit_has_a_style_of_its_own() -> None:
    assert tuple(STYLES) == EDGES
    assert len({style.color for style in STYLES.values()}) == len(EDGES)
    assert len({style.symbol for style in STYLES.values()}) == len(EDGES)


def test_generations_are_whole_numbers_at_any_zoom(shown: Page) -> None:
    texts = (
        "[...document.querySelectorAll('#lineage .xtick text')].map(text => text.textContent.replace('\u2212', '-'))"
    )
    seen = set()
    for button in ("whole", "nearer", "nearer", "farther", "farther", "farther", "farther", "whole"):
        shown.click(f"#{button}")
        settle(shown)
        written = shown.evaluate(texts)
        assert len(set(map(int, written))) == len(written) > 0
        seen.add(len(written))
    assert len(seen) > 1


def test_marks_have_names_where_commits_have(shown: Page, log: list[dict[str, Any]]) -> None:
    shown.select_option("#kind", "versioned")
    settle(shown)
    texts = "({ customdata, text }) => customdata.map((oid, at) => [oid, text[at]])"
    written = dict(shown.evaluate(f"document.getElementById('lineage').data.flatMap({texts})"))
    refs = {each["commit"]: each["refs"] for each in log}
    assert all(bool(text) == bool(refs[oid]) for oid, text in written.items())
    assert set(map(bool, written.values())) == {False, True}
    assert all(text in refs[oid] for oid, text in written.items() if text)
