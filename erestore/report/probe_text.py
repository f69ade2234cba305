"""Probes in words and small tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from erestore.report.columns import Column, table
from erestore.report.words import listed, percent, plural, printable_line
from erestore.results.probe import AllocationProbe, PerturbProbe, Point, ProbeResult, StiefelProbe, TruncateProbe

_LEGEND = (
    "lost: squared error of the weights over the squared norm of the residual, which is above 100 % where more is lost than "
    "the fine-tuning changed."
)
_MULTIPLE, _WHOLE = 9.995, 99.95
_COSINE = " cosine: with what the variant answers, mean over all inputs."


def probe_text(result: ProbeResult, *, width: int | None = 100) -> str:
    """Return what a probe found as text.

    Parameters
    ----------
    result : ProbeResult
    width : int or None
        Columns of the terminal; None where there is none, and nothing needs to be shortened.
    """
    lines = [line for sentence in sentences(result) for line in _wrapped(sentence, width)]
    for part in (result.perturb, result.truncate, result.allocation, result.stiefel):
        if part is not None:
            lines += ["", *_wrapped(title(part), width), *table(columns(part), width)]
    lines += ["", *_wrapped(legend(result), width)]
    return "\n".join(printable_line(line).rstrip() for line in lines)


def legend(result: ProbeResult) -> str:
    """Return what the columns of tables mean."""
    return _LEGEND + (_COSINE if result.features else "")


def cosine_text(cosine: float | None) -> str:
    """Return a cosine to five decimals, ``-`` for none."""
    return "-" if cosine is None else f"{cosine:.5f}"


def lost_text(lost: float) -> str:
    """Return a relative error: ``0.251 %``, ``615 %``, and from ten times the residual on ``24.6×``, ``23,500×``."""
    if lost < _MULTIPLE:
        return percent(lost, 3)
    return f"{lost:.1f}×" if lost < _WHOLE else f"{float(f'{lost:.3g}'):,.0f}×"


def sentences(result: ProbeResult) -> Iterator[str]:
    """Yield what was probed, a sentence each."""
    matching = f" matching '{result.pattern}'" if result.pattern else ""
    yield (
        f"{result.revision} differs from {result.base} by {percent(result.relative_norm)} of its norm, in "
        f"{plural(result.tensors, 'tensor')}{matching}, {result.matrices} of them matrices."
    )
    if result.left_out:
        yield f"Not finite, or beyond float32, and left as they are: {listed(result.left_out)}."
    if (used := result.features) is not None:
        what = "what a function returns" if used.kind == "given" else f"the model's {used.kind}"
        yield (
            f"Features are {what}, of {plural(used.inputs, 'input')}; without its residual, which makes it "
            f"{result.base}, the cosine is {cosine_text(used.base_cosine)}."
        )


def title(part: PerturbProbe | TruncateProbe | AllocationProbe | StiefelProbe) -> str:
    """Return what one probe is, without a full stop."""
    match part:
        case PerturbProbe():
            return f"Every weight times exp(Z), Z normal with deviation sigma (seed {part.seed})"
        case TruncateProbe():
            return "Every matrix approximated by a share of its rank"
        case AllocationProbe():
            return (
                f"Residual in the codec ere, prior rank {part.rank}, {part.bits} bits, {plural(part.layers, 'layer')}: "
                "ranks by allocation, towards uniform as alpha grows"
            )
        case StiefelProbe():
            return (
                f"Residual in the codec ere, prior rank {part.rank}, alpha {part.alpha:g}, "
                f"{plural(part.layers, 'layer')}: with and without projection to Stiefel matrices"
            )


def columns(part: PerturbProbe | TruncateProbe | AllocationProbe | StiefelProbe) -> list[Column]:
    """Return the numbers of one probe as a table."""
    match part:
        case PerturbProbe():
            sigmas = dict.fromkeys(point.sigma for point in part.points)
            return _side_by_side(
                "sigma", [f"{sigma:g}" for sigma in sigmas], [(point.part, point) for point in part.points]
            )
        case TruncateProbe():
            shares = dict.fromkeys(point.share for point in part.points)
            return _side_by_side(
                "rank", [percent(share) for share in shares], [(point.part, point) for point in part.points]
            )
        case AllocationProbe():
            names = [p.allocation if p.alpha is None else f"alpha {p.alpha:g}" for p in part.points]
            return [
                Column("ranks", names, drop=0, right=False),
                Column("bytes", [f"{p.bytes:,}" for p in part.points], drop=2),
                Column("layers without", [str(p.layers_without) for p in part.points], drop=3),
                *_measures("", part.points),
            ]
        case StiefelProbe():
            bits = dict.fromkeys(str(point.bits) for point in part.points)
            sizes = [f"{point.bytes:,}" for point in part.points if point.projected]
            named = [("projected" if point.projected else "not projected", point) for point in part.points]
            first, *others = _side_by_side("bits", list(bits), named)
            return [first, Column("bytes", sizes, drop=2), *others]


def _side_by_side(title: str, settings: Sequence[str], named: Sequence[tuple[str, Point]]) -> list[Column]:
    """Return the settings, and beside them the points of each name in their order."""
    result = [Column(title, settings, drop=0, right=False)]
    for name in dict.fromkeys(name for name, _ in named):
        result += _measures(f"{name}: ", [point for label, point in named if label == name])
    return result


def _measures(prefix: str, points: Sequence[Point]) -> list[Column]:
    columns = [Column(f"{prefix}lost", [lost_text(point.relative_error) for point in points], drop=1)]
    if any(point.cosine is not None for point in points):
        columns.append(Column(f"{prefix}cosine", [cosine_text(point.cosine) for point in points], drop=0))
    return columns


def _wrapped(text: str, width: int | None) -> list[str]:
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
