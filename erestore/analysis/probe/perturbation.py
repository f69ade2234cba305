"""Ways to alter a fine-tuned model, or only what it changed of its base, and how far that takes it (ERE §3.2, appendix B).

With ``x`` a tensor of the part that is altered (the weights ``θ + Δθ``, or the residual ``Δθ``) and ``f`` the alteration, the
model's tensor becomes ``θ + Δθ + f(x) - x``. Nothing is rounded to the tensor's own dtype here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from erestore.analysis.probe.tensors import Part, ProbedTensor, is_matrix
from erestore.arrays import Array, as_array
from erestore.encoding.target import Target
from erestore.residual.codecs import ere
from erestore.residual.noise import NormalNoise


@dataclass(frozen=True)
class Alteration(ABC):
    """One alteration, of all tensors that it touches.

    Attributes
    ----------
    part : Part
        What it alters.
    """

    part: Part

    @abstractmethod
    def touches(self, target: Target) -> bool:
        """Return whether a tensor is altered."""

    @abstractmethod
    def changes(self, tensor: ProbedTensor) -> Iterator[tuple[int, int, Array]]:
        """Yield ``f(x) - x`` of a tensor that it touches, float64, all shared rows in order: first, last, values."""

    def squared_error(self, tensor: ProbedTensor) -> float:
        """Return the squared norm of ``f(x) - x``, 0 of a tensor that is not touched."""
        if not self.touches(tensor.loaded.target):
            return 0.0
        return math.fsum(float((change**2).sum()) for _, _, change in self.changes(tensor))


@dataclass(frozen=True)
class Perturbation(Alteration):
    """Every entry times ``exp(Z)`` with ``Z`` normal of mean 0 and deviation `sigma` (figure 4a).

    Attributes
    ----------
    sigma : float
    seed : int
        The same numbers, times `sigma`, perturb either part at every deviation, so that what differs is not chance.
    """

    sigma: float
    seed: int

    def touches(self, target: Target) -> bool:  # noqa: ARG002 - every parameter
        """See :meth:`Alteration.touches`."""
        return True

    def changes(self, tensor: ProbedTensor) -> Iterator[tuple[int, int, Array]]:
        """See :meth:`Alteration.changes`."""
        noise = NormalNoise(self.seed, tensor.key)
        for start, stop, values in tensor.blocks(self.part):
            yield start, stop, values * np.expm1(self.sigma * noise.rows(*values.shape).astype(np.float64))


@dataclass(frozen=True)
class Truncation(Alteration):
    """The best approximation of every matrix by a share of its full rank (figure 4b).

    Attributes
    ----------
    share : float
        0 to 1; the rank is ``share * min(m, n)``, rounded to nearest, halves up.
    """

    share: float

    def touches(self, target: Target) -> bool:
        """See :meth:`Alteration.touches`."""
        return is_matrix(target)

    def rank(self, tensor: ProbedTensor) -> int:
        """Return the rank that is left."""
        return math.floor(self.share * min(tensor.shape) + 0.5)

    def changes(self, tensor: ProbedTensor) -> Iterator[tuple[int, int, Array]]:
        """See :meth:`Alteration.changes`."""
        rank = self.rank(tensor)
        if rank < min(tensor.shape):
            yield from _minus(tensor, self.part, *tensor.decomposition(self.part).factors(rank))

    def squared_error(self, tensor: ProbedTensor) -> float:
        """Return the squares of the singular values that are left out."""
        if not self.touches(tensor.loaded.target):
            return 0.0
        return float(tensor.singular_values(self.part)[self.rank(tensor) :].square().sum())


@dataclass(frozen=True)
class EreEncoding(Alteration):
    """What the codec ``ere`` makes of the residual.

    Attributes
    ----------
    ranks : Mapping[str, int]
        By the base's name; tensors that have none stay as they are.
    bits : int
    project : bool
        Whether decoding projects to the nearest Stiefel matrices (figure 8).
    """

    ranks: Mapping[str, int]
    bits: int
    project: bool

    def touches(self, target: Target) -> bool:
        """See :meth:`Alteration.touches`."""
        return target.key in self.ranks

    def changes(self, tensor: ProbedTensor) -> Iterator[tuple[int, int, Array]]:
        """See :meth:`Alteration.changes`."""
        left, values, right = ere.decode(tensor.encoded(self.ranks[tensor.key], self.bits), project=self.project)
        yield from _minus(tensor, self.part, left * values, right)


@dataclass(frozen=True)
class Removal(Alteration):
    """Nothing of it is left: without its residual, a model is its base."""

    def touches(self, target: Target) -> bool:  # noqa: ARG002 - all of them
        """See :meth:`Alteration.touches`."""
        return True

    def changes(self, tensor: ProbedTensor) -> Iterator[tuple[int, int, Array]]:
        """See :meth:`Alteration.changes`."""
        for start, stop, values in tensor.blocks(self.part):
            yield start, stop, -values


def _minus(
    tensor: ProbedTensor, part: Part, left: torch.Tensor, right: torch.Tensor
) -> Iterator[tuple[int, int, Array]]:
    """Yield ``left @ right.T`` minus a part."""
    for start, stop, values in tensor.blocks(part):
        yield start, stop, as_array((left[start:stop] @ right.T).to(torch.float64)) - values
