"""What a probe finds: plain data, whose fields are those of its JSON.

In every point `relative_error` is the squared error of the altered weights over the squared norm of the residual, as in all
results; it may be far above 1 where all weights are altered. `cosine` is the mean over all inputs of the cosine between what
the altered and the unaltered model answer: None without a model, and where an answer is not finite, or zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from erestore.display import Displayed


class Point(Protocol):
    """What every point has."""

    @property
    def relative_error(self) -> float:
        """Squared error of the altered weights over the squared norm of the residual."""

    @property
    def cosine(self) -> float | None:
        """Of features, if there are any."""


@dataclass(frozen=True)
class PerturbPoint:
    """One deviation of log-normal noise.

    Attributes
    ----------
    part : str
        What is perturbed: ``weights`` or ``residual``.
    sigma : float
        Deviation of the noise's logarithm.
    error : float
        Squared error over the squared norm of the part.
    relative_error : float
    cosine : float or None
    """

    part: str
    sigma: float
    error: float
    relative_error: float
    cosine: float | None


@dataclass(frozen=True)
class PerturbProbe:
    """Log-normal noise on all weights, or on the residual alone (ERE §3.2, figure 4a).

    Attributes
    ----------
    seed : int
    points : tuple of PerturbPoint
    """

    seed: int
    points: tuple[PerturbPoint, ...]


@dataclass(frozen=True)
class TruncatePoint:
    """One share of the rank.

    Attributes
    ----------
    part : str
        What is truncated: ``weights`` or ``residual``.
    share : float
        Of every matrix's full rank, the smaller of its sides.
    error : float
        Squared error over the squared norm of the part.
    relative_error : float
    cosine : float or None
    """

    part: str
    share: float
    error: float
    relative_error: float
    cosine: float | None


@dataclass(frozen=True)
class TruncateProbe:
    """Low-rank approximation of all matrices, or of their residuals alone (ERE §3.2, figure 4b).

    Attributes
    ----------
    points : tuple of TruncatePoint
    """

    points: tuple[TruncatePoint, ...]


@dataclass(frozen=True)
class AllocationPoint:
    """One way to spread a rank budget over layers.

    Attributes
    ----------
    allocation : str
        ``ere``, or ``uniform``: the same rank for all.
    alpha : float or None
        Weight of the prior rank, of ``ere``.
    bytes : int
        What the codes take.
    layers_without : int
        Layers that get no rank.
    relative_error : float
    cosine : float or None
    """

    allocation: str
    alpha: float | None
    bytes: int
    layers_without: int
    relative_error: float
    cosine: float | None


@dataclass(frozen=True)
class AllocationProbe:
    """Rank allocation of the codec ``ere`` against uniform ranks (ERE appendix B.1, figure 7).

    Attributes
    ----------
    rank, bits : int
        Prior rank, and bits a code.
    layers : int
        Matrices that get a rank; all else of the residual stays as it is.
    points : tuple of AllocationPoint
    """

    rank: int
    bits: int
    layers: int
    points: tuple[AllocationPoint, ...]


@dataclass(frozen=True)
class StiefelPoint:
    """One number of bits, decoded in one way.

    Attributes
    ----------
    bits : int
    projected : bool
        Whether decoded singular vectors are projected to the nearest Stiefel matrices.
    bytes : int
        What the codes take.
    relative_error : float
    cosine : float or None
    """

    bits: int
    projected: bool
    bytes: int
    relative_error: float
    cosine: float | None


@dataclass(frozen=True)
class StiefelProbe:
    """The codec ``ere`` with and without the projection on decoding (ERE appendix B.2, figure 8).

    Attributes
    ----------
    rank : int
        Prior rank.
    alpha : float
        Its weight.
    layers : int
        Matrices that get a rank; all else of the residual stays as it is.
    points : tuple of StiefelPoint
    """

    rank: int
    alpha: float
    layers: int
    points: tuple[StiefelPoint, ...]


@dataclass(frozen=True)
class FeaturesUsed:
    """What of a model's answers was compared.

    Attributes
    ----------
    kind : str
        ``last hidden state``, ``logits``, ``output`` (of a model; the mean over positions, where it has any) or ``given``
        (by a function).
    inputs : int
    base_cosine : float or None
        Of what the base answers: what is left of the cosine when all of the residual is gone.
    """

    kind: str
    inputs: int
    base_cosine: float | None


@dataclass(frozen=True)
class ProbeResult(Displayed):
    """How robust a variant is, and its residual.

    Attributes
    ----------
    revision, base : str
    commit : str or None
        None for an expression that equals no commit.
    pattern : str or None
        What names had to match to be altered.
    tensors, matrices : int
        Floating tensors that base and variant share, which may be altered; and those with a rank.
    relative_norm : float
        Norm of their residual over that of the base.
    left_out : tuple of str
        Tensors that hold NaN, infinity or numbers beyond float32, and stay as they are.
    features : FeaturesUsed or None
    perturb : PerturbProbe or None
    truncate : TruncateProbe or None
    allocation : AllocationProbe or None
    stiefel : StiefelProbe or None
        None where it was not asked for.
    """

    revision: str
    commit: str | None
    base: str
    pattern: str | None
    tensors: int
    matrices: int
    relative_norm: float
    left_out: tuple[str, ...]
    features: FeaturesUsed | None
    perturb: PerturbProbe | None
    truncate: TruncateProbe | None
    allocation: AllocationProbe | None
    stiefel: StiefelProbe | None
