"""What is drawn, and where it is on the screen."""

from __future__ import annotations

import time
from typing import Any

from playwright.sync_api import Page

POINT = """
oid => {
  const chart = document.getElementById("lineage"), { xaxis, yaxis } = chart._fullLayout;
  const box = chart.getBoundingClientRect(), trace = chart.data.find(each => each.customdata?.includes(oid));
  const at = trace.customdata.indexOf(oid);
  return [box.left + xaxis._offset + xaxis.d2p(trace.x[at]), box.top + yaxis._offset + yaxis.d2p(trace.y[at])];
}
"""

MARKS = """
property => {
  const traces = document.getElementById("lineage").data.filter(each => each.customdata && each.visible !== "legendonly");
  const value = (trace, at) => ({ kind: trace.name, x: trace.x[at], opacity: [].concat(trace.marker.opacity)[at] ?? 1 });
  return traces.flatMap(trace => trace.customdata.map((oid, at) => [oid, value(trace, at)[property]]));
}
"""


def settle(shown: Page) -> None:
    """Wait until the charts show what was asked for."""
    deadline = time.monotonic() + 30
    while not shown.evaluate("[...document.querySelectorAll('.chart')].every(chart => chart.dataset.drawn === 'yes')"):
        assert time.monotonic() < deadline, "not drawn"
        shown.wait_for_timeout(20)


def point(shown: Page, oid: str) -> tuple[float, float]:
    """Return where a commit's mark is."""
    settle(shown)
    shown.locator("#lineage").scroll_into_view_if_needed()
    x, y = shown.evaluate(POINT, oid)
    return x, y


def marks(shown: Page, what: str) -> dict[str, Any]:
    """Return the ``kind``, ``x`` or ``opacity`` of every mark, by oid."""
    settle(shown)
    return dict(shown.evaluate(MARKS, what))
