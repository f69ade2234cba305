"""First pass over a fine-tune: what each residual looks like, its spectrum included.

Nothing the size of the model stays in memory: singular bases wait in a temporary file until the second pass.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from typing import Literal, Self

import torch

from erestore.arrays import as_array, as_tensor, widen, without_warnings
from erestore.model.targets import Loaded
from erestore.model.variant import row_blocks
from erestore.residual import dyadic
from erestore.residual.codecs.gamma import GAMMA_BITS
from erestore.residual.planning import Curve, Profile, gaussian
from erestore.residual.rounding import round_to
from erestore.residual.spectrum import decompose

SAMPLE = 4096
"""Values of a residual that stand for its distribution."""
_MIN_SIDE = 4
_MIN_ELEMENTS = 1024
"""Below these, factors cannot be smaller than the values themselves."""
_GAMMA_SHARE = 1e-3
"""Share of the energy that a multiple of the base must explain to be worth its own section."""
VECTOR_WEIGHT = 8.0
"""How much a squared error of a bias or a gain counts against one of a matrix: it meets every input alike, and is not scaled
down by it (docs/decisions/0015)."""
_SPOOL_MEMORY = 64 << 20


@dataclass(frozen=True)
class Profiled:
    """What the first pass learned of one target.

    Attributes
    ----------
    state : str
        ``unchanged``, ``changed``, ``not finite``, or ``extreme``: too large or too small for a float32 residual.
    norm, base_norm : float
        Squared norms of original minus parent (both in the original's dtype) and of the parent.
    profile : Profile or None
        For changed tensors.
    basis, side
        Singular basis of the short side, float32, and which side that is; None where factors are not considered.
    """

    state: str
    norm: float = 0.0
    base_norm: float = 0.0
    profile: Profile | None = None
    basis: torch.Tensor | None = None
    side: Literal["left", "right"] = "right"


def profile(
    loaded: Loaded,
    *,
    factorise: bool,
    gamma: bool,
    precision: torch.dtype = torch.float64,
    vector_weight: float = VECTOR_WEIGHT,
) -> Profiled:
    """Look at one tensor's residual.

    Parameters
    ----------
    loaded : Loaded
    factorise : bool
        Whether to compute the spectrum.
    gamma : bool
        Whether to take out a multiple of the base first.
    precision : torch.dtype
        Arithmetic of the spectrum; see :func:`erestore.residual.spectrum.decompose`.
    vector_weight : float
        How often the squared error of a vector counts.
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
    whole = _energy(delta)
    factor = _take_gamma(delta, loaded) if gamma else None
    m, n = delta.shape
    singular_values, basis = None, None
    side: Literal["left", "right"] = "right"
    if factorise and min(m, n) >= _MIN_SIDE and m * n >= _MIN_ELEMENTS:
        found = decompose(delta, precision=precision)
        singular_values, basis, side = found.singular_values, found.basis.to(torch.float32), found.side
        alive = singular_values > 0
        singular_values, basis = singular_values[alive], basis[:, alive]
    scales, counts, curve = _rows(delta)
    energy = _energy(delta)
    taken = max(0.0, whole - energy) if factor else 0.0
    weight = vector_weight if len(loaded.target.shape) == 1 else 1.0
    seen = Profile((m, n), energy, curve, scales, counts, singular_values, factor, taken, weight)
    return Profiled("changed", norm, base_norm, seen, basis, side)


def take_gamma(delta: torch.Tensor, loaded: Loaded, gamma: dyadic.Dyadic) -> None:
    """Subtract ``gamma * base`` from `delta` in place."""
    for start, stop in row_blocks(*delta.shape):
        delta[start:stop] -= as_tensor(widen(loaded.parent.base[start:stop])) * gamma.value


def _take_gamma(delta: torch.Tensor, loaded: Loaded) -> dyadic.Dyadic | None:
    inner = square = 0.0
    for start, stop in row_blocks(*delta.shape):
        base = as_tensor(widen(loaded.parent.base[start:stop]))
        inner += float((delta[start:stop] * base).sum())
        square += float((base * base).sum())
    if square == 0 or inner * inner / square <= _GAMMA_SHARE * _energy(delta):
        return None
    gamma = dyadic.nearest(inner / square, GAMMA_BITS)
    take_gamma(delta, loaded, gamma)
    return gamma if gamma.mantissa else None


def _norms(loaded: Loaded) -> tuple[float, float]:
    norm = base_norm = 0.0
    with without_warnings():
        for start, stop in row_blocks(loaded.target.shared, loaded.own.shape[1]):
            parent = loaded.parent.rows(start, stop)
            base_norm += float((parent * parent).sum())
            own = as_array(loaded.own[start:stop])
            norm += float(((widen(own) - widen(round_to(parent, own.dtype))) ** 2).sum())
    return norm, base_norm


def _energy(delta: torch.Tensor) -> float:
    return sum(float((delta[a:b].to(torch.float64) ** 2).sum()) for a, b in row_blocks(*delta.shape))


def _rows(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Curve]:
    """Return scales of rows to half an octave, how many rows have each, and the curve of values over their row's scale."""
    scales = torch.cat([delta[a:b].to(torch.float64).square().mean(dim=1).sqrt() for a, b in row_blocks(*delta.shape)])
    levels = torch.round(2 * torch.log2(scales))
    found, counts = torch.unique(levels[torch.isfinite(levels)], return_counts=True)
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(delta.numel(), (min(SAMPLE, delta.numel()),), generator=generator)
    if delta.numel() <= SAMPLE:
        places = torch.arange(delta.numel())
    sample = delta.reshape(-1)[places] / scales[places // delta.shape[1]]
    sample = sample[torch.isfinite(sample)]
    size = sample.square().mean().sqrt() if len(sample) else torch.zeros(())
    return 2.0 ** (found / 2), counts.to(torch.float64), Curve.of(sample / size) if float(size) else gaussian()


class BasisSpool:
    """Singular bases kept outside memory between the passes. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MEMORY)  # noqa: SIM115 - closed by __exit__
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._length = 0

    def put(self, key: str, basis: torch.Tensor) -> None:
        """Keep one float32 basis."""
        content = basis.contiguous().numpy().tobytes()
        self._file.seek(self._length)
        self._file.write(content)
        self._places[key] = self._length, tuple(basis.shape)
        self._length += len(content)

    def get(self, key: str) -> torch.Tensor:
        """Return one basis."""
        start, shape = self._places[key]
        self._file.seek(start)
        content = bytearray(self._file.read(4 * shape[0] * shape[1]))
        if not content:  # of rank 0: all of the difference was a multiple of the parent
            return torch.empty(shape)
        return torch.frombuffer(content, dtype=torch.float32).view(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
