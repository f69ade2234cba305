"""Pages that commands write: in one step, and never over something else."""

from __future__ import annotations

import json
import re
import sys

import pytest
from commands import Here


def held(page: str) -> object:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_holds_what_json_says(here: Here) -> None:
    ran = here.run("diff", "base", "ft", "--html", "page.html")
    assert (ran.code, ran.out) == (0, "")
    assert "Wrote page.html." in ran.err
    page = held((here.directory / "page.html").read_text(encoding="utf-8"))
    told = json.loads(here.run("diff", "base", "ft", "--json").out)
    assert page.pop("details")
    told.pop("details")
    assert page == told


def test_json_may_be_printed_beside_it(here: Here) -> None:
    ran = here.run("diff", "ft", "--html", "page.html", "--json")
    assert json.loads(ran.out) == held((here.directory / "page.html").read_text(encoding="utf-8"))


def test_report_is_the_same_page(here: Here) -> None:
    assert here.run("report", "base", "ft").code == 0
    assert here.run("diff", "base", "ft", "--html", "page.html").code == 0
    assert (here.directory / "report.html").read_bytes() == (here.directory / "page.html").read_bytes()


def test_nothing_is_replaced_unless_asked_for(here: Here) -> None:
    (here.directory / "mine.html").write_text("mine")
    for command in (("diff", "ft", "--html", "mine.html"), ("report", "ft", "-o", "mine.html")):
        ran = here.run(*command)
        assert ran.code == 5
        assert "'mine.html' already exists." in ran.err
        assert (here.directory / "mine.html").read_text() == "mine"
    assert here.run("report", "ft", "-o", "mine.html", "--force").code == 0
    assert (here.directory / "mine.html").read_text().startswith("<!doctype html>")


def test_a_folder_is_no_file(here: Here) -> None:
    ran = here.run("report", "ft", "-o", ".", "--force")
    assert ran.code == 5
    assert (here.directory / "ft").is_dir()


def test_a_page_has_all_tensors(here: Here) -> None:
    ran = here.run("diff", "ft", "--html", "page.html", "--stat")
    assert ran.code == 2
    assert not (here.directory / "page.html").exists()


def test_nothing_is_written_where_the_comparison_fails(here: Here) -> None:
    assert here.run("report", "nothing").code == 3
    assert not (here.directory / "report.html").exists()


def test_without_the_library_it_says_how_to_get_it(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("plotly", "jinja2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    ran = here.run("report", "ft")
    assert ran.code == 2
    assert "pip install 'erestore[report]'" in ran.err
    assert not (here.directory / "report.html").exists()


def test_exit_codes_are_those_of_diff(here: Here) -> None:
    assert here.run("diff", "ft", "--html", "page.html", "--exit-code").code == 1
    assert (here.directory / "page.html").exists()
