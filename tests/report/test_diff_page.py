"""The page of a diff, opened in a browser: it is whole, its numbers are those of the JSON, and everybody can use it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.report.json_values import plain
from erestore.report.pages import diff_page
from erestore.results.diff import DiffResult

WORDS = 96
CHOSEN = "document.getElementById('tensor').selectedOptions[0].textContent"


def layers(seed: int) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    found = {"embeddings.word_embeddings.weight": torch.randn(WORDS, 16, generator=noise)}
    for depth in range(3):
        for kind, shape in (("attention.self.query", (16, 16)), ("intermediate.dense", (32, 16))):
            found[f"encoder.layer.{depth}.{kind}.weight"] = torch.randn(*shape, generator=noise)
            found[f"encoder.layer.{depth}.{kind}.bias"] = torch.randn(shape[0], generator=noise)
    return found


def moved(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Change every matrix in two directions, most of all the row of one word."""
    noise, found = torch.Generator().manual_seed(seed), {}
    for name, value in weights.items():
        found[name] = value + 0.01 * torch.randn(*value.shape, generator=noise)
        if value.dim() > 1:
            found[name] += 0.1 * torch.randn(len(value), 2, generator=noise) @ torch.randn(2, 16, generator=noise)
    found["embeddings.word_embeddings.weight"][7] += 3 * (-1) ** seed
    return found


def write(directory: Path, weights: dict[str, torch.Tensor]) -> Path:
    directory.mkdir()
    save_file(weights, directory / "model.safetensors")
    # The name of a token must not be able to end the script that holds it.
    words = [*(f"w{number}" for number in range(WORDS))]
    words[7] = "</script><b>ß"
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place, base = tmp_path_factory.mktemp("pages"), layers(1)
    found = Store.init(place / "store")
    found.import_base(write(place / "base", base), name="base")
    for seed, name in ((2, "one"), (3, "two")):
        found.commit(write(place / name, moved(base, seed)), base="base", name=name)
    return found


@pytest.fixture(scope="module")
def result(store: Store) -> DiffResult:
    return store.diff("one", "two", details=True)


@pytest.fixture(scope="module")
def page(result: DiffResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("page") / "diff.html"
    found.write_text(diff_page(result), encoding="utf-8")
    return found


def test_it_loads_in_silence_fits_and_is_accessible(watched, page):
    watched.see(page)
    assert watched.complaints == []
    assert watched.requests == []


def test_no_request_can_leave_the_page(watched, page):
    shown = watched.open(page)
    assert shown.evaluate("fetch('https://example.org/').then(() => 'went', () => 'refused')") == "refused"
    assert watched.requests == []


def test_every_chart_has_marks(shown):
    marks = {"map": ".heatmaplayer image", "spectrum": ".scatterlayer path", "energy": ".scatterlayer path"}
    marks |= {"angles": ".scatterlayer path", "ratios": ".scatterlayer path", "storage": ".barlayer path"}
    assert {each.get_attribute("id") for each in shown.query_selector_all(".chart")} == set(marks)
    for chart, mark in marks.items():
        assert shown.locator(f"#{chart} {mark}").count() > 0, chart


def test_the_page_holds_the_json(shown, result):
    held = shown.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert held == json.loads(json.dumps(plain(result)))


def test_what_is_drawn_is_the_json(shown, result):
    for tensor in result.tensors:
        if not (found := result.details.get(tensor.name)) or not found.spectrum:
            continue
        shown.select_option("#tensor", label=tensor.name)
        drawn = shown.evaluate(
            "Object.fromEntries(document.getElementById('spectrum').data.map(t => [t.meta, [...t.y]]))"
        )
        assert drawn["spectrum.change"] == list(found.spectrum.change)
        assert drawn["spectrum.base"] == list(found.spectrum.base)
        assert drawn["spectrum.noise"] == list(found.spectrum.noise)
        cosines = shown.evaluate("[...document.getElementById('angles').data[0].y]")
        assert cosines == list(found.angles.columns)
        ticks = shown.evaluate(
            "[...document.querySelectorAll('#angles .xtick text')].map(text => Number(text.textContent))"
        )
        assert len(set(ticks)) == len(ticks) > 0
        rows = shown.locator("#rows tbody tr")
        assert rows.count() == len(found.rows)
        assert rows.first.locator("th").text_content() == str(found.rows[0].index)


def test_the_map_shows_what_is_asked_for(shown, result):
    shown.select_option("#measure", "rank")
    drawn = shown.evaluate(
        "(() => { const t = document.getElementById('map').data.find(t => t.visible); return [t.meta, t.z, t.customdata]; })()"
    )
    assert drawn[0] == "rank"
    there = {
        name: value
        for names, values in zip(drawn[2], drawn[1], strict=True)
        for name, value in zip(names, values, strict=True)
    }
    assert (
        there["encoder.layer.1.intermediate.dense.weight"]
        == result.details["encoder.layer.1.intermediate.dense.weight"].kept.rank
    )


def test_hovering_says_which_tensor_and_a_click_chooses_it(shown, loaded):
    shown.select_option("#measure", index=0)
    shown.evaluate("scrollTo(0, 0)")
    box = shown.locator("#map .nsewdrag").first.bounding_box()
    shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 10)
    shown.wait_for_selector("#map .hoverlayer text")
    assert "encoder.layer.1.intermediate.dense.weight" in shown.locator("#map .hoverlayer").text_content()
    shown.mouse.down()
    shown.mouse.up()
    loaded.until(CHOSEN + " === 'encoder.layer.1.intermediate.dense.weight'")


