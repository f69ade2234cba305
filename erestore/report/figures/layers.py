"""A difference over the model: a map of depth by kind of module, and kinds followed through the depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erestore.checkpoint.module_kind import Place, kind_order, places
from erestore.report.columns import shorten
from erestore.report.figures.style import BLUE, DASHES, SCALE, SERIES, figure, graph_objects, label
from erestore.results.diff import DiffResult, TensorDiff
from erestore.results.diff_details import Details

if TYPE_CHECKING:
    from plotly import graph_objects as go


@dataclass(frozen=True)
class Measure:
    """Something that is known of a tensor that differs.

    Attributes
    ----------
    key, title : str
    unit : str
        d3's format of its values.
    of : Callable
        None where it is not known.
    log : bool
        Whether its colours are of its logarithm.
    """

    key: str
    title: str
    unit: str
    of: Callable[[TensorDiff, Details], float | None]
    log: bool = False


def _kept(field: str) -> Callable[[TensorDiff, Details], float | None]:
    def of(tensor: TensorDiff, details: Details) -> float | None:
        entry = details.get(tensor.name)
        value: float | None = getattr(entry.kept, field) if entry and entry.kept else None
        return value

    return of


def _shared(tensor: TensorDiff, details: Details) -> float | None:
    """Return the mean squared cosine of the principal angles of column spaces."""
    entry = details.get(tensor.name)
    if not (entry and entry.angles and entry.angles.columns):
        return None
    return sum(value**2 for value in entry.angles.columns) / len(entry.angles.columns)


MEASURES = (
    Measure(
        "moved",
        "how far it moved: norm of the difference over that of the tensor",
        ".2%",
        lambda t, _: t.relative_norm,
        True,
    ),
    Measure("share", "share of the whole squared change", ".2%", lambda t, _: t.share, True),
    Measure("ratio", "effective rank of the difference over the base's", ".2f", lambda t, _: t.effective_rank_ratio),
    Measure("tenth", "energy in a tenth of the ranks", ".0%", lambda t, _: t.energy_in_tenth),
    Measure("rank", "rank stored", "d", _kept("rank")),
    Measure("bits", "bits stored for each element", ".2f", _kept("bits")),
    Measure("error", "relative error left", ".2e", _kept("relative_error"), True),
    Measure("shared", "directions in common with the other variant (mean squared cosine)", ".2f", _shared),
)
"""What the map can show."""


def measures(result: DiffResult) -> list[Measure]:
    """Return the measures that are known of any tensor."""
    details = result.details or {}
    return [
        measure for measure in MEASURES if any(measure.of(tensor, details) is not None for tensor in result.tensors)
    ]


@dataclass(frozen=True)
class Grid:
    """Tensors by kind of module and depth.

    Attributes
    ----------
    kinds : tuple of str
        In the order in which a model has them.
    depths : tuple of int or None
        Ascending; None, where there is one, for what is outside the layers.
    cells : Mapping[(str, int or None), TensorDiff]
        Of several at one place the one with the most of the squared change.
    """

    kinds: tuple[str, ...]
    depths: tuple[int | None, ...]
    cells: Mapping[tuple[str, int | None], TensorDiff]

    @classmethod
    def of(cls, tensors: Sequence[TensorDiff]) -> Grid:
        """Place all tensors that differ by numbers."""
        moved = sorted((tensor for tensor in tensors if tensor.norm), key=lambda tensor: tensor.norm or 0.0)
        positions = places([tensor.name for tensor in tensors])
        cells = {(positions[tensor.name].row, positions[tensor.name].depth): tensor for tensor in moved}
        rows = {position.row: (kind_order(position.kind), position.row) for position in positions.values()}
        kinds = sorted({kind for kind, _ in cells}, key=rows.__getitem__)
        inside = sorted({depth for _, depth in cells if depth is not None})
        outside = (None,) if any(depth is None for _, depth in cells) else ()
        return cls(tuple(kinds), (*inside, *outside), cells)


def map_figure(result: DiffResult) -> go.Figure:
    """Draw every measure as a heat map of depth (across) by kind of module (down); the first is visible.

    A cell's tensor is its `customdata`.
    """
    heatmap, grid = graph_objects().Heatmap, Grid.of(result.tensors)
    across = ["outside" if depth is None else str(depth) for depth in grid.depths]
    down = [label(shorten(kind, _LABEL)) for kind in grid.kinds]
    rows = [[grid.cells.get((kind, depth)) for depth in grid.depths] for kind in grid.kinds]
    names = [[tensor.name if tensor else "" for tensor in row] for row in rows]
    traces = [
        heatmap(
            x=list(range(len(across))),
            y=list(range(len(down))),
            z=_colours(measure, rows, result.details or {}),
            text=[[_text(measure, tensor, result.details or {}) for tensor in row] for row in rows],
            customdata=names,
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            colorscale=SCALE,
            colorbar=_colorbar(
                measure, [_value(measure, tensor, result.details or {}) for row in rows for tensor in row]
            ),
            xgap=1,
            ygap=1,
            visible=number == 0,
            meta=measure.key,
        )
        for number, measure in enumerate(measures(result))
    ]
    about = "Heat map of depth by kind of module: how far each tensor moved, or another measure."
    return figure(
        traces,
        x="layer",
        y="",
        about=about,
        legend=False,
        height=120 + 24 * max(3, len(grid.kinds)),
        xaxis={
            "tickvals": _sparse(range(len(across)), grid.depths),
            "ticktext": _sparse(across, grid.depths),
            "showgrid": False,
        },
        yaxis={"autorange": "reversed", "tickvals": list(range(len(down))), "ticktext": down, "showgrid": False},
    )


def _sparse(values: Sequence[Any], depths: Sequence[int | None]) -> list[Any]:
    """Return what of each column is labelled: all of a few layers, every fifth of many, and what is outside."""
    every = 1 if len(depths) <= _FEW else 5
    return [value for value, depth in zip(values, depths, strict=True) if depth is None or depth % every == 0]


_FEW = 16


def _value(measure: Measure, tensor: TensorDiff | None, details: Details) -> float | None:
    value = measure.of(tensor, details) if tensor else None
    return value if value is not None and math.isfinite(value) else None


def _colours(
    measure: Measure, rows: Sequence[Sequence[TensorDiff | None]], details: Details
) -> list[list[float | None]]:
    """Return what colours stand for; what grew from nothing has that of the largest there is."""
    values = [[measure.of(tensor, details) if tensor else None for tensor in row] for row in rows]
    largest = max((value for row in values for value in row if value is not None and value < math.inf), default=1.0)

    def colour(value: float | None) -> float | None:
        if value is None or not (value > 0 or not measure.log):
            return None
        value = min(value, largest)
        return math.log10(value) if measure.log else value

    return [[colour(value) for value in row] for row in values]


def _text(measure: Measure, tensor: TensorDiff | None, details: Details) -> str:
    if tensor is None:
        return ""
    value = measure.of(tensor, details)
    said = "-" if value is None else "∞" if math.isinf(value) else format(value, measure.unit)
    return f"{label(tensor.name)}<br>{said}"


def _colorbar(measure: Measure, values: Sequence[float | None]) -> dict[str, Any]:
    """Return a bar that says values, not their logarithms: at powers of ten, between them at 2 and 5 where there are few."""
    bar: dict[str, Any] = {"thickness": 12, "outlinewidth": 0}
    nonzero = [value for value in values if value]
    if not measure.log or not nonzero:
        return bar | {"tickformat": measure.unit}
    low, high = math.floor(math.log10(min(nonzero))), math.ceil(math.log10(max(nonzero)))
    steps = (1,) if high - low > 2 else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return bar | {"tickvals": [math.log10(tick) for tick in ticks], "ticktext": [f"{tick:.1g}" for tick in ticks]}


def ratio_figure(result: DiffResult) -> go.Figure:
    """Draw the effective rank of the difference over the base's through the depth, a line a kind of module (ERE, Figure 3)."""
    scatter, grid = graph_objects().Scatter, Grid.of(result.tensors)
    traces: list[go.Scatter] = []
    for kind in grid.kinds:
        entries = [(depth, grid.cells.get((kind, depth))) for depth in grid.depths if depth is not None]
        points = [(depth, tensor) for depth, tensor in entries if tensor and tensor.effective_rank_ratio is not None]
        if len(points) < _FEWEST:
            continue
        number = len(traces)
        traces.append(
            scatter(
                x=[depth for depth, _ in points],
                y=[tensor.effective_rank_ratio for _, tensor in points],
                customdata=[tensor.name for _, tensor in points],
                text=[label(tensor.name) for _, tensor in points],
                name=label(kind),
                mode="lines+markers",
                line={"color": SERIES[number % len(SERIES)], "dash": DASHES[number // 2 % len(DASHES)]},
                hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            )
        )
    about = "Effective rank of the difference over that of the base, layer by layer, for each kind of module."
    return figure(
        traces,
        x="layer",
        y="effective rank / base's",
        about=about,
        height=400,
        xaxis=_whole(grid.depths),
        yaxis={"rangemode": "tozero"},
    )


def _whole(depths: Sequence[int | None]) -> dict[str, Any]:
    """Return an axis of layers whose ticks are layers."""
    return {"tick0": 0, "dtick": max(1, math.ceil(len(depths) / _FEW))}


_FEWEST = 2
"""Layers that a line joins."""


def storage_figure(result: DiffResult, most: int = 30) -> go.Figure:
    """Draw what the tensors that take most take in the store; rank, bits and the error left are said of each."""
    details = result.details or {}
    largest = sorted(
        ((name, entry.kept) for name, entry in details.items() if entry.kept and entry.kept.bytes),
        key=lambda item: -item[1].bytes,
    )[:most]
    names, positions = [name for name, _ in largest], places([tensor.name for tensor in result.tensors])
    bar = graph_objects().Bar(
        y=list(range(len(names))),
        hovertext=[label(name) for name in names],
        x=[stored.bytes for _, stored in largest],
        customdata=[
            [
                "" if stored.rank is None else f", rank {stored.rank}",
                f"{stored.bits:.2f}",
                "" if stored.relative_error is None else f", error left {stored.relative_error:.2e}",
                " + ".join(stored.sections),
            ]
            for _, stored in largest
        ],
        orientation="h",
        marker={"color": BLUE},
        hovertemplate="%{hovertext}: %{x:,} bytes, %{customdata[1]} bits an element%{customdata[0]}%{customdata[2]}"
        "<br>%{customdata[3]}<extra></extra>",
    )
    about = "Bytes that each tensor takes in the store, largest first."
    return figure(
        [bar],
        x="bytes",
        y="",
        about=about,
        legend=False,
        height=100 + 20 * max(3, len(largest)),
        xaxis={"rangemode": "tozero"},
        yaxis={
            "autorange": "reversed",
            "showgrid": False,
            "tickvals": list(range(len(names))),
            "ticktext": [label(_label(name, positions[name])) for name in names],
        },
    )


_LABEL = 30
"""Characters that fit beside bars on a phone."""


def _label(name: str, position: Place) -> str:
    """Return where a tensor is, which is shorter than its name, and tells layers apart."""
    inside = position.row if position.depth is None else f"{position.row} {position.depth}"
    return shorten(inside if name.endswith("weight") else f"{inside} {name.rpartition('.')[2]}", _LABEL)
