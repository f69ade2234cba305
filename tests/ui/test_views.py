"""Every view of a served store, opened in a browser: whole, readable at any width, and saying what the commands say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from browsing import WIDTHS, Watched
from markup import CLOSING, HOSTILE
from playwright.sync_api import Page
from pointing import marks, point, settle

from erestore.api import Store
from erestore.ui.server import Served

Told = Callable[..., Any]


class Opened:
    """The served store in a watched page.

    Parameters
    ----------
    watched : Watched
    served : Served
    store : Store
    """

    def __init__(self, watched: Watched, served: Served, store: Store) -> None:
        self.watched, self.served = watched, served
        self.commits = {name: store.resolve(name) for name in store.refs.names()}

    def view(self, path: str = "") -> Page:
        """Open a view, and wait until what it shows is there."""
        return self.watched.open(self.served.address + path)

    def commit(self, name: str) -> Page:
        """Open the page of a commit."""
        return self.view(f"commit/{self.commits[name]}")

    def quiet(self) -> None:
        """See that nothing was complained of, and nothing asked of anybody else."""
        assert self.watched.complaints == []
        origin = f"http://127.0.0.1:{self.served.port}/"
        assert [each for each in self.watched.requests if not each.startswith(origin)] == []


@pytest.fixture
def opened(watched: Watched, served: Served, fleet: Store) -> Opened:
    return Opened(watched, served, fleet)


@pytest.fixture
def opened_alone(watched_alone: Watched, served: Served, fleet: Store) -> Opened:
    return Opened(watched_alone, served, fleet)


def path_of(opened: Opened, view: str) -> str:
    paths = {
        "lineage": "",
        "commit": f"commit/{opened.commits['mnli-0000']}",
        "merge": f"commit/{opened.commits['odd']}",
        "base": f"commit/{opened.commits['base']}",
        "diff": "compare?rev=mnli-0000&rev=sst2-0001",
        "matrix": "compare?rev=mnli-0000&rev=sst2-0001&rev=qqp-0002",
        "similarity": "similarity",
        "storage": "storage",
        "error": "compare?rev=mnli-0000",
    }
    return paths[view]


VIEWS = ("lineage", "commit", "merge", "base", "diff", "matrix", "similarity", "storage", "error")
MARKS = {
    "lineage": {"lineage": ".scatterlayer .point"},
    "diff": {"map": ".heatmaplayer image", "spectrum": ".scatterlayer path", "storage": ".barlayer path"},
    "matrix": {"map": ".heatmaplayer image"},
    "similarity": {"map": ".heatmaplayer image"},
    "storage": {"totals": ".barlayer path", "usage": ".barlayer path"},
}


@pytest.mark.parametrize("view", VIEWS)
def test_it_loads_in_silence_fits_and_is_accessible(opened: Opened, view: str) -> None:
    shown = opened.watched.see(opened.served.address + path_of(opened, view))
    if view == "commit":  # names may break anywhere, and yet are not one letter wide
        shown.set_viewport_size({"width": WIDTHS[0], "height": 900})
        assert shown.locator("#tensors th[scope=row]").first.evaluate("cell => cell.clientWidth") > 120
    for chart, mark in MARKS.get(view, {}).items():
        assert shown.locator(f"#{chart} {mark}").count() > 0, chart
    if view == "error":  # the browser itself says that the status was no success
        opened.watched.complaints = [each for each in opened.watched.complaints if "400 (Bad Request)" not in each]
    opened.quiet()


def held(shown: Page) -> Any:
    return shown.evaluate("JSON.parse(document.getElementById('data').textContent)")


def test_the_lineage_is_the_log(opened: Opened, told: Told) -> None:
    shown, log = opened.view(), told("log")
    assert held(shown)["entries"] == log
    rows = shown.locator("#commits tbody tr")
    assert rows.count() == len(log)
    assert shown.eval_on_selector_all("#commits tbody tr", "rows => rows.map(row => row.dataset.commit)") == [
        entry["commit"] for entry in log
    ]
    first = log[0]
    cells = rows.first.locator("td").all_text_contents()
    assert first["edge"] in cells
    stored = shown.eval_on_selector_all(
        "#commits tbody tr", "rows => rows.map(row => Number(row.cells[2].dataset.value))"
    )
    assert stored == [entry["stored_bytes"] for entry in log]
    assert marks(shown, "kind") == {entry["commit"]: entry["edge"] for entry in log}
    opened.quiet()


def test_lines_lead_to_parents(opened: Opened, told: Told) -> None:
    """Straight ones do; others leave a trunk that goes from the parent's lane to theirs."""
    shown = opened.view()
    places = {oid: tuple(place[:2]) for oid, place in held(shown)["places"].items()}
    drawn = dict(
        shown.evaluate("document.getElementById('lineage').layout.shapes.map(({ name, path }) => [name, path])")
    )
    for kind, path in drawn.items():
        pairs = [
            (places[parent], places[entry["commit"]])
            for entry in told("log")
            for parent in entry["parents"]
            if entry["edge"] == kind
        ]
        straight = {tuple(map(int, each)) for each in re.findall(r"M(\d+),(\d+)L(\d+),(\d+)", path)}
        branches = [tuple(map(int, each)) for each in re.findall(r"M(\d+),(\d+)H(\d+)", path)]
        trunks = [tuple(map(int, each)) for each in re.findall(r"M(\d+),(\d+)V(\d+)", path)]
        assert len(straight) + len(branches) == len(set(pairs))
        for (x, lane), (to, lane_of) in pairs:
            if straight:
                assert (x, lane, to, lane_of) in straight
            else:
                assert (x, lane_of, to) in branches
                assert any(
                    at == x and low <= min(lane, lane_of) and max(lane, lane_of) <= high for at, low, high in trunks
                )


