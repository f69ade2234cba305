"""Plotly's figures as SVG files, drawn by a headless Chromium, in a grey that is legible on light and on dark."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).parents[1]))

import browsing
from playwright.sync_api import sync_playwright

from erestore.report.pages import plotly_source

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def draw(figures: Mapping[str, Figure], directory: Path, width: int, height: int) -> None:
    """Write every figure to ``NAME.svg`` in a directory, in pixels of `width` x `height`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browsing.program(), args=list(browsing.ARGUMENTS))
        page = browser.new_page()
        page.set_content(f"<div id=here></div><script>{plotly_source()}</script>")
        for name, figure in figures.items():
            drawn = figure.update_layout(margin={"l": 8, "r": 12, "t": 12, "b": 8})
            image = page.evaluate(
                "([figure, width, height]) => Plotly.toImage({data: figure.data, layout: figure.layout}, "
                "{format: 'svg', width, height})",
                [json.loads(drawn.to_json()), width, height],
            )
            (directory / f"{name}.svg").write_text(unquote(image.partition(",")[2]) + "\n", encoding="utf-8")
        browser.close()
