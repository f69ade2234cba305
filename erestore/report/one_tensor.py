"""One tensor of a diff: its figures, its spectrum as a plot, the rows that moved most, how it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erestore.checkpoint.module_kind import place
from erestore.report.columns import wrapped
from erestore.report.plot import Curve, plot
from erestore.report.words import listed, percent, printable_line, rank_text, ratio_text, shape_text
from erestore.results.diff import DiffResult, TensorDiff
from erestore.results.diff_details import Line, Spectrum, TensorDetails, TensorStorage

_BLUE, _ORANGE, _GREY = 33, 166, 244
_SHOWN = 4
"""Energies are given at ranks that grow by this factor."""
_LINES = 5
_STATES = {
    "unchanged": "It is the same in both.",
    "retyped": "Its values are the same in both.",
    "reshaped": "It has another shape, and is not compared.",
    "replaced": "It differs, but not by numbers that could be compared.",
}


def tensor_text(result: DiffResult, *, width: int | None = 100, color: bool = False) -> str:
    """Return the tensors of a diff of few as text, one after the other.

    Parameters
    ----------
    result : DiffResult
        With details.
    width : int or None
        Columns of the terminal; None where there is none.
    color : bool
        Whether the terminal shows 256 colours.
    """
    details = result.details or {}
    blocks = (_tensor(result, tensor, details.get(tensor.name), width, color) for tensor in result.tensors)
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in blocks)


def _tensor(
    result: DiffResult, tensor: TensorDiff, details: TensorDetails | None, width: int | None, color: bool
) -> Iterator[str]:
    for sentence in _sentences(result, tensor):
        yield from wrapped(printable_line(sentence), width)
    if details is None:
        return
    if details.spectrum is not None and details.spectrum.change[0]:
        yield ""
        yield from _energies(details.spectrum, width)
        yield ""
        yield from plot(_curves(details.spectrum), width, color=color)
        yield from wrapped("Singular values, each over its largest, against rank; both axes are logarithmic.", width)
    more = list(_more(tensor, details))
    if more:
        yield ""
    for sentence in more:
        yield from wrapped(printable_line(sentence), width)


def _sentences(result: DiffResult, tensor: TensorDiff) -> Iterator[str]:
    where = place(tensor.name)
    before = f"{shape_text(tensor.shape_before)} → " if tensor.shape_before else ""
    dtype = f"{tensor.dtype_before} → {tensor.dtype}" if tensor.dtype_before else tensor.dtype
    depth = "" if where.depth is None else f", layer {where.depth}"
    yield f"{tensor.name} [{before}{shape_text(tensor.shape)}] {dtype}: {where.kind}{depth}"
    if tensor.status in ("added", "removed"):
        yield f"It is only in {(result.b if tensor.status == 'added' else result.a).name}."
    elif not tensor.norm:
        yield _STATES.get(tensor.status, "Its values are the same in both.")
    else:
        text = f"From {result.a.name} to {result.b.name} it moved by {percent(tensor.relative_norm)} of its norm"
        text += f" ({tensor.norm:.3g} of {tensor.norm_before:.3g})" if tensor.norm_before else f" ({tensor.norm:.3g})"
        if tensor.status == "resized":
            text += ", in the rows that both have"
        if tensor.effective_rank is not None:
            text += f"; effective rank {rank_text(tensor.effective_rank, tensor.full_rank)}"
        if tensor.effective_rank_ratio is not None:
            text += f", {ratio_text(tensor.effective_rank_ratio)} times the base's"
        yield f"{text}. {_WAYS[tensor.computed_from]}"


_WAYS = {
    "scale": "It is a multiple of the base's tensor.",
    "factors": "This is from the stored factors.",
    "residuals": "This is from the stored residuals.",
    "dequantised": "This is from the weights that the codes of both stand for.",
    "values": "This is from the values of both.",
}


def _energies(spectrum: Spectrum, width: int | None) -> Iterator[str]:
    """Yield the energies at some ranks: a column a rank, as many as fit."""
    full = spectrum.ranks[-1]
    wanted = [_SHOWN**power for power in range(full.bit_length()) if _SHOWN**power < full]
    places = [min(range(len(spectrum.ranks)), key=lambda at: abs(spectrum.ranks[at] - rank)) for rank in wanted]
    rows = [("rank", [str(spectrum.ranks[at]) for at in places])]
    rows.append(("energy of the difference", [percent(spectrum.energy[at]) for at in places]))
    if spectrum.base_energy is not None:
        rows.append(("energy of the base", [percent(spectrum.base_energy[at]) for at in places]))
    names = max(len(name) for name, _ in rows)
    widths = [2 + max(len(cells[at]) for _, cells in rows) for at in range(len(places))]
    room = None if width is None else width - names
    shown = [at for at in range(len(widths)) if room is None or sum(widths[: at + 1]) <= room]
    for name, cells in rows:
        yield name.ljust(names) + "".join(cells[at].rjust(widths[at]) for at in shown)


def _curves(spectrum: Spectrum) -> Sequence[Curve]:
    change = Curve("difference", "●", _BLUE, spectrum.ranks, spectrum.change)
    noise = Curve("noise (Marchenko-Pastur)", "·", _GREY, spectrum.ranks, spectrum.noise)
    if spectrum.base is None:
        return change, noise
    return change, Curve("base", "○", _ORANGE, spectrum.ranks, spectrum.base), noise


def _more(tensor: TensorDiff, details: TensorDetails) -> Iterator[str]:
    for title, lines, count in (
        ("Rows", details.rows, tensor.shape[0] if tensor.shape else 1),
        ("Columns", details.columns, _columns(tensor.shape)),
    ):
        even = 1 / max(1, count)
        if lines and lines[0].share > 2 * even:
            yield f"{title} that moved most: {listed([_line(line) for line in lines], _LINES)}; evenly {percent(even)} each."
    if details.angles is not None and details.angles.columns:
        angles = details.angles
        shared = sum(cosine**2 for cosine in angles.columns) / len(angles.columns)
        yield (
            f"Both changed it: their leading directions (ranks {angles.rank_a} and {angles.rank_b}) coincide by "
            f"{percent(shared)} (by chance {percent(angles.column_chance)})"
            + (f", cosine {angles.cosine:.2f}." if angles.cosine is not None else ".")
        )
    if details.kept is not None:
        yield _storage_text(details.kept)


def _columns(shape: Sequence[int]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count


def _line(line: Line) -> str:
    token = f" {line.token!r}" if line.token is not None else ""
    return f"{line.index}{token} ({percent(line.share)})"


def _storage_text(storage: TensorStorage) -> str:
    text = f"Stored as {' + '.join(storage.sections)}"
    text += f", rank {storage.rank}" if storage.rank is not None else ""
    text += f", {storage.bytes:,} bytes, {storage.bits:.2g} bits an element"
    return text + (f", relative error {storage.relative_error:.2g}." if storage.relative_error is not None else ".")