def shown_rows(shown: Page) -> list[str]:
    found: list[str] = shown.eval_on_selector_all("#commits tbody tr", "rows => rows.map(row => row.dataset.commit)")
    return found


def test_the_filter_leaves_what_fits_in_list_and_graph(opened: Opened, told: Told) -> None:
    shown, log = opened.view(), told("log")
    shown.fill("#filter", "law- ADAPTED")
    wanted = [entry["commit"] for entry in log if "law-" in str(entry["refs"]) and entry["edge"] == "adapted"]
    assert 0 < len(wanted) < len(log)
    assert shown_rows(shown) == wanted
    assert shown.locator("#count").text_content() == f"{len(wanted)} of {len(log)}"
    drawn = marks(shown, "opacity")
    assert {oid for oid, opacity in drawn.items() if opacity == 1} == set(wanted)
    by_oid = {entry["commit"]: entry for entry in log}
    above, waiting = set[str](), list(wanted)
    while waiting:
        for parent in by_oid[waiting.pop()]["parents"]:
            if parent not in above:
                above.add(parent)
                waiting.append(parent)
    assert set(drawn) == above | set(wanted)
    shown.fill("#filter", by_oid[wanted[0]]["commit"][:20])
    assert shown_rows(shown) == wanted[:1]
    shown.fill("#filter", '"accuracy 0.8"')
    assert set(shown_rows(shown)) == {e["commit"] for e in log if e["metrics"].get("accuracy", "").startswith("0.8")}
    shown.fill("#filter", "no such thing")
    assert shown_rows(shown) == []
    shown.fill("#filter", "")
    assert shown_rows(shown) == [entry["commit"] for entry in log]
    opened.quiet()


def test_kinds_bases_and_branches(opened: Opened, told: Told) -> None:
    shown, log = opened.view(), told("log")
    shown.select_option("#kind", "merged")
    assert shown_rows(shown) == [entry["commit"] for entry in log if entry["edge"] == "merged"]
    shown.select_option("#kind", "")
    shown.select_option("#base", "base-2")
    on = [entry["commit"] for entry in log if any(ref.startswith("base-2") for ref in entry["refs"])]
    assert set(on) <= set(shown_rows(shown))
    assert len(shown_rows(shown)) < len(log) / 3
    shown.select_option("#base", "")
    shown.check("#named")
    assert shown_rows(shown) == [entry["commit"] for entry in log if set(entry["refs"]) - set(entry["tags"])]


def test_time_instead_of_generation(opened: Opened, told: Told) -> None:
    shown = opened.view()
    shown.select_option("#across", "time")
    times = {entry["commit"]: int(1000 * datetime.fromisoformat(entry["time"]).timestamp()) for entry in told("log")}
    assert marks(shown, "x") == times
    assert shown.evaluate("document.getElementById('lineage')._fullLayout.xaxis.type") == "date"
    shown.select_option("#across", "generation")
    settle(shown)
    assert shown.evaluate("document.getElementById('lineage')._fullLayout.xaxis.type") == "linear"
    opened.quiet()


