"""Many variants at once: how alike they are, and what they take."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Protocol

import numpy as np

from erestore.report.columns import shorten
from erestore.report.figures.style import BLUE, GREY, ORANGE, figure, graph_objects
from erestore.report.seriation import clustered

if TYPE_CHECKING:
    from plotly import graph_objects as go

DIVERGING = [[0.0, "#a8401a"], [0.25, "#e09a6b"], [0.5, "#f2f2f2"], [0.75, "#6fa3d8"], [1.0, "#14437f"]]
"""Opposite, unrelated, alike: told apart by the colour-blind."""
NAMED = 48
"""Variants up to which the axes name each, beyond as many as there is room for."""
WRITTEN = 12
"""Variants up to which the numbers are written into the cells."""
_LABEL = 28


class Similar(Protocol):
    """What ``similar`` found; see :class:`erestore.ops.similar.SimilarResult`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Variants."""

    @property
    def matrix(self) -> tuple[tuple[float | None, ...], ...]:
        """Cosines."""


class SpaceUsage(Protocol):
    """What a name takes; see :class:`erestore.ops.du.Usage`."""

    @property
    def name(self) -> str:
        """Branch or tag."""

    @property
    def own_bytes(self) -> int:
        """Of objects that nothing else needs."""

    @property
    def shared_bytes(self) -> int:
        """Of others."""

    @property
    def original_bytes(self) -> int:
        """Of its checkpoint."""


class Totals(Protocol):
    """What a store takes; see :class:`erestore.ops.du.DuResult`."""

    @property
    def reachable_bytes(self) -> int:
        """Of what is reachable from names."""

    @property
    def other_bytes(self) -> int:
        """Of the rest."""

    @property
    def separate_bytes(self) -> int:
        """Of separate checkpoints."""


def similarity_figure(similarity: Similar, order: Sequence[int] | None = None) -> go.Figure:
    """Draw cosines of all pairs as a heat map, by default so ordered that variants that are alike stand together.

    Parameters
    ----------
    similarity : Similar
    order : sequence of int, optional
        Of the variants.
    """
    order = clustered(similarity.matrix) if order is None else list(order)
    count = len(order)
    cosines = np.array(similarity.matrix, dtype=np.float32).reshape(count, count)[np.ix_(order, order)]
    names = [escape(similarity.names[index], quote=False) for index in order]
    heatmap = graph_objects().Heatmap(
        x=names,
        y=names,
        z=cosines,
        zmin=-1,
        zmax=1,
        colorscale=DIVERGING,
        colorbar={"thickness": 12, "outlinewidth": 0, "tickvals": [-1, -0.5, 0, 0.5, 1]},
        hoverongaps=False,
        hovertemplate="%{y}<br>%{x}<br>cosine %{z:.3f}<extra></extra>",
        texttemplate="%{z:.2f}" if count <= WRITTEN else None,
    )
    ticks = {"tickvals": names, "ticktext": [shorten(name, _LABEL) for name in names]} if count <= NAMED else {}
    font = {"size": 13 if count <= NAMED // 2 else 10}
    axis = {"type": "category", "showgrid": False, "showline": False, "tickfont": font, **ticks}
    return figure(
        [heatmap],
        x="",
        y="",
        about="Heat map of the cosines between all pairs of variants; those that are alike stand together.",
        legend=False,
        height=min(760, 180 + 26 * max(8, count)),
        xaxis={**axis, "tickangle": -60, "range": [-0.5, count - 0.5]},
        yaxis={**axis, "range": [count - 0.5, -0.5]},
    )


def usage_figure(usages: Sequence[SpaceUsage], most: int = 40) -> go.Figure:
    """Draw what names take, own and shared bytes on top of each other, those that take most first.

    Parameters
    ----------
    usages : sequence of SpaceUsage
    most : int
        Names that are drawn.
    """
    largest = sorted(usages, key=lambda usage: (-(usage.own_bytes + usage.shared_bytes), usage.name))[:most]
    names = [usage.name for usage in largest]
    places = list(range(len(names)))
    traces = [
        graph_objects().Bar(
            y=places,
            x=[getattr(usage, field) for usage in largest],
            customdata=names,
            hovertext=[
                f"{escape(usage.name, quote=False)}: {getattr(usage, field):,} bytes {title}" for usage in largest
            ],
            hoverinfo="text",
            name=title,
            orientation="h",
            marker={"color": color},
            meta=field,
        )
        for field, title, color in (("own_bytes", "own", BLUE), ("shared_bytes", "shared", GREY))
    ]
    return figure(
        traces,
        x="bytes",
        y="",
        about="What each name takes in the store, own and shared bytes.",
        height=110 + 20 * max(3, len(names)),
        # Room for any of the names: to find it by drawing twice takes twice as long.
        margin={"l": 12 + 7 * max((len(shorten(usage.name, _LABEL)) for usage in usages), default=0), "r": 28, "b": 44},
        barmode="stack",
        legend_traceorder="normal",
        xaxis={"automargin": False, "rangemode": "tozero"},
        yaxis={
            "automargin": False,
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
            "tickvals": places,
            "ticktext": [escape(shorten(name, _LABEL), quote=False) for name in names],
        },
    )


def totals_figure(totals: Totals) -> go.Figure:
    """Draw what a store takes beside what separate checkpoints would."""
    parts = (
        ("this store", "reachable from names", totals.reachable_bytes, BLUE),
        ("this store", "the rest", totals.other_bytes, GREY),
        ("checkpoints", "separate checkpoints", totals.separate_bytes, ORANGE),
    )
    traces = [
        graph_objects().Bar(
            y=[where],
            x=[size],
            name=what,
            orientation="h",
            marker={"color": color},
            hovertemplate=f"{what}: %{{x:,}} bytes<extra></extra>",
        )
        for where, what, size, color in parts
    ]
    return figure(
        traces,
        x="bytes",
        y="",
        about="What the store takes, and what separate checkpoints would take.",
        height=190,
        barmode="stack",
        legend_traceorder="normal",
        xaxis={"rangemode": "tozero"},
        yaxis={"type": "category", "autorange": "reversed", "showgrid": False},
    )
