"""A headless Chromium and a page for tests of pages: one each a module, and whatever pages complain of in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Works as root and in a container; nothing but the page is asked for over the network."""
WIDTHS = (360, 1280, 1920)
HEIGHT = 900
SCHEMES = ("dark", "light")
AUDITED = ((WIDTHS[0], "dark"), (WIDTHS[1], "light"))
"""Where axe-core looks: at both schemes, and at the layouts of a telephone and of a screen. It takes most of the time."""
_PATIENCE = 30.0
SERIOUS = {"serious", "critical"}
_DRAWN = """
[...document.querySelectorAll(".chart")].every(({ _fullLayout: drawn, clientWidth: width }) =>
  !width || drawn.font.color === erestore.color("--text") && Math.abs(drawn.width - width) < 2)
"""
"""Whether all charts are in the colours and of the width of the page."""
_CLEAR = """
[...document.querySelectorAll(".chart")].every(chart => {
  const legend = chart.querySelector(".legend")?.getBoundingClientRect();
  return !legend || legend.bottom <= chart.querySelector(".nsewdrag").getBoundingClientRect().top + 1;
})
"""
"""Whether all legends are above their charts, and none on one."""


def program() -> str | None:
    """Return the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Its event loop runs as long as it does, and no other can in the same thread: not longer than a module.
    from playwright.sync_api import sync_playwright

    found = program()
    if found is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield started
        started.close()


@dataclass
class Watched:
    """A page, and what went wrong in it.

    Attributes
    ----------
    page : Page
    complaints : list of str
        Messages on its console and uncaught errors.
    requests : list of str
        Addresses that it asked for, beyond its own and those inside itself.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _listeners: list[tuple[Any, Callable[[Any], None]]] = field(default_factory=list)

    def open(self, address: str | Path) -> Page:
        """Load a page and wait until its script says that it is ready."""
        whole = address.as_uri() if isinstance(address, Path) else address
        self._listen("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self._listen("pageerror", lambda error: self.complaints.append(str(error)))
        self._listen("request", lambda request: self._note(request.url, whole))
        self.page.goto(whole)
        self.page.wait_for_selector("html[data-ready=all]", state="attached")
        return self.page

    def leave(self) -> None:
        """Forget all that was done in the page, and show nothing."""
        for event, listener in self._listeners:
            self.page.remove_listener(event, listener)
        self.page.evaluate("try { sessionStorage.clear() } catch { }")  # an error page has none
        self.page.goto("about:blank")
        self.page.emulate_media(media="screen", color_scheme="light")
        self.page.set_viewport_size({"width": WIDTHS[1], "height": HEIGHT})
        self.page.mouse.move(0, 0)

    def _listen(self, event: Any, listener: Callable[[Any], None]) -> None:
        self.page.on(event, listener)
        self._listeners.append((event, listener))

    def _note(self, address: str, whole: str) -> None:
        if address != whole and not address.startswith(("data:", "blob:")):
            self.requests.append(address)

    def until(self, expression: str) -> None:
        """Wait for a condition. Playwright's own waiting evaluates text in the page, which its policy rightly forbids."""
        deadline = time.monotonic() + _PATIENCE
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            self.page.wait_for_timeout(20)

    def fits(self) -> None:
        """Wait until all charts have the colours and the width of the page, and no legend is on one."""
        self.until(_DRAWN)
        self.until(_CLEAR)

    def serious(self) -> list[str]:
        """Return what axe-core finds serious."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]

    def see(self, address: str | Path, first: str = "true") -> Page:
        """Load a page, and see that it fits every width in both schemes, and that everybody can use it.

        It is loaded at the least width and then made wider.

        Parameters
        ----------
        address : str or Path
        first : str, optional
            Expression that is evaluated when it is loaded.
        """
        self.page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
        shown = self.open(address)
        shown.evaluate(first)
        for width in WIDTHS:
            shown.set_viewport_size({"width": width, "height": HEIGHT})
            for scheme in SCHEMES:
                shown.emulate_media(color_scheme=scheme)
                self.fits()
                assert shown.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
                if (width, scheme) in AUDITED:
                    assert self.serious() == [], (width, scheme)
        return shown


@contextmanager
def _opened(browser: Browser) -> Iterator[Watched]:
    with browser.new_context(viewport={"width": WIDTHS[1], "height": HEIGHT}) as context:
        yield Watched(context.new_page())


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """A page for all tests of a module: one that has run Plotly before loads it again in a fifth of the time."""
    with _opened(browser) as watched:
        yield watched.page


@pytest.fixture
def watched(tab: Page) -> Iterator[Watched]:
    watched = Watched(tab)
    yield watched
    watched.leave()


@pytest.fixture
def watched_alone(browser: Browser) -> Iterator[Watched]:
    """A page for one test, whose init scripts would stay."""
    with _opened(browser) as watched:
        yield watched


@pytest.fixture(scope="module")
def loaded(browser: Browser, page: Path) -> Iterator[Watched]:
    """The module's `page`, loaded once: that takes longer than a test."""
    with _opened(browser) as found:
        found.open(page)
        yield found


@pytest.fixture
def shown(loaded: Watched) -> Iterator[Page]:
    """It, for tests that do not mind what others chose in it."""
    yield loaded.page
    assert (loaded.complaints, loaded.requests) == ([], [])