def test_zooming_names_what_there_is_room_for(opened: Opened) -> None:
    shown = opened.view()
    texts = "document.getElementById('lineage').data.flatMap(t => t.text ?? []).filter(Boolean).length"
    assert shown.evaluate(texts) == 0
    shown.click("#nearer")
    opened.watched.until(f"{texts} > 0")
    heights = "document.getElementById('lineage')._fullLayout.yaxis.range.reduce((from, to) => from - to)"
    near = shown.evaluate(heights)
    shown.click("#farther")
    opened.watched.until(f"{heights} > {1.5 * near}")
    shown.click("#whole")
    opened.watched.until(f"{texts} === 0")
    opened.quiet()


RANGES = "['xaxis', 'yaxis'].map(axis => document.querySelector('#lineage, #usage, #map')._fullLayout[axis].range.map(Number))"


@pytest.mark.parametrize("view", ["", "storage", "similarity"])
def test_a_double_click_shows_all_again(opened: Opened, view: str) -> None:
    shown = opened.view(view)
    if view != "similarity":
        shown.fill("#filter", "law")
    settle(shown)
    ranges = shown.evaluate(RANGES)
    box = shown.locator("#lineage, #usage, #map").locator(".nsewdrag").bounding_box()
    assert box
    places = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.2, 0.7)]
    shown.mouse.move(*places[0])
    shown.mouse.down()
    shown.mouse.move(*places[1], steps=4)
    shown.mouse.up()
    opened.watched.until(f"JSON.stringify({RANGES}) !== {json.dumps(json.dumps(ranges, separators=(',', ':')))}")
    shown.mouse.dblclick(box["x"] + 0.52 * box["width"], box["y"] + 0.02 * box["height"])
    opened.watched.until(f"JSON.stringify({RANGES}) === {json.dumps(json.dumps(ranges, separators=(',', ':')))}")
    opened.quiet()


def test_pointing_tells_and_a_click_opens(opened: Opened, told: Told) -> None:
    shown = opened.view()
    shown.fill("#filter", "squad-00")
    (entry,) = [each for each in told("log") if "squad-0003" in each["refs"]]
    shown.mouse.move(*point(shown, entry["commit"]))
    shown.wait_for_selector("#lineage .hoverlayer text")
    tip = shown.locator("#lineage .hoverlayer").text_content() or ""
    assert "squad-0003" in tip
    assert f"accuracy {entry['metrics']['accuracy']}" in tip
    shown.mouse.down()
    shown.mouse.up()
    opened.watched.until("document.querySelector('h1').textContent === 'squad-0003'")
    assert shown.url == f"{opened.served.address}commit/{entry['commit']}"
    opened.quiet()


def test_the_list_sorts(opened: Opened, told: Told) -> None:
    shown, log = opened.view(), told("log")
    shown.locator("#commits thead button", has_text="Stored").click()
    sizes = {entry["commit"]: entry["stored_bytes"] for entry in log}
    assert [sizes[oid] for oid in shown_rows(shown)] == sorted(sizes.values(), reverse=True)
    shown.locator("#commits thead button", has_text="accuracy").click()
    accuracy = {entry["commit"]: entry["metrics"].get("accuracy") for entry in log}
    found = [float(value) for oid in shown_rows(shown) if (value := accuracy[oid]) and "<" not in value]
    assert len(found) > 40


@pytest.mark.parametrize("name", ["mnli-0000", "odd", "base", "twin"])
def test_a_commit_is_what_show_says(opened: Opened, told: Told, name: str) -> None:
    shown, said = opened.commit(name), told("show", name)
    assert held(shown) == said
    text = shown.locator("#view").inner_text()
    assert said["commit"] in text
    for ref in said["refs"]:
        assert ref in text
    cells = "rows => rows.map(row => [row.cells[0].textContent, row.cells[6].dataset.value])"
    errors = {each["name"]: each["relative_error"] for each in said["tensors"]}
    assert shown.eval_on_selector_all("#tensors tbody tr", cells) == [
        [tensor, "-1" if error is None else repr(error)] for tensor, error in errors.items()
    ]
    log = told("log")
    children = [entry["commit"] for entry in log if said["commit"] in entry["parents"]]
    linked = shown.eval_on_selector_all(".links a", "links => links.map(a => a.href.split('/').pop())")
    assert linked == [*said["parents"], *children]
    assert shown.locator("#terms tbody tr").count() == len(said["terms"])
    opened.watched.until("document.getElementById('usage').dataset.known === 'yes'")
    usages = [each for each in told("du")["variants"] if each["commit"] == said["commit"]]
    disk = shown.locator("#usage").text_content() or ""
    for usage in usages:
        assert f"{usage['own_bytes']:,} bytes of its own, {usage['shared_bytes']:,} bytes shared" in disk
    opened.quiet()


