"""What a page shows of a comparison beyond its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from erestore.analysis.diff.compare import Change, Comparison, Pair
from erestore.analysis.diff.side import Side, VariantSide
from erestore.analysis.diff.tokens import read_tokens
from erestore.analysis.similarity.overlap import TensorOverlap, overlaps
from erestore.arrays import matrix_shape
from erestore.checkpoint.module_kind import place
from erestore.objects.residual_summary import TensorSummary, stored_tensors
from erestore.progress import Progress
from erestore.residual.marchenko_pastur import singular_value_quantiles
from erestore.residual.spectrum import energy_captured
from erestore.results.diff_details import Angles, Line, Spectrum, TensorDetails, TensorStorage

if TYPE_CHECKING:
    from erestore.store import Store

_POINTS = 48
"""Ranks at which a curve is kept, about."""
_LINES = 10
_ANGLES = 32


def details(
    comparison: Comparison,
    pairs: Sequence[Pair],
    changes: Sequence[Change],
    stored: Sequence[TensorSummary],
    progress: Progress,
) -> dict[str, TensorDetails]:
    """Return more about every tensor that differs.

    Parameters
    ----------
    comparison : Comparison
    pairs, changes : sequence
        Of the comparison, in the same order.
    stored : sequence of TensorSummary
        What the second side's commit encoded.
    progress : Progress
    """
    by_key = {tensor.key: tensor for tensor in stored}
    changed = [
        comparison.b.tensors[pair.after].key
        for pair, change in zip(pairs, changes, strict=True)
        if change.norm and pair.after is not None
    ]
    angles = _angles(comparison, changed, progress)
    tokens = _Tokens(comparison.b)
    result = {}
    for pair, change in zip(pairs, changes, strict=True):
        if not change.norm:
            continue
        after = comparison.b.tensors[pair.after] if pair.after is not None else None
        key = after.key if after else ""
        rows, columns = change.sides or (None, None)
        result[pair.name] = TensorDetails(
            spectrum=_spectrum(comparison, pair, change),
            rows=_lines(rows, tokens.of(pair.name, rows)),
            columns=_lines(columns, {}),
            kept=_tensor_storage(by_key[key], math.prod(after.shape)) if after and key in by_key else None,
            angles=angles.get(key),
        )
    return result


def own_tensors(store: Store, oid: str | None) -> tuple[TensorSummary, ...]:
    """Return what a commit's own residuals hold; nothing where there is no commit."""
    residuals = store.commit_record(oid).own if oid else ()
    return tuple(
        tensor for residual in residuals for tensor in stored_tensors(store.objects.open("residual", residual))
    )


def curve_ranks(full: int) -> list[int]:
    """Return ranks from 1 to `full` at which a curve is drawn: evenly spaced, and denser at the front."""
    even = [1 + round(step * (full - 1) / _POINTS) for step in range(_POINTS + 1)]
    dense = [round(full ** (step / _POINTS)) for step in range(_POINTS + 1)]
    return sorted({*even, *dense})


def _spectrum(comparison: Comparison, pair: Pair, change: Change) -> Spectrum | None:
    values = change.singular_values
    if values is None:
        return None
    ranks = curve_ranks(len(values))
    base = comparison.base_spectrum(pair)
    if base is not None and (len(base) != len(values) or not base[0]):
        base = None
    sides = ((comparison.a, pair.before), (comparison.b, pair.after))
    shapes = [matrix_shape(side.tensors[name].shape) for side, name in sides if name is not None]
    # Of a tensor with other rows only those that both sides have were compared.
    shape = min(rows for rows, _ in shapes), shapes[-1][1]
    return Spectrum(
        ranks=tuple(ranks),
        change=_over_largest(values, ranks),
        base=_over_largest(base, ranks) if base is not None else None,
        noise=tuple(singular_value_quantiles(shape, ranks)),
        energy=energy_captured(values, ranks),
        base_energy=energy_captured(base, ranks) if base is not None else None,
    )


def _over_largest(values: torch.Tensor, ranks: Sequence[int]) -> tuple[float, ...]:
    picked = values[torch.tensor(ranks) - 1] / (float(values[0]) or 1.0)
    return tuple(picked.tolist())


def _lines(norms: torch.Tensor | None, tokens: Mapping[int, str]) -> tuple[Line, ...]:
    if norms is None:
        return ()
    squares = norms.square()
    total = float(squares.sum())
    top = torch.topk(squares, min(_LINES, len(squares)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(Line(index, value / total, tokens.get(index)) for index, value in pairs if value)


class _Tokens:
    """The vocabulary of a side, read when a matrix first has as many rows as it has words."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._known: dict[int, str] | None = None

    def of(self, name: str, rows: torch.Tensor | None) -> Mapping[int, str]:
        """Return the tokens if a matrix is an embedding or a head with a row for each, padding allowed for."""
        if rows is None or place(name).kind not in _OF_WORDS:
            return {}
        if self._known is None:
            self._known = read_tokens(self._side.side_files, self._side.side_file)
        count = len(self._known)
        return self._known if count <= len(rows) <= count + _PADDING else {}


_OF_WORDS = ("word embeddings", "embeddings", "head")
_PADDING = 1024
"""Rows that embeddings have beyond the vocabulary, to be a multiple of something."""


def _tensor_storage(tensor: TensorSummary, elements: int) -> TensorStorage:
    return TensorStorage(
        sections=tuple(section.kind for section in tensor.sections),
        rank=tensor.rank,
        bytes=round(tensor.bytes),
        bits=8 * tensor.bytes / max(1, elements),
        relative_error=tensor.squared_error / tensor.squared_norm if tensor.squared_norm else None,
    )


def _angles(comparison: Comparison, keys: Sequence[str], progress: Progress) -> dict[str, Angles]:
    """Return the angles of those tensors that both sides changed, by the base's name."""
    if not (comparison.variants and isinstance(comparison.a, VariantSide)):
        return {}
    a, b = comparison.variants
    if not (a.manifest.terms and b.manifest.terms):
        return {}
    return {
        overlap.name: _angle(overlap)
        for overlap in overlaps(a, b, progress, among=keys)
        if overlap.rank_a and overlap.rank_b
    }


def _angle(overlap: TensorOverlap) -> Angles:
    columns, rows = (
        tuple(math.cos(angle) for angle in angles[:_ANGLES]) for angles in (overlap.column_angles, overlap.row_angles)
    )
    return Angles(
        rank_a=overlap.rank_a or 0,
        rank_b=overlap.rank_b or 0,
        columns=columns,
        rows=rows,
        column_chance=overlap.column_chance or 0.0,
        row_chance=overlap.row_chance or 0.0,
        cosine=overlap.cosine,
    )
