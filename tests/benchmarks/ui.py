"""How long the page of a large store takes to answer, measured in Chromium: filtering, choosing a commit, switching views.

The store is synthetic: 1,000 variants of 400 tiny tensors each, with versions, merges and picks among them. Times are the
browser's (``performance.now()``), from the event to the frame that answers it (the list is filtered, the other page is there)
and until all is drawn (a graph follows its list), the median and the longest of several. As with people, a pointer rests on
a link for 0.2 s before it is pressed. Run by hand::

    python tests/benchmarks/ui.py                     # makes the store in a temporary directory: a few minutes
    python tests/benchmarks/ui.py --keep fleet        # and keeps it
    python tests/benchmarks/ui.py --keep fleet --map  # also the similarity map, whose products are computed first
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1])]

from browsing import ARGUMENTS, program
from synthetic_fleets import make_fleet

from erestore.api import Store
from erestore.ui.server import serve

if TYPE_CHECKING:
    from playwright.sync_api import Page

LIMIT = 200
"""Milliseconds in which every interaction shall be answered on the screen."""

TIMED = """
async ([what, ...given]) => {
  const set = (id, value) => {
    const input = document.getElementById(id);
    input.value = value;
    for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const actions = {
    set,
    click: selector => document.querySelector(selector).click(),
    sort: (table, title) => [...document.querySelectorAll(`#${table} thead button`)]
      .find(head => head.textContent === title).click(),
    follow: selector => document.querySelector(selector).click(),
    open: at => document.querySelectorAll("#view tbody a")[Number(at)].click(),
    back: () => history.back(),
  };
  const before = document.getElementById("view");
  const ready = () => document.documentElement.dataset.ready === "all"
    && ![...document.querySelectorAll(".chart")].some(chart => chart.dataset.drawn === "no");
  const until = async isTrue => { while (!isTrue()) await new Promise(done => setTimeout(done, 1)); };
  /* After the next frame: what timers do comes later. */
  const frame = () => new Promise(done => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;
    port2.postMessage(0);
  }));
  const leads = {
    follow: selector => document.querySelector(selector),
    open: at => document.querySelectorAll("#view tbody a")[Number(at)],
  };
  if (leads[what]) {
    leads[what](...given).dispatchEvent(new Event("pointerover", { bubbles: true }));
    await new Promise(done => setTimeout(done, 200));
  }
  const begun = performance.now();
  actions[what](...given);
  if (leads[what] || what === "back") await until(() => document.getElementById("view") !== before);
  await frame();
  const answered = performance.now() - begun;
  if (!ready()) { await until(ready); await frame(); }
  return [answered, performance.now() - begun];
}
"""


class Clock:
    """Times of interactions, by what they are.

    Parameters
    ----------
    page : Page
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self.times: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, *action: str) -> None:
        """Do something and note after how long it was answered and all was drawn."""
        answered, drawn = self._page.evaluate(TIMED, list(action))
        self.times.setdefault(name, []).append((answered, drawn))

    def table(self) -> Iterator[str]:
        """Yield the times as a table."""
        yield f"{'median, longest':<44}{'times':>6}{'answered':>21}{'all drawn':>21}"
        for name, found in self.times.items():
            answered, drawn = zip(*found, strict=True)
            cells = "".join(f"{statistics.median(each):>9.0f}, {max(each):>5.0f} ms " for each in (answered, drawn))
            yield f"{name:<44}{len(found):>6} {cells}{'LATE' if max(answered) > LIMIT else ''}".rstrip()


def lineage(clock: Clock) -> None:
    """Filter, sort and redraw the list and the graph of all commits."""
    for text in ("m", "mn", "mnl", "mnli", "mnli 0.9", "mnl", "mn", "m", "", "law", ""):
        clock.time("lineage: type into the filter", "set", "filter", text)
    for kind in ("merged", "versioned", ""):
        clock.time("lineage: choose a kind", "set", "kind", kind)
    for across in ("time", "generation"):
        clock.time("lineage: time instead of generation", "set", "across", across)
    for button in ("#nearer", "#nearer", "#farther", "#whole"):
        clock.time("lineage: zoom", "click", button)
    for title in ("Error", "Stored", "Name", "Date"):
        clock.time("lineage: sort the list", "sort", "commits", title)


def commits(clock: Clock) -> None:
    """Open commits from the list, and go back."""
    for place in range(5, 95, 18):
        clock.time("open a commit from the list", "open", str(place))
        for text in ("layer.1", ""):
            clock.time("commit: filter its tensors", "set", "filter", text)
        clock.time("commit: sort its tensors", "sort", "tensors", "Stored")
        clock.time("go back to the lineage", "back")


def views(clock: Clock, kinds: list[str]) -> None:
    """Switch between the views, once for the first time and then again."""
    for number in range(4):
        for kind in kinds:
            often = "again" if number else "first"
            clock.time(f"switch to {kind}, {often}", "follow", f"#views a[href$='/{kind}']")
            clock.time("switch to the lineage", "follow", "#views a[href$='/']")


def storage(clock: Clock) -> None:
    """Filter and sort the bars of what names take."""
    clock.time("switch to storage, again", "follow", "#views a[href$='/storage']")
    for text in ("m", "mn", "mnli", ""):
        clock.time("storage: type into the filter", "set", "filter", text)
    for first in ("own", "name", "total"):
        clock.time("storage: choose an order", "set", "first", first)
    clock.time("storage: sort the table", "sort", "names", "Own")


def similarity(clock: Clock) -> None:
    """Reorder the map."""
    clock.time("switch to similarity, again", "follow", "#views a[href$='/similarity']")
    for order in ("name", "clustered"):
        clock.time("similarity: choose an order", "set", "order", order)


@contextmanager
def opened(address: str) -> Iterator[Page]:
    """Open a page and wait until it is ready."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        took("first page, with the store read for the first time ", lambda: ready(page, address))
        took("first page again", lambda: ready(page, address))
        yield page
        browser.close()


def ready(page: Page, address: str) -> None:
    """Load a page."""
    page.goto(address)
    page.wait_for_selector("html[data-ready=all]", state="attached", timeout=120_000)


def took(what: str, action: Callable[[], object]) -> None:
    """Say how long something takes that is no interaction."""
    begun = time.perf_counter()
    action()
    print(f"{what}: {time.perf_counter() - begun:.2f} s")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--tensors", type=int, default=400)
    parser.add_argument("--map", action="store_true", help="Also the similarity map; takes minutes the first time.")
    parser.add_argument("--keep", type=Path, help="Where to keep the store between runs.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = options.keep or Path(folder, "fleet")
        if not (place / "store").exists():
            took("making the store", lambda: make_fleet(place, [options.variants], options.tensors))
        store = Store.open(place / "store")
        print(f"{len(store.log()):,} commits")
        products = place / "products"
        if options.map:
            took("inner products of all pairs, or their table", lambda: store.similar(products_directory=products))
        with serve(store, products=products) as served, opened(served.address) as page:
            took("storage is counted", lambda: ready(page, f"{served.address}storage"))
            if options.map:
                took("map is made", lambda: ready(page, f"{served.address}similarity"))
            ready(page, served.address)
            clock = Clock(page)
            lineage(clock)
            commits(clock)
            views(clock, ["storage", "similarity"] if options.map else ["storage"])
            storage(clock)
            if options.map:
                similarity(clock)
            print("\n".join(clock.table()))


if __name__ == "__main__":
    main()
