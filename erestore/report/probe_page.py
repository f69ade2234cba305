"""The page of a probe: figures and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from erestore.report.figures.probes import (
    allocation_figure,
    measures,
    perturb_figure,
    stiefel_figure,
    truncate_figure,
)
from erestore.report.pages import Chart, render
from erestore.report.probe_text import columns, legend, sentences, title
from erestore.results.probe import ProbeResult

if TYPE_CHECKING:
    from plotly import graph_objects as go

_FIGURES: dict[str, tuple[str, Callable[..., go.Figure]]] = {
    "perturb": ("Noise", perturb_figure),
    "truncate": ("Low rank", truncate_figure),
    "allocation": ("Rank allocation", allocation_figure),
    "stiefel": ("Stiefel projection", stiefel_figure),
}


_CAPTIONS = {
    "cosine": "Mean cosine with what the unaltered variant answers; 1 means no difference.",
    "error": "What the weights lose, over the squared norm of the residual.",
}


def probe_page(result: ProbeResult) -> str:
    """Return the page of a probe.

    Parameters
    ----------
    result : ProbeResult
    """
    sections = []
    for name, (heading, draw) in _FIGURES.items():
        part = getattr(result, name)
        if part is not None:
            charts = [
                (Chart(f"{name}-{measure}", draw(result, measure)), _CAPTIONS[measure]) for measure in measures(result)
            ]
            sections.append(
                {"name": name, "heading": heading, "title": title(part), "charts": charts, "table": columns(part)}
            )
    return render(
        "probe.html.j2",
        title=f"{result.revision}: robustness",
        result=result,
        lines=list(sentences(result)),
        legend=legend(result),
        sections=sections,
    )
