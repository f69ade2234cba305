"""How all figures look: one font, few colours that are legible on light and on dark, axes without boxes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from erestore.errors import UsageError

if TYPE_CHECKING:
    from plotly import graph_objects as go

BLUE, ORANGE, GREEN, PURPLE, GREY = "#2f7fd1", "#d0621f", "#2a9163", "#8a63c9", "#808080"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, "#b8860b", "#c2487f", "#4a7f8c", "#7a6a4f")
"""Each at least 3:1 against white and against the dark background of pages (WCAG 1.4.11), and told apart by the colour-blind
by lightness and dashes as well."""
DASHES = ("solid", "dash", "dot", "dashdot")
SCALE = "Viridis"


def graph_objects() -> Any:
    """Return ``plotly.graph_objects``.

    Raises
    ------
    UsageError
        If Plotly is not installed.
    """
    try:
        from plotly import graph_objects as go
    except ImportError:
        raise UsageError(
            "Figures need Plotly, which is not installed.", hint="pip install 'erestore[report]'"
        ) from None
    return go


def label(text: str) -> str:
    """Return a name for a label: Plotly reads markup in it, links too, and names come from anywhere."""
    return escape(text, quote=False)


def figure(
    traces: Sequence[Any], *, x: str, y: str, about: str, height: int = 340, legend: bool = True, **layout: Any
) -> go.Figure:
    """Put traces into a figure.

    Parameters
    ----------
    traces : sequence
        Of Plotly.
    x, y : str
        Titles of the axes.
    about : str
        One sentence that says what is to be seen, for those who cannot see it; kept in ``layout.meta``.
    height : int
        Pixels.
    legend : bool
    **layout
        More of Plotly's layout.
    """
    go = graph_objects()
    axis = {
        "automargin": True,
        "zeroline": False,
        "showline": True,
        "linecolor": GREY,
        "gridcolor": _FAINT,
        "ticks": "",
        # To see whether a label leaves its chart takes a layout of the page for each: as long as all else together.
        "ticklabeloverflow": "allow",
    }
    fig = go.Figure(traces)
    fig.update_layout(
        template="none",
        meta={"about": about},
        height=height,
        margin={"l": 8, "r": 8, "t": 12, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        colorway=SERIES,
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"namelength": -1},
        xaxis={**axis, "title": {"text": x}},
        yaxis={**axis, "title": {"text": y}},
    )
    fig.update_layout(**layout)
    return fig


def whole_numbers(start: float, stop: float) -> dict[str, Any]:
    """Return how an axis of whole numbers is labelled, which Plotly divides into halves where it is short."""
    return {"tickformat": "d", "dtick": 1 if stop - start < _FEW else None}


_FEW = 8
"""Whole numbers that are each written on an axis; pages have the same number."""
_FAINT = "rgba(128,128,128,0.25)"