def test_a_merge_links_to_what_it_was_made_of(opened: Opened, told: Told) -> None:
    (merged, *_) = [entry for entry in told("log") if entry["edge"] == "merged"]
    shown = opened.view(f"commit/{merged['commit']}")
    shown.locator(".facts a", has_text=told("show", merged["commit"])["recipe"]["operands"][1]["name"]).click()
    opened.watched.until(f"location.href.endsWith('{merged['parents'][1]}')")
    opened.quiet()


def test_tensors_filter_and_sort(opened: Opened) -> None:
    shown = opened.commit("mnli-0000")
    shown.fill("#filter", "query layer.1")
    assert shown.locator("#tensors tbody tr").all_text_contents()[0].startswith("layer.1.attention.query")
    assert shown.locator("#count").text_content() == "1 of 12"
    shown.fill("#filter", "")
    head = shown.locator("#tensors thead button", has_text="Stored")
    head.click()
    values = shown.eval_on_selector_all("#tensors tbody tr", "rows => rows.map(r => Number(r.cells[4].dataset.value))")
    assert values == sorted(values, reverse=True)


def test_two_are_compared_as_diff_does(opened: Opened, told: Told) -> None:
    shown = opened.view("compare?rev=mnli-0000&rev=sst2-0001")
    said = told("diff", "mnli-0000", "sst2-0001")
    found = held(shown)
    assert {**found, "details": None} == {**said, "a": found["a"], "b": found["b"]}
    assert [found[side]["commit"] for side in "ab"] == [said[side]["commit"] for side in "ab"]
    assert "mnli-0000" in (shown.locator("h1").text_content() or "")
    shown.select_option("#tensor", "layer.1.attention.key.weight")
    assert shown.evaluate("[...document.getElementById('spectrum').data[0].y]") == list(
        found["details"]["layer.1.attention.key.weight"]["spectrum"]["change"]
    )
    assert shown.locator("footer").count() == 0
    opened.quiet()


def matrix_of(shown: Page) -> tuple[list[str], np.ndarray]:
    names, rows = shown.evaluate(
        "(() => { const t = document.getElementById('map')._fullData[0]; return [[...t.x], t.z.map(row => [...row])]; })()"
    )
    return names, np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("similarity", ("--base", "base")),
        ("similarity?base=base-2", ("--base", "base-2")),
        ("compare?rev=mnli-0000&rev=sst2-0001&rev=twin", ("mnli-0000", "sst2-0001", "twin")),
    ],
)
def test_the_map_is_what_similar_says(opened: Opened, told: Told, path: str, arguments: tuple[str, ...]) -> None:
    shown, said = opened.view(path), told("similar", *arguments)
    found = held(shown)
    for key in ("names", "base", "norms", "duplicates", "outliers", "whole"):
        assert found[key] == said[key], key
    wanted = np.array(said["matrix"], dtype=np.float32)
    for order in ("clustered", "name"):
        shown.select_option("#order", order)
        settle(shown)
        names, matrix = matrix_of(shown)
        at = [said["names"].index(name) for name in names]
        assert np.array_equal(matrix, wanted[np.ix_(at, at)])
        assert names == ([said["names"][place] for place in found["order"]] if order == "clustered" else sorted(names))
    for group in said["duplicates"]:
        assert ", ".join(group) in shown.locator("main").inner_text()
    assert shown.locator("#outliers tbody tr").count() == len(said["outliers"])
    best = max(value for at, row in enumerate(said["matrix"]) for value in row[:at])
    assert shown.locator("#nearest tbody td[data-value]").first.get_attribute("data-value") == repr(best)
    opened.quiet()


