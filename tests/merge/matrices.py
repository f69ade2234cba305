"""Variants of one matrix, dense and as factors, and strategies run on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from erestore.merge.abc import ElementwiseStrategy, FactorStrategy, MergeStrategy
from erestore.merge.operands import FactoredOperands, MatrixFactors, TiledOperands


@dataclass
class Variants:
    """Differences from a base, each ``left @ right.T``."""

    factors: list[MatrixFactors]

    @classmethod
    def random(cls, shape: tuple[int, int], ranks: Sequence[int], seed: int = 0) -> Variants:
        """Fine-tunes share a direction, and have spectra that fall."""
        rng = np.random.default_rng(seed)
        m, n = shape
        shared = [rng.standard_normal((side, max([1, *ranks]))) for side in shape]
        found = []
        for rank in ranks:
            scales = 0.01 * 0.8 ** np.arange(rank)
            left = (shared[0][:, :rank] + 2 * rng.standard_normal((m, rank))) * scales
            found.append(MatrixFactors(left, shared[1][:, :rank] + 2 * rng.standard_normal((n, rank))))
        return cls(found)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.factors[0].left), len(self.factors[0].right)

    @property
    def dense(self) -> list[np.ndarray]:
        return [left @ right.T for left, right in self.factors]

    def _common(self, weights, statistics) -> dict:
        count = len(self.factors)
        return {
            "tensor": "layer.weight",
            "shape": self.shape,
            "labels": tuple(f"variant-{place}" for place in range(count)),
            "weights": tuple(map(Fraction, weights or [1] * count)),
            "statistics": statistics,
        }

    def factored(self, weights=None, statistics=None) -> FactoredOperands:
        return FactoredOperands(**self._common(weights, statistics), factors=self.factors)

    def tiled(self, weights=None, statistics=None) -> TiledOperands:
        return tiled(self.dense, **self._common(weights, statistics))

    def merged(self, strategy: MergeStrategy, weights=None, statistics=None, height: int | None = None) -> np.ndarray:
        """Run a strategy of either kind; in tiles of `height` rows where it works on tiles."""
        if strategy.kind == "factors":
            assert isinstance(strategy, FactorStrategy)
            left, right = strategy.merge(self.factored(weights, statistics))
            assert left.shape[1] == right.shape[1]
            assert (len(left), len(right)) == self.shape
            return left @ right.T
        assert isinstance(strategy, ElementwiseStrategy)
        return in_tiles(strategy, self.tiled(weights, statistics), height)


def tiled(dense: Sequence[np.ndarray], **common) -> TiledOperands:
    return TiledOperands(rows=[lambda a, b, own=own: own[a:b].copy() for own in dense], **common)


def of(dense: Sequence[np.ndarray], weights: Sequence[str | int | Fraction] | None = None, tensor="t") -> TiledOperands:
    count = len(dense)
    return tiled(
        dense,
        tensor=tensor,
        shape=dense[0].shape,
        labels=tuple(f"v{place}" for place in range(count)),
        weights=tuple(map(Fraction, weights or [1] * count)),
    )


def in_tiles(strategy: ElementwiseStrategy, operands: TiledOperands, height: int | None = None) -> np.ndarray:
    rows, m = strategy.prepare(operands), operands.shape[0]
    height = height or max(1, m)
    found = [rows(start, min(m, start + height)) for start in range(0, m, height)]
    return np.concatenate([np.zeros((0, operands.shape[1])), *found])


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-10) -> bool:
    scale = float(np.abs(wanted).max()) if wanted.size else 0.0
    return found.shape == wanted.shape and (not wanted.size or float(np.abs(found - wanted).max()) <= tolerance * scale)
