"""What a probe found: the paper's figures 4 (noise and low rank), 7 (rank allocation) and 8 (Stiefel projection)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from erestore.errors import UsageError
from erestore.report.figures.style import BLUE, GREY, ORANGE, figure, graph_objects
from erestore.results.probe import Point, ProbeResult

if TYPE_CHECKING:
    from plotly import graph_objects as go

Measure = Literal["cosine", "error"]
"""What is drawn: the cosine of features, or the squared error of the weights over the squared norm of the residual."""

_TICKS = 10
"""Settings up to which each has its own tick."""
_LOOKS = ({"color": BLUE, "width": 2.5}, {"color": ORANGE, "width": 2, "dash": "dash"})
_TITLES = {"cosine": "cosine of features", "error": "squared error / residual's"}
_WHAT = {"cosine": "Cosine of features", "error": "Squared error of the weights"}


def measures(result: ProbeResult) -> tuple[Measure, ...]:
    """Return what can be drawn of a result, what says most first."""
    return ("cosine", "error") if result.features else ("error",)


def perturb_figure(result: ProbeResult, measure: Measure | None = None) -> go.Figure:
    """Draw what noise does to all weights and to the residual alone, against its deviation (ERE, figure 4a).

    Parameters
    ----------
    result : ProbeResult
    measure : {"cosine", "error"}, optional
        By default the cosine of features, where there are any.

    Raises
    ------
    UsageError
        If the probe was not run, or no features were looked at.
    """
    measure = _measure(result, measure)
    if result.perturb is None:
        raise _missing("perturb")
    lines = {name: [p for p in result.perturb.points if p.part == name] for name in ("residual", "weights")}
    traces = [
        _line(f"noise on the {name}", [p.sigma for p in points], points, measure, number, name)
        for number, (name, points) in enumerate(lines.items())
    ]
    sigmas = [point.sigma for point in result.perturb.points]
    return figure(
        [*traces, *_base(result, measure, min(sigmas), max(sigmas))],
        x="deviation of the noise",
        y=_TITLES[measure],
        about=f"{_WHAT[measure]} against the deviation of log-normal noise, on all weights and on the residual alone.",
        xaxis=_sigma_axis(sorted(set(sigmas))),
        yaxis=_axis(measure, is_log=True),
    )


def truncate_figure(result: ProbeResult, measure: Measure | None = None) -> go.Figure:
    """Draw what lower rank of all matrices does, and of their residuals alone (ERE, figure 4b); see :func:`perturb_figure`."""
    measure = _measure(result, measure)
    if result.truncate is None:
        raise _missing("truncate")
    lines = {name: [p for p in result.truncate.points if p.part == name] for name in ("residual", "weights")}
    traces = [
        _line(f"{name} of lower rank", [p.share for p in points], points, measure, number, name)
        for number, (name, points) in enumerate(lines.items())
    ]
    shares = [point.share for point in result.truncate.points]
    return figure(
        [*traces, *_base(result, measure, max(shares), min(shares))],
        x="share of the rank that is kept",
        y=_TITLES[measure],
        about=f"{_WHAT[measure]} against the share of the rank that is kept, of all matrices and of their residuals.",
        xaxis={"autorange": "reversed", "tickformat": ".0%"},
        yaxis=_axis(measure, is_log=True),
    )


def allocation_figure(result: ProbeResult, measure: Measure | None = None) -> go.Figure:
    """Draw rank allocation against uniform ranks, by alpha (ERE, figure 7); see :func:`perturb_figure`."""
    measure = _measure(result, measure)
    if result.allocation is None:
        raise _missing("allocation")
    points = [point for point in result.allocation.points if point.alpha is not None]
    alphas = [point.alpha or 0.0 for point in points]
    (uniform,) = (point for point in result.allocation.points if point.alpha is None)
    details = [[f"{point.bytes:,}", point.layers_without] for point in points]
    curve = _line("ranks by allocation", alphas, points, measure, 0, "ere")
    curve.customdata = details
    curve.hovertemplate = (
        "alpha %{x}: %{y:.5g}<br>%{customdata[0]} bytes, layers without a rank: %{customdata[1]}<extra></extra>"
    )
    ends = [min(alphas), max(alphas)]
    level = _line("the same rank for all", ends, [uniform, uniform], measure, 1, "uniform")
    level.mode = "lines"
    return figure(
        [curve, level],
        x="alpha, weight of the prior rank",
        y=_TITLES[measure],
        about=f"{_WHAT[measure]} against the weight of the prior rank, with uniform ranks as a level line.",
        yaxis=_axis(measure),
    )


def stiefel_figure(result: ProbeResult, measure: Measure | None = None) -> go.Figure:
    """Draw decoding with and without the projection, by bits (ERE, figure 8); see :func:`perturb_figure`."""
    measure = _measure(result, measure)
    if result.stiefel is None:
        raise _missing("stiefel")
    names = {True: "projected", False: "not projected"}
    lines = {name: [p for p in result.stiefel.points if p.projected == value] for value, name in names.items()}
    traces = [
        _line(name, [p.bits for p in points], points, measure, number, name.replace(" ", "-"))
        for number, (name, points) in enumerate(lines.items())
    ]
    return figure(
        traces,
        x="bits a code",
        y=_TITLES[measure],
        about=f"{_WHAT[measure]} against bits, with and without projection to the nearest Stiefel matrices.",
        xaxis={"dtick": 1},
        yaxis=_axis(measure),
    )


def _measure(result: ProbeResult, measure: Measure | None) -> Measure:
    available = measures(result)
    if measure is not None and measure not in available:
        raise UsageError(
            f"This probe has no {measure} to draw.",
            hint=f"Draw {' or '.join(available)}, or probe with inputs of the model.",
        )
    return measure or available[0]


def _missing(probe: str) -> UsageError:
    return UsageError(f"The probe '{probe}' was not run.", hint="Select it in the settings of the probe.")


def _line(
    name: str, x: Sequence[float], points: Sequence[Point], measure: Measure, number: int, kind: str
) -> go.Scatter:
    return graph_objects().Scatter(
        x=list(x),
        # Where nothing is lost there is no logarithm to draw.
        y=[point.cosine if measure == "cosine" else point.relative_error or None for point in points],
        name=name,
        mode="lines+markers",
        line=_LOOKS[number],
        meta=f"{kind}.{measure}",
        hovertemplate="%{x}: %{y:.5g}<extra>%{fullData.name}</extra>",
    )


def _base(result: ProbeResult, measure: Measure, first: float, last: float) -> list[go.Scatter]:
    """Return a level line at what is left when all of the residual is gone."""
    level = result.features.base_cosine if measure == "cosine" and result.features else None
    if measure == "error":
        level = 1.0
    if level is None:
        return []
    return [
        graph_objects().Scatter(
            x=[first, last],
            y=[level, level],
            name="no residual",
            mode="lines",
            line={"color": GREY, "width": 2, "dash": "dot"},
            meta=f"base.{measure}",
            hovertemplate="without the residual: %{y:.5g}<extra></extra>",
        )
    ]


def _sigma_axis(sigmas: Sequence[float]) -> dict[str, Any]:
    axis: dict[str, Any] = {"type": "log" if sigmas[0] > 0 else "linear"}
    if len(sigmas) <= _TICKS and axis["type"] == "log":
        axis |= {"tickvals": list(sigmas), "ticktext": [f"{sigma:g}" for sigma in sigmas]}
    return axis


def _axis(measure: Measure, *, is_log: bool = False) -> dict[str, Any]:
    if measure == "cosine":
        return {"tickformat": ".5~g"}
    return {"type": "log", "dtick": 1, "tickformat": "~g"} if is_log else {"tickformat": ".0%"}
