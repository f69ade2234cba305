"""Plots of bytes against loss, one SVG file a measure, legible on light and on dark pages."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from comparison import CURVES
from fidelity_page import LOSSES, METHODS, Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREY = "#808080"
"""Of text and axes: as far from white as from black."""
LOOKS = {
    **{curve: {"color": "#e4572e", "linewidth": 2, "marker": "o", "markersize": 3} for curve in CURVES.values()},
    "ere": {"color": "#2e86ab", "marker": "s", "markersize": 4},
    "lowrank-fp16": {"color": "#8e6bbf", "marker": "^", "markersize": 4},
    "bitq": {"color": "#3f9b55", "marker": "D", "markersize": 4, "linestyle": ""},
    "bitq-rows": {"color": "#3f9b55", "marker": "d", "markersize": 5, "linestyle": ""},
    "sign": {"color": "#b8860b", "marker": "X", "markersize": 5, "linestyle": ""},
    "sign-rows": {"color": "#b8860b", "marker": "x", "markersize": 5, "linestyle": ""},
}
COLUMNS = 3
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fidelity",
    "font.size": 8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}


def draw(results: Results, directory: Path) -> None:
    """Write ``fidelity-error.svg`` and ``fidelity-kl.svg`` to `directory`."""
    for loss, word in LOSSES.items():
        names = [name for name, found in results.items() if loss in found["yardsticks"][0]]
        if names:
            with mpl.rc_context(STYLE):
                figure = sheet({name: results[name] for name in names}, loss, word)
                text = io.StringIO()
                figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
            (directory / f"fidelity-{loss}.svg").write_text(shorter(text.getvalue()))


def shorter(svg: str) -> str:
    """Shorten an image by half: two decimals in coordinates, no indents, the style of markers once a series."""
    svg = re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.2f}", re.sub(r"\n\s+", "\n", svg))
    series = re.compile(r'<g( clip-path="[^"]*")?>\n((?:<use [^>]* (style="[^"]*")/>\n)+)</g>')
    return series.sub(lambda found: f"<g{found[1] or ''} {found[3]}>\n{found[2].replace(' ' + found[3], '')}</g>", svg)


def sheet(results: Results, loss: str, word: str) -> Figure:
    """Return one small plot a pair, with common legend."""
    rows = math.ceil(len(results) / COLUMNS)
    figure = Figure(figsize=(9, 2.4 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for place, (name, found) in zip(axes, results.items(), strict=False):
        plot(place, found, loss)
        place.set(title=name, xlabel="KiB", ylabel=word, xscale="log", yscale="log")
        place.set_ylim(bottom=min(point[loss] for point in found["ours"]) / 2)
        place.minorticks_off()
        for axis in (place.xaxis, place.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        place.grid(color=GREY, alpha=0.25, linewidth=0.5)
    for empty in axes[len(results) :]:
        empty.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot(axes: Axes, found: dict[str, Any], loss: str) -> None:
    """Draw every method's points."""
    points = [*(point for point in found["ours"] if point["method"] == CURVES[loss]), *found["yardsticks"]]
    for method, look in LOOKS.items():
        mine = sorted(
            (point["total"] / 1024, point[loss]) for point in points if point["method"] == method and point[loss] > 0
        )
        label = f"{METHODS[method]}, as the paper stores it" if method == "ere" else METHODS[method]
        axes.plot(*zip(*mine, strict=True), label=label, **look) if mine else None
    payload = [(point["payload"] / 1024, point[loss]) for point in points if point["method"] == "ere"]
    if payload:
        axes.plot(
            *zip(*payload, strict=True), label="ERE, payload alone", **LOOKS["ere"], linestyle=":", fillstyle="none"
        )