def test_logarithms_and_back(shown):
    axis = "document.getElementById('energy')._fullLayout.xaxis.type"
    shown.check("input[data-log=energy]")
    assert shown.evaluate(axis) == "log"
    shown.uncheck("input[data-log=energy]")
    assert shown.evaluate(axis) == "linear"
    box = shown.locator("input[data-log=spectrum][data-axis=y]")
    box.check()
    assert shown.evaluate("document.getElementById('spectrum')._fullLayout.yaxis.type") == "log"


def test_the_table_filters_sorts_and_chooses(shown, result):
    shown.fill("#filter", "query 2")
    visible = shown.locator("#tensors tbody tr:visible")
    rows, moved = visible.all_text_contents(), sum(1 for tensor in result.tensors if tensor.norm)
    assert 0 < len(rows) < moved
    assert all("query" in row and "2" in row for row in rows)
    assert shown.locator("#count").text_content() == f"{len(rows)} of {moved}"
    shown.fill("#filter", "")
    head = shown.locator("#tensors thead button", has_text="Moved")
    head.click()
    values = shown.eval_on_selector_all(
        "#tensors tbody td:nth-child(4)", "cells => cells.map(c => Number(c.dataset.value))"
    )
    assert values == sorted(values, reverse=True)
    head.click()
    values = shown.eval_on_selector_all(
        "#tensors tbody td:nth-child(4)", "cells => cells.map(c => Number(c.dataset.value))"
    )
    assert values == sorted(values)
    shown.click("#tensors button:text-is('encoder.layer.0.attention.self.query.weight')")
    assert shown.evaluate(CHOSEN) == "encoder.layer.0.attention.self.query.weight"


def test_a_keyboard_is_enough(shown):
    shown.select_option("#tensor", index=0)
    shown.focus("#next")
    shown.keyboard.press("Enter")
    second = shown.eval_on_selector("#tensor", "choice => choice.selectedIndex")
    shown.keyboard.press("Shift+Tab")
    shown.keyboard.press("Enter")
    assert (second, shown.eval_on_selector("#tensor", "choice => choice.selectedIndex")) == (1, 0)


def test_the_word_that_moved_is_named_and_cannot_break_out(shown):
    shown.select_option("#tensor", label="embeddings.word_embeddings.weight")
    assert shown.locator("#rows tbody tr").first.locator("td").first.text_content() == "</script><b>ß"


def test_paper_is_light(watched, page):
    watched.page.emulate_media(color_scheme="dark")
    shown = watched.open(page)
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    watched.until("document.getElementById('spectrum')._fullLayout.font.color === '#000'")


def test_two_that_are_equal_make_a_page_too(store, watched, tmp_path):
    page = tmp_path / "same.html"
    page.write_text(diff_page(store.diff("one", "one", details=True)), encoding="utf-8")
    shown = watched.open(page)
    assert "identical" in shown.locator("main").text_content()
    assert shown.locator(".chart").count() == 0
    assert watched.complaints == []


def test_a_base_a_checkpoint_and_an_expression_make_pages(store, watched, tmp_path):
    outside = write(tmp_path / "outside", moved(layers(1), 4))
    for name, (a, b) in {
        "base": ("base", "one"),
        "out": ("one", outside),
        "sum": ("base", "0.5*one + 0.5*two"),
    }.items():
        page = tmp_path / f"{name}.html"
        page.write_text(diff_page(store.diff(a, b, details=True)), encoding="utf-8")
        shown = watched.open(page)
        assert shown.locator("#spectrum .scatterlayer path").count() > 0
    assert watched.complaints == []


ODD = ("toString", "__proto__", "con<a href='https://example.org/'>structor</a>", "a\rb", "x" * 300)


def test_names_are_text_whatever_they_are(watched, tmp_path):
    noise = torch.Generator().manual_seed(1)
    base = {f"{name}.weight": torch.randn(12, 12, generator=noise) for name in ODD}
    base["zero.weight"] = torch.zeros(12, 12)
    store = Store.init(tmp_path / "store")
    for name, weights in (("base", base), ("tuned", {name: value + 0.1 for name, value in base.items()})):
        save_file(weights, tmp_path / f"{name}.safetensors")
    store.import_base(tmp_path / "base.safetensors", name="base")
    store.commit(tmp_path / "tuned.safetensors", base="base", name="tuned")
    page = tmp_path / "page.html"
    page.write_text(store.report("base", "tuned"), encoding="utf-8")
    watched.page.set_viewport_size({"width": 360, "height": 900})
    shown = watched.open(page)
    assert shown.locator(".chart a").count() == 0
    assert shown.locator("#map .ytick").count() == len(base)
    assert shown.locator("#storage .barlayer .point").count() == len(base)
    for place in range(len(base)):
        shown.select_option("#tensor", index=place)
    assert "grew from nothing" in shown.evaluate(
        "(() => { const c = document.getElementById('tensor'); c.selectedIndex = [...c.options].findIndex("
        "o => o.textContent === 'zero.weight'); c.dispatchEvent(new Event('change'));"
        " return document.getElementById('facts').textContent; })()"
    )
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360
    assert watched.complaints == []