def test_a_cell_leads_to_the_two(opened: Opened) -> None:
    shown = opened.view("compare?rev=mnli-0000&rev=sst2-0001&rev=qqp-0002")
    box = shown.locator("#map .nsewdrag").bounding_box()
    assert box
    shown.mouse.move(box["x"] + 0.84 * box["width"], box["y"] + 10)
    shown.wait_for_selector("#map .hoverlayer text")
    names, matrix = matrix_of(shown)
    tip = shown.locator("#map .hoverlayer").text_content() or ""
    assert names[0] in tip
    assert names[2] in tip
    assert f"{matrix[0][2]:.3f}" in tip
    shown.mouse.down()
    shown.mouse.up()
    shown.locator("#cell a").click()
    opened.watched.until(f"document.querySelector('h1').textContent.includes('{names[0]}')")
    opened.watched.until("document.documentElement.dataset.ready === 'all'")
    assert shown.url.endswith(f"compare?rev={names[0]}&rev={names[2]}")
    assert shown.locator("#spectrum .scatterlayer path").count() > 0
    opened.quiet()


def test_storage_is_what_du_says(opened: Opened, told: Told) -> None:
    shown, said = opened.view("storage"), told("du")
    assert held(shown) == said
    cells = "row => [...row.cells].map((cell, at) => at < 2 ? cell.textContent : Number(cell.dataset.value))"
    found = shown.eval_on_selector_all("#names tbody tr", f"rows => rows.map({cells})")
    assert found == [
        [
            each["name"],
            each["kind"],
            each["own_bytes"],
            each["shared_bytes"],
            each["own_bytes"] + each["shared_bytes"],
            each["original_bytes"],
        ]
        for each in said["variants"]
    ]
    totals = shown.evaluate("document.getElementById('totals').data.map(t => t.x[0])")
    assert totals == [said["reachable_bytes"], said["other_bytes"], said["separate_bytes"]]
    opened.quiet()


def test_bars_follow_the_filter(opened: Opened, told: Told) -> None:
    shown, variants = opened.view("storage"), told("du")["variants"]
    drawn = "document.getElementById('usage').data.map(t => t.customdata.map((name, i) => [name, t.x[i]]))"
    shown.fill("#filter", "mnli")
    fitting = [each for each in variants if "mnli" in each["name"]]
    shown.select_option("#first", "own")
    settle(shown)
    own, shared = shown.evaluate(drawn)
    assert dict(own) == {each["name"]: each["own_bytes"] for each in fitting}
    assert dict(shared) == {each["name"]: each["shared_bytes"] for each in fitting}
    assert [size for _, size in own] == sorted((size for _, size in own), reverse=True)
    assert shown.locator("#names tbody tr").count() == len(fitting)
    shown.fill("#filter", "")
    shown.select_option("#kind", "base")
    settle(shown)
    assert {name for name, _ in shown.evaluate(drawn)[0]} == {"base", "base-2"}
    opened.quiet()


def test_what_is_picked_is_compared(opened: Opened) -> None:
    shown = opened.view()
    bar = shown.locator("#picked")
    assert bar.is_hidden()
    for name in ("mnli-0000", "sst2-0001"):
        shown.check(f"input[data-pick='{name}']")
    assert "2 picked: mnli-0000, sst2-0001" in (bar.text_content() or "")
    shown.locator("#views a", has_text="Storage").click()
    opened.watched.until("document.querySelector('h1').textContent === 'Storage'")
    bar.locator("a").click()
    opened.watched.until("document.querySelector('h1').textContent.includes('mnli-0000')")
    opened.watched.until("document.documentElement.dataset.ready === 'all'")
    assert shown.locator("#spectrum .scatterlayer path").count() > 0
    shown.go_back()
    shown.go_back()
    opened.watched.until("document.querySelector('h1').textContent === 'Lineage'")
    assert shown.is_checked("input[data-pick='mnli-0000']")
    shown.check("input[data-pick='qqp-0002']")
    assert bar.locator("a").get_attribute("href").endswith("compare?rev=mnli-0000&rev=sst2-0001&rev=qqp-0002")
    bar.locator("button").click()
    assert bar.is_hidden()
    assert not shown.is_checked("input[data-pick='mnli-0000']")
    opened.quiet()


