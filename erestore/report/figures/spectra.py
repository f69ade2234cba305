"""One tensor's difference by rank: its singular values beside the base's and those of noise, and the energy they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from erestore.errors import UsageError
from erestore.report.figures.style import (
    BLUE,
    DASHES,
    GREY,
    ORANGE,
    SERIES,
    figure,
    graph_objects,
    label,
    whole_numbers,
)
from erestore.results.diff_details import Angles, Spectrum

if TYPE_CHECKING:
    from plotly import graph_objects as go

RANK = "rank, as a share of full rank"


def shares(spectrum: Spectrum) -> list[float]:
    """Return the ranks of a spectrum over full rank."""
    return [rank / spectrum.ranks[-1] for rank in spectrum.ranks]


def spectrum_figure(spectrum: Spectrum) -> go.Figure:
    """Draw singular values over the largest (ERE, Figure 2): a difference, its base, and noise of the same shape."""
    scatter, x = graph_objects().Scatter, shares(spectrum)
    lines = (
        ("change", spectrum.change, {"color": BLUE, "width": 2.5}),
        ("base", spectrum.base, {"color": ORANGE, "width": 2, "dash": "dash"}),
        ("noise", spectrum.noise, {"color": GREY, "width": 2, "dash": "dot"}),
    )
    names = {"change": "difference", "base": "base", "noise": "noise (Marchenko-Pastur)"}
    traces = [
        scatter(x=x, y=y or [], name=names[kind], mode="lines", line=line, meta=f"spectrum.{kind}")
        for kind, y, line in lines
    ]
    about = "Singular values of the difference, of the base and of noise, each over its largest, against rank."
    return figure(traces, x=RANK, y="singular value / largest", about=about, hovermode="x unified")


def spectra_figure(spectra: Mapping[str, Spectrum]) -> go.Figure:
    """Draw the singular values of several differences of one tensor, such as one of every version (ERE, Figure 2).

    Parameters
    ----------
    spectra : Mapping[str, Spectrum]
        By what they are called; base and noise are drawn once.

    Raises
    ------
    UsageError
        If there is none.
    """
    if not spectra:
        raise UsageError("There is no spectrum to draw.", hint="Compare matrices that differ, with details.")
    scatter, entries = graph_objects().Scatter, list(spectra.items())
    traces = [
        scatter(
            x=shares(spectrum),
            y=spectrum.change,
            name=label(name),
            mode="lines",
            line={
                "color": SERIES[number % len(SERIES)],
                "dash": DASHES[number // len(SERIES) % len(DASHES)],
                "width": 2,
            },
        )
        for number, (name, spectrum) in enumerate(entries)
    ]
    last = entries[-1][1]
    traces += [
        scatter(x=shares(last), y=y, name=name, mode="lines", line={"color": GREY, "width": 2, "dash": dash})
        for name, y, dash in (("base", last.base, "dash"), ("noise (Marchenko-Pastur)", last.noise, "dot"))
        if y is not None
    ]
    about = "Singular values of several differences of one tensor, of its base and of noise, each over its largest."
    return figure(traces, x=RANK, y="singular value / largest", about=about, hovermode="x unified")


def energy_figure(spectrum: Spectrum) -> go.Figure:
    """Draw how much of the squared norm the leading components hold: of a difference, and of its base."""
    scatter, x = graph_objects().Scatter, shares(spectrum)
    traces = [
        scatter(x=x, y=spectrum.energy, name="difference", mode="lines", line={"color": BLUE, "width": 2.5}),
        scatter(
            x=x,
            y=spectrum.base_energy or [],
            name="base",
            mode="lines",
            line={"color": ORANGE, "width": 2, "dash": "dash"},
        ),
    ]
    for trace, kind in zip(traces, ("energy", "base_energy"), strict=True):
        trace.meta = f"spectrum.{kind}"
    about = "Share of the squared norm in the components up to each rank, of the difference and of the base."
    return figure(
        traces,
        x=RANK,
        y="energy captured",
        about=about,
        hovermode="x unified",
        yaxis={"range": [0, 1.02], "tickformat": ".0%"},
    )


def angles_figure(angles: Angles | None) -> go.Figure:
    """Draw the cosines of the principal angles between the changes of two variants; 1 is a direction that they share."""
    scatter = graph_objects().Scatter
    traces = []
    for kind, name, color in (("columns", "column spaces (outputs)", BLUE), ("rows", "row spaces (inputs)", ORANGE)):
        cosines = getattr(angles, kind) if angles else ()
        chance = [getattr(angles, f"{kind.removesuffix('s')}_chance") ** 0.5] * len(cosines) if angles else []
        x = list(range(1, len(cosines) + 1))
        traces += [
            scatter(x=x, y=cosines, name=name, mode="lines+markers", line={"color": color}, meta=f"angles.{kind}"),
            scatter(
                x=x,
                y=chance,
                name="the same by chance",
                mode="lines",
                line={"color": color, "dash": "dot"},
                meta=f"angles.{kind}.chance",
            ),
        ]
    about = (
        "Cosines of the principal angles between the two changes, largest first, and what unrelated spaces would have."
    )
    return figure(
        traces,
        x="principal angle",
        y="cosine",
        about=about,
        yaxis={"range": [0, 1.05]},
        xaxis={
            "rangemode": "tozero",
            "nticks": 8,
            **whole_numbers(0, max((len(trace.x) for trace in traces), default=0)),
        },
    )
