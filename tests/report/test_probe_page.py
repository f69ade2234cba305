"""The page of a probe, opened in a browser."""

import json

import pytest
from probe_samples import WEIGHTS_ALONE, WHOLE

from erestore.report.json_values import plain
from erestore.report.probe_page import probe_page

CHARTS = [
    f"{probe}-{measure}"
    for probe in ("perturb", "truncate", "allocation", "stiefel")
    for measure in ("cosine", "error")
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    found = tmp_path_factory.mktemp("page") / "probe.html"
    found.write_text(probe_page(WHOLE), encoding="utf-8")
    return found


def test_it_loads_in_silence_fits_and_is_accessible(watched, page):
    watched.see(page)
    assert watched.complaints == []
    assert watched.requests == []


def test_every_chart_has_marks_and_says_what_it_shows(shown):
    charts = shown.query_selector_all(".chart")
    assert [chart.get_attribute("id") for chart in charts] == CHARTS
    for chart in charts:
        assert len(chart.query_selector_all(".scatterlayer path.js-line")) >= 2
        assert len(chart.get_attribute("aria-label")) > 30


def test_what_is_drawn_and_written_is_the_json(shown):
    held = shown.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert held == json.loads(json.dumps(plain(WHOLE)))
    assert shown.locator("h1").text_content() == "task</script><b>: robustness"
    for probe in ("perturb", "truncate"):
        for measure, field in (("cosine", "cosine"), ("error", "relative_error")):
            drawn = shown.evaluate(
                f"Object.fromEntries(document.getElementById('{probe}-{measure}').data.map(t => [t.meta, [...t.y]]))"
            )
            for part in ("weights", "residual"):
                expected = [point[field] for point in held[probe]["points"] if point["part"] == part]
                assert drawn[f"{part}.{measure}"] == [value or None for value in expected]
    cells = shown.locator("#stiefel tbody tr").nth(1).locator("th, td").all_text_contents()
    assert cells == ["4", "1,190", "37.5 %", "0.93750", "43.8 %", "0.90625"]


def test_hovering_says_the_number(shown):
    shown.locator("#perturb-cosine").scroll_into_view_if_needed()
    box = shown.locator("#perturb-cosine .nsewdrag").first.bounding_box()
    point = shown.locator("#perturb-cosine .scatterlayer .trace").first.locator(".points path").last.bounding_box()
    assert box["x"] <= point["x"] <= box["x"] + box["width"]
    shown.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    shown.wait_for_selector("#perturb-cosine .hoverlayer text")
    assert "0.98" in shown.locator("#perturb-cosine .hoverlayer").text_content()


def test_weights_alone_make_a_page_without_cosines(watched, tmp_path):
    page = tmp_path / "alone.html"
    page.write_text(probe_page(WEIGHTS_ALONE), encoding="utf-8")
    shown = watched.open(page)
    assert [chart.get_attribute("id") for chart in shown.query_selector_all(".chart")] == [
        "perturb-error",
        "truncate-error",
    ]
    assert "cosine" not in shown.locator("main").inner_text()
    assert watched.complaints == []