def test_a_view_that_was_left_is_as_it_was(opened: Opened) -> None:
    shown = opened.view()
    shown.fill("#filter", "law")
    rows = shown_rows(shown)
    shown.locator("#commits tbody a").first.click()
    opened.watched.until("document.querySelector('h1').textContent.includes('law')")
    opened.watched.until("document.documentElement.dataset.ready === 'all'")
    shown.emulate_media(color_scheme="dark")
    shown.go_back()
    opened.watched.until("document.querySelector('h1').textContent === 'Lineage'")
    assert shown.input_value("#filter") == "law"
    assert shown_rows(shown) == rows
    # It was away when the scheme changed.
    opened.watched.until("document.getElementById('lineage')._fullLayout.font.color === erestore.color('--text')")
    shown.fill("#filter", "")
    assert len(shown_rows(shown)) > len(rows)
    shown.go_forward()
    opened.watched.until("document.querySelector('h1').textContent.includes('law')")
    opened.quiet()


def test_a_view_that_was_left_fits_a_window_of_another_width(opened: Opened) -> None:
    shown = opened.view()
    settle(shown)
    for width in (360, 1280):
        shown.evaluate("document.querySelector('#commits tbody a').click()")
        opened.watched.until(
            "location.pathname.includes('/commit/') && document.documentElement.dataset.ready === 'all'"
        )
        shown.set_viewport_size({"width": width, "height": 900})
        shown.wait_for_timeout(
            500
        )  # Plotly looks for charts a little after a window has another width: it shall find none
        shown.go_back()
        opened.watched.until("document.querySelector('h1').textContent === 'Lineage'")
        opened.watched.fits()
    opened.quiet()


def test_what_a_pointer_rests_on_is_fetched_before_it_is_pressed(opened: Opened) -> None:
    shown, requests = opened.view(), opened.watched.requests
    links = shown.locator("#commits tbody a")
    first, second = (links.nth(place).evaluate("link => link.href") for place in (0, 1))
    fetched = "name => performance.getEntriesByType('resource').some(entry => entry.name === name)"
    links.first.hover()
    opened.watched.until(f"({fetched})({json.dumps(first)})")
    links.first.click()
    opened.watched.until(f"location.href === {json.dumps(first)} && document.documentElement.dataset.ready === 'all'")
    assert requests.count(first) == 1
    shown.go_back()
    opened.watched.until("document.querySelector('h1').textContent === 'Lineage'")
    # What would have to be computed waits until it is asked for, and so does what the pointer only passes.
    shown.locator("#views a", has_text="Similarity").hover()
    shown.evaluate(
        "for (const each of [...document.querySelectorAll('#views a')].slice(2).concat(document.querySelector('h1')))"
        " each.dispatchEvent(new Event('pointerover', { bubbles: true }))"
    )
    links.nth(1).hover()
    opened.watched.until(f"({fetched})({json.dumps(second)})")  # the last of them
    assert not [each for each in requests if each.endswith(("/similarity", "/storage"))]
    opened.quiet()


TYPED = """
let times = 0;
new MutationObserver((records, observer) => {
  times += records.filter(({ target }) => ["lineage", "usage"].includes(target.id)).length;
  if (times < 2) return; // there is an empty chart, and a wish that it be drawn
  observer.disconnect();
  const filter = document.getElementById("filter");
  filter.value = "law";
  filter.dispatchEvent(new Event("input", { bubbles: true }));
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-drawn"] });
"""
"""Types before the graph was drawn for the first time."""
HELD = """
const native = requestAnimationFrame.bind(window), waiting = [];
let isHeld = false;
window.requestAnimationFrame = drawing => isHeld ? waiting.push(drawing) : native(drawing);
window.hold = () => { isHeld = true; };
window.release = () => { isHeld = false; waiting.splice(0).forEach(native); };
"""
"""Frames come when the test says."""


@pytest.mark.parametrize(("view", "chart"), [("", "lineage"), ("storage", "usage")])
def test_who_types_before_the_first_graph_is_drawn_is_heard(opened_alone: Opened, view: str, chart: str) -> None:
    opened_alone.watched.page.add_init_script(TYPED)
    shown = opened_alone.view(view)
    settle(shown)
    drawn = set(shown.evaluate(f"document.getElementById('{chart}').data.flatMap(trace => trace.customdata)"))
    fitting = {name for name in opened_alone.commits if "law" in name}
    assert drawn >= ({opened_alone.commits[name] for name in fitting} if chart == "lineage" else fitting)
    assert len(drawn) < len(opened_alone.commits)
    # A faint mark leads to its commit as well, though the list does not have it.
    listed = set(shown_rows(shown)) if chart == "lineage" else set()
    event = {"points": [{"customdata": min(drawn - listed)}]}
    shown.evaluate(f"event => document.getElementById('{chart}').emit('plotly_click', event)", event)
    opened_alone.watched.until(
        "location.pathname.includes('/commit/') && document.documentElement.dataset.ready === 'all'"
    )
    assert len([each for each in opened_alone.watched.requests if each.endswith("/assets/ui.js")]) == 1
    opened_alone.quiet()


