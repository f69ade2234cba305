"""What is left of one tensor's terms when those that two variants share have cancelled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from erestore.arrays import Array, as_tensor, widen, without_warnings
from erestore.residual.codecs.abc import Section
from erestore.residual.codecs.gamma import GammaSection
from erestore.variant.variant import evaluate


@dataclass(frozen=True)
class Net:
    """A linear combination of residuals of one tensor, without the base.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns that are looked at; a residual may cover fewer rows, or more.
    parts : tuple of (float, tuple of Section)
        Coefficient and sections of each residual, at least one.
    first : tuple of float
        Coefficients of the same residuals in the first side's value; may be left out where that is not asked for. It is the
        whole value only if parts are there of all residuals that make it up, with coefficient 0 where the sides share them.
    """

    shape: tuple[int, int]
    parts: tuple[tuple[float, tuple[Section, ...]], ...]
    first: tuple[float, ...] = ()

    def _sections(self) -> Iterator[tuple[float, Section]]:
        for coefficient, sections in self.parts:
            for section in sections if coefficient else ():
                yield coefficient, section

    @property
    def needs_base(self) -> bool:
        """Whether a multiple of the base is among the sections."""
        return any(isinstance(section, GammaSection) for _, section in self._sections())

    def scale(self) -> float | None:
        """Return the multiple of the base that this is, None if it is more than that."""
        factors = []
        for coefficient, section in self._sections():
            if not isinstance(section, GammaSection) or section.shape[0] < self.shape[0]:
                return None
            factors.append(coefficient * section.factor)
        return math.fsum(factors)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return all factors side by side, or None where a section has none or their rank is not below half of full rank.

        Returns
        -------
        left : torch.Tensor, shape (m, r), float64
            Coefficients included.
        right : torch.Tensor, shape (n, r), float64
        """
        left, right, rank = [], [], 0
        for coefficient, section in self._sections():
            with without_warnings():
                factors = section.factors()
            if factors is None:
                return None
            rank += factors[0].shape[1]
            if 2 * rank >= min(self.shape):
                return None
            with without_warnings():
                part = as_tensor(factors[0][: self.shape[0]] * coefficient)
            left.append(torch.nn.functional.pad(part, (0, 0, 0, self.shape[0] - part.shape[0])))
            right.append(as_tensor(factors[1]))
        return torch.cat(left, dim=1), torch.cat(right, dim=1)

    def rows(self, start: int, stop: int, base: Array | None) -> torch.Tensor:
        """Evaluate rows ``start:stop`` of the combination, float64; `base` are those rows of the base, where it is needed."""
        return self.both(start, stop, base)[0]

    def both(self, start: int, stop: int, base: Array | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate rows ``start:stop`` of the combination and of the first side's value, each residual once.

        Parameters
        ----------
        start, stop : int
            Not before rows that were evaluated earlier.
        base : ndarray, shape (stop - start, n), or None
            The same rows of the base's tensor, in any floating type; None, for zeros, where `needs_base` is false and the
            first side's value does not matter.

        Returns
        -------
        change, first : torch.Tensor, shape (stop - start, n), float64
        """
        base_rows = np.zeros((stop - start, self.shape[1])) if base is None else widen(base)
        change, first = np.zeros_like(base_rows), base_rows.copy()
        for (coefficient, sections), first_coefficient in zip(
            self.parts, self.first or (0.0,) * len(self.parts), strict=True
        ):
            end = min(stop, sections[0].shape[0])
            if end <= start:
                continue
            with without_warnings():
                value = evaluate(sections, start, end, base_rows[: end - start])
                for total, factor in ((change, coefficient), (first, first_coefficient)):
                    if factor:
                        total[: end - start] += value * factor
        return as_tensor(change), as_tensor(first)
