"""Pages that hold all they need in one file: figures, their library, data, style. A policy forbids to fetch anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from erestore.errors import UsageError
from erestore.report.figures.layers import map_figure, measures, ratio_figure, storage_figure
from erestore.report.figures.spectra import angles_figure, energy_figure, spectrum_figure
from erestore.report.figures.style import graph_objects
from erestore.report.json_values import json_text
from erestore.report.sentences import sentences
from erestore.report.words import percent, rank_text, ratio_text
from erestore.results.diff import DiffResult, TensorDiff

if TYPE_CHECKING:
    from jinja2 import Environment
    from plotly import graph_objects as go


@dataclass(frozen=True)
class Chart:
    """A figure in a page.

    Attributes
    ----------
    name : str
        Of its element.
    figure : plotly.graph_objects.Figure
    """

    name: str
    figure: go.Figure

    @property
    def about(self) -> str:
        """What is to be seen, in a sentence."""
        text: str = self.figure.layout.meta["about"]
        return text

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.figure.layout.height)


def render(template: str, **values: Any) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        Name of a file in ``erestore/report/templates``.
    **values
        What it shows; charts as :class:`Chart`.

    Raises
    ------
    UsageError
        If Jinja or Plotly are not installed.
    """
    return environment().get_template(template).render(values)


def require_pages() -> None:
    """Make sure that pages can be made.

    Raises
    ------
    UsageError
        If Jinja or Plotly are not installed.
    """
    environment()
    graph_objects()


@cache
def environment() -> Environment:
    """Return the templates, escaping all that is put into them; for other packages to add a loader of their own to."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise UsageError("Pages need Jinja, which is not installed.", hint="pip install 'erestore[report]'") from None
    templates = Environment(
        loader=PackageLoader("erestore.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["zip"] = zip
    templates.globals |= {"asset": asset, "plotly": plotly_source, "embedded": embedded}
    return templates


@cache
def asset(name: str) -> str:
    """Return one of our own scripts or style sheets as markup."""
    from markupsafe import Markup

    return Markup(files("erestore.report").joinpath("assets", name).read_text(encoding="utf-8"))  # noqa: S704 - our own file


@cache
def plotly_source() -> str:
    """Return Plotly's script as markup."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704 - the library's own file


def embedded(value: Any) -> str:
    """Return a result, or a chart's figure, as JSON that cannot end the script element it stands in."""
    from markupsafe import Markup

    text = value.figure.to_json() if isinstance(value, Chart) else json_text(value, indent=None)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))  # noqa: S704 - no mark of HTML is left


def diff_page(result: DiffResult) -> str:
    """Return the page of a spectral diff that was made with details.

    Parameters
    ----------
    result : DiffResult
    """
    return render("diff.html.j2", **diff_values(result))


def diff_values(result: DiffResult) -> dict[str, Any]:
    """Return what the template ``diff.html.j2`` shows; see :func:`diff_page`."""
    details = result.details or {}
    # By number, as an attribute of HTML does not keep every character of a name; the first has changed most.
    numbered = sorted(enumerate(result.tensors), key=lambda entry: -(entry[1].share or 0.0))
    curved = {
        number: tensor.name for number, tensor in numbered if tensor.name in details and details[tensor.name].spectrum
    }
    charts = [Chart("map", map_figure(result)), Chart("ratios", ratio_figure(result))] if curved or details else []
    first = next(iter(curved.values()), "")
    if curved:
        spectrum = details[first].spectrum
        assert spectrum is not None
        charts += [Chart("spectrum", spectrum_figure(spectrum)), Chart("energy", energy_figure(spectrum))]
    if any(entry.angles for entry in details.values()):
        charts.append(Chart("angles", angles_figure(details[first].angles)))
    if any(entry.kept for entry in details.values()):
        charts.append(Chart("storage", storage_figure(result)))
    return {
        "title": f"{result.a.name} → {result.b.name}",
        "result": result,
        "lines": list(sentences(result)),
        "charts": {chart.name: chart for chart in charts},
        "measures": measures(result),
        "curved": curved,
        "rows": [_row(number, tensor) for number, tensor in numbered if tensor.norm],
    }


def _row(number: int, tensor: TensorDiff) -> Mapping[str, Any]:
    """Return a row of the table: what is read, and what it sorts by."""
    cells = (
        (percent(tensor.share), tensor.share),
        (percent(tensor.relative_norm), tensor.relative_norm),
        (rank_text(tensor.effective_rank, tensor.full_rank), tensor.effective_rank),
        (ratio_text(tensor.effective_rank_ratio), tensor.effective_rank_ratio),
        (percent(tensor.energy_in_tenth), tensor.energy_in_tenth),
    )
    shape = "×".join(map(str, tensor.shape)) or "1"
    sortable = [(text, json.dumps(_finite(value))) for text, value in cells]
    return {"place": number, "name": tensor.name, "shape": shape, "cells": sortable}


def _finite(value: float | None) -> float:
    """Return a number that sorts: absent ones last, infinite ones first."""
    return -1.0 if value is None else min(value, 1e300)
