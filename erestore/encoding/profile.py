"""First pass over a fine-tune: what each residual looks like, its spectrum included.

Nothing the size of the model stays in memory: singular bases wait in a temporary file until the second pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from erestore.arrays import as_tensor, row_blocks, widen, without_warnings
from erestore.checkpoint.dtypes import array_dtype
from erestore.encoding.quality import Quality
from erestore.encoding.target import LoadedTarget
from erestore.residual import dyadic
from erestore.residual.codecs.abc import EncodedSection
from erestore.residual.codecs.gamma import GAMMA_BITS
from erestore.residual.objectives import ANSWERS, WEIGHTS, Objective
from erestore.residual.rounding import round_to
from erestore.residual.spectrum import decompose
from erestore.residual.step_plan import Profile, RateCurve, gaussian

SAMPLE = 4096
"""Values of a residual that stand for its distribution."""
_MIN_SIDE = 4
_MIN_ELEMENTS = 1024
"""Below these, factors cannot be smaller than the values themselves."""
_GAMMA_SHARE = 1e-3
"""Share of the energy that a multiple of the base must explain to be worth its own section."""


@dataclass(frozen=True)
class Profiled:
    """What the first pass learned of one target.

    Attributes
    ----------
    state : str
        ``unchanged``, ``changed``, ``not finite``, or ``extreme``: too large or too small for a float32 residual.
    norm, base_norm : float
        Squared norms of original minus parent (both in the variant's dtype) and of the parent.
    outside : float
        The former of a tensor that is kept exact and stands outside of what errors are relative to; both norms are 0 then.
    exact : EncodedSection or None
        Of such a tensor: all of its residual, where that is small enough to be held; else it is encoded when it is written.
    profile : Profile or None
        For other changed tensors.
    basis, side
        Singular basis of the short side, float32, and which side that is; None where factors are not considered.
    """

    state: str
    norm: float = 0.0
    base_norm: float = 0.0
    outside: float = 0.0
    exact: EncodedSection | None = None
    profile: Profile | None = None
    basis: torch.Tensor | None = None
    side: Literal["left", "right"] = "right"


def objective_of(quality: Quality) -> Objective:
    """Return what is to be made small: the error of the weights alone, or what it does to answers."""
    return WEIGHTS if quality.objective == "frobenius" else ANSWERS


def profile(
    loaded: LoadedTarget,
    *,
    factorise: bool,
    base_multiple: bool,
    precision: torch.dtype = torch.float64,
    objective: Objective = ANSWERS,
) -> Profiled:
    """Look at one tensor's residual.

    Parameters
    ----------
    loaded : LoadedTarget
    factorise : bool
        Whether to compute the spectrum.
    base_multiple : bool
        Whether to take out a multiple of the base first.
    precision : torch.dtype
        Arithmetic of the spectrum; see :func:`erestore.residual.spectrum.decompose`.
    objective : Objective
    """
    if loaded.is_unchanged():
        base_norm = _norms(loaded)[1]
        return Profiled("unchanged", base_norm=base_norm if math.isfinite(base_norm) else 0.0)
    if not loaded.is_finite():
        return Profiled("not finite")
    norm, base_norm = _norms(loaded)
    if norm == 0:  # only the signs of zeros differ, which only an exact remainder can keep
        return Profiled("unchanged", base_norm=base_norm)
    delta = loaded.delta()
    if not (math.isfinite(norm) and math.isfinite(base_norm) and 0 < _energy(delta) < math.inf):
        return Profiled("extreme")
    total_energy = _energy(delta)
    factor = _fit_base_multiple(delta, loaded) if base_multiple else None
    m, n = delta.shape
    singular_values, basis = None, None
    side: Literal["left", "right"] = "right"
    if factorise and has_factors((m, n)):
        decomposition = decompose(delta, precision=precision)
        singular_values, basis, side = (
            decomposition.singular_values,
            decomposition.basis.to(torch.float32),
            decomposition.side,
        )
        alive = singular_values > 0
        singular_values, basis = singular_values[alive], basis[:, alive]
    scales, counts, curve = _rows(delta)
    energy = _energy(delta)
    multiple_energy = max(0.0, total_energy - energy) if factor else 0.0
    weight = objective.vector_weight if len(loaded.target.shape) == 1 else 1.0
    tensor_profile = Profile(
        (m, n), energy, curve, scales, counts, singular_values, factor, multiple_energy, weight, objective
    )
    return Profiled("changed", norm, base_norm, profile=tensor_profile, basis=basis, side=side)


def has_factors(shape: tuple[int, int]) -> bool:
    """Return whether factors of a matrix can be smaller than its values."""
    return min(shape) >= _MIN_SIDE and math.prod(shape) >= _MIN_ELEMENTS


def subtract_base_multiple(delta: torch.Tensor, loaded: LoadedTarget, multiple: dyadic.Dyadic) -> None:
    """Subtract ``multiple * base`` from `delta` in place."""
    for start, stop in row_blocks(*delta.shape):
        delta[start:stop] -= as_tensor(widen(loaded.parent.base[start:stop])) * multiple.value


def _fit_base_multiple(delta: torch.Tensor, loaded: LoadedTarget) -> dyadic.Dyadic | None:
    inner = square = 0.0
    for start, stop in row_blocks(*delta.shape):
        base = as_tensor(widen(loaded.parent.base[start:stop]))
        inner += float((delta[start:stop] * base).sum())
        square += float((base * base).sum())
    if square == 0 or inner * inner / square <= _GAMMA_SHARE * _energy(delta):
        return None
    multiple = dyadic.nearest(inner / square, GAMMA_BITS)
    subtract_base_multiple(delta, loaded, multiple)
    return multiple if multiple.mantissa else None


def _norms(loaded: LoadedTarget) -> tuple[float, float]:
    norm = base_norm = 0.0
    with without_warnings():
        for block in loaded.blocks():
            base_norm += float((block.parent * block.parent).sum())
            before = widen(round_to(block.parent, array_dtype(loaded.target.info.dtype)))
            norm += float(((block.original - before) ** 2).sum())
    return norm, base_norm


def _energy(delta: torch.Tensor) -> float:
    return sum(float((delta[a:b].to(torch.float64) ** 2).sum()) for a, b in row_blocks(*delta.shape))


def _rows(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, RateCurve]:
    """Return scales of rows to half an octave, how many rows have each, and the curve of values over their row's scale."""
    scales = torch.cat([delta[a:b].to(torch.float64).square().mean(dim=1).sqrt() for a, b in row_blocks(*delta.shape)])
    places = sample_places(delta.numel())
    return describe_rows(scales, places // delta.shape[1], delta.reshape(-1)[places])


def sample_places(elements: int) -> torch.Tensor:
    """Return which elements of a residual stand for all, the same for every residual of a size."""
    if elements <= SAMPLE:
        return torch.arange(elements)
    return torch.randint(elements, (SAMPLE,), generator=torch.Generator().manual_seed(0))


def describe_rows(
    scales: torch.Tensor, rows: torch.Tensor, sample: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, RateCurve]:
    """Return scales to half an octave, how many rows have each, and the curve of a sample over its rows' scales.

    Parameters
    ----------
    scales : torch.Tensor
        Root mean squares of all rows.
    rows : torch.Tensor
        The row of each element of the sample.
    sample : torch.Tensor
    """
    levels = torch.round(2 * torch.log2(scales))
    exponents, counts = torch.unique(levels[torch.isfinite(levels)], return_counts=True)
    sample = sample / scales[rows]
    sample = sample[torch.isfinite(sample)]
    size = sample.square().mean().sqrt() if len(sample) else torch.zeros(())
    return 2.0 ** (exponents / 2), counts.to(torch.float64), RateCurve.of(sample / size) if float(size) else gaussian()