def test_a_graph_that_was_left_before_it_was_drawn_is_drawn_later(opened_alone: Opened) -> None:
    opened_alone.watched.page.add_init_script(HELD)
    shown = opened_alone.view()
    settle(shown)
    shown.evaluate(
        "() => { hold(); window.left = document.getElementById('lineage');"
        " const filter = document.getElementById('filter'); filter.value = 'law';"
        " filter.dispatchEvent(new Event('input', { bubbles: true })); document.querySelector('#commits tbody a').click(); }"
    )
    opened_alone.watched.until("document.querySelector('h1').textContent.includes('law')")
    assert shown.evaluate("[left.isConnected, left.dataset.drawn]") == [False, "no"]
    shown.evaluate("release()")
    opened_alone.watched.until("document.documentElement.dataset.ready === 'all'")
    shown.go_back()
    opened_alone.watched.until("document.querySelector('h1').textContent === 'Lineage'")
    opacity = marks(shown, "opacity")
    assert {oid for oid, value in opacity.items() if value == 1} == set(shown_rows(shown))
    assert len(opacity) < len(opened_alone.commits)
    opened_alone.quiet()


def test_a_keyboard_is_enough(opened: Opened) -> None:
    shown = opened.view()
    shown.focus("#commits tbody a")
    name = shown.evaluate("document.activeElement.textContent")
    shown.keyboard.press("Enter")
    opened.watched.until(f"document.querySelector('h1').textContent === '{name}'")
    opened.watched.until("document.activeElement.tagName === 'H1'")  # where reading goes on
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.dataset.pick") == name


def test_what_others_wrote_is_text(opened: Opened) -> None:
    shown = opened.view()
    shown.fill("#filter", "odd")
    row = shown.locator("#commits tbody tr")
    assert HOSTILE in row.locator("td").all_text_contents()
    assert "<u>0.9</u>" in row.locator("td").all_text_contents()
    shown.mouse.move(*point(shown, opened.commits["odd"]))
    shown.wait_for_selector("#lineage .hoverlayer text")
    tip = shown.locator("#lineage .hoverlayer").text_content() or ""
    assert HOSTILE[:60] in tip
    assert f"<i>loss</i> {CLOSING}" in tip
    row.locator("a").click()
    opened.watched.until("document.querySelector('h1').textContent === 'odd'")
    assert shown.locator(".message").text_content() == f"{HOSTILE}\n\n{CLOSING}"
    text = shown.locator("#view").inner_text()
    assert "<i>loss</i>" in text
    assert "<s>1</s>" in text
    assert text.count(CLOSING) == 3
    assert shown.title() == "odd · erestore"
    assert shown.locator("#view img, #view u, #view s, #view i, #view b").count() == 0
    opened.quiet()


def test_hostile_addresses_are_text_as_well(opened: Opened) -> None:
    shown = opened.view(f"compare?rev={quote(HOSTILE)}&rev={quote(CLOSING)}")
    assert HOSTILE in (shown.locator("main").text_content() or "")
    assert shown.locator("main img, main script, main b").count() == 0
    assert shown.title() == "Error · erestore"


def test_nothing_can_be_fetched_from_elsewhere(opened: Opened) -> None:
    shown = opened.view()
    for address in ("https://example.org/", "http://localhost:1/"):
        assert shown.evaluate(f"fetch('{address}').then(() => 'went', () => 'refused')") == "refused"
    shown.evaluate("document.body.append(erestore.element('script', 'window.taken = true'))")
    assert shown.evaluate("window.taken") is None


def test_it_can_be_read_without_scripts(opened: Opened, browser: Any) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(opened.served.address)
        assert page.locator("#commits tbody tr:visible").count() > 40
        page.locator("#commits tbody a").first.click()
        assert page.locator("h1").text_content()
        assert page.locator("#tensors tbody tr:visible").count() == 12


def test_json_is_the_commands(opened: Opened, told: Told) -> None:
    """What a page holds is byte for byte what the command prints, but for blanks."""
    text = opened.view("storage").locator("#data").text_content() or ""
    assert json.loads(text) == told("du")
