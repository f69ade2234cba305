"""Strategies whose result is a linear combination of the variants: all that they choose is coefficients.

Every variant is seen as its difference from the base. The coefficients of a strategy that asks for the Gram matrix
(inner products of these differences, over all tensors of the base) follow from it alone, one for the whole model.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from erestore.errors import UsageError
from erestore.merge.abc import Kind, MergeStrategy

Gram = Callable[[], Sequence[Sequence[float]]]
"""Computes the Gram matrix of the variants when it is asked for."""


class LinearStrategy(MergeStrategy):
    """A way to choose coefficients."""

    @property
    def kind(self) -> Kind:
        """See :attr:`MergeStrategy.kind`."""
        return "linear"

    @abstractmethod
    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:
        """Return one coefficient a variant.

        Parameters
        ----------
        weights : sequence of Fraction
            As the user gave them, 1 each by default.
        gram : Callable

        Raises
        ------
        UsageError
            If the strategy does not fit the number of variants or their weights.
        """


@dataclass(frozen=True)
class Average(LinearStrategy):
    """The mean, weighted if there are weights: ``w_i / sum(w)``."""

    name = "average"

    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:  # noqa: ARG002
        """See :meth:`LinearStrategy.coefficients`."""
        return normalised(weights)


@dataclass(frozen=True)
class Weighted(Average):
    """The same as ``average``, by the name that other tools use with weights."""

    name = "weighted"


@dataclass(frozen=True)
class TaskArithmetic(LinearStrategy):
    """``scale * w_i`` (Ilharco et al. 2023, arXiv 2212.04089): the weights are not normalised.

    Attributes
    ----------
    scale : Fraction
        The paper's lambda.
    """

    name = "task-arithmetic"
    scale: Fraction = Fraction(1)

    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:  # noqa: ARG002
        """See :meth:`LinearStrategy.coefficients`."""
        return [self.scale * weight for weight in weights]


@dataclass(frozen=True)
class Ema(LinearStrategy):
    """Exponential moving average over the variants in order: ``v = decay * v + (1 - decay) * next``, from the first.

    Attributes
    ----------
    decay : Fraction
    """

    name = "ema"
    decay: Fraction = Fraction(9, 10)

    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:  # noqa: ARG002
        """See :meth:`LinearStrategy.coefficients`."""
        if any(weight != 1 for weight in weights):
            raise UsageError(
                "A moving average weights by order.", hint="Leave --weights out, or use --strategy weighted."
            )
        if not 0 <= self.decay <= 1:
            raise UsageError(f"A decay of {self.decay} is not between 0 and 1.")
        coefficients: list[Fraction] = []
        for index in range(len(weights)):
            coefficients = [self.decay * coefficient for coefficient in coefficients]
            coefficients.append(Fraction(1) if index == 0 else 1 - self.decay)
        return coefficients


@dataclass(frozen=True)
class Slerp(LinearStrategy):
    """Spherical interpolation between two variants (Shoemake 1985), of their differences from the base.

    With ``omega`` the angle between the two over all tensors: ``sin((1 - t) omega) / sin(omega)`` and
    ``sin(t omega) / sin(omega)``. Nearly parallel ones are interpolated straight. Libraries that interpolate whole weights
    tensor by tensor compute something else: between fine-tunes of one base those angles are tiny, and that is a mean.

    Attributes
    ----------
    t : Fraction
        0 is the first, 1 the second.
    """

    name = "slerp"
    t: Fraction = Fraction(1, 2)

    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:
        """See :meth:`LinearStrategy.coefficients`."""
        if len(weights) != 2 or any(weight != 1 for weight in weights):
            raise UsageError("slerp is between two variants and has no weights.", hint="Say where with --option t=0.5.")
        (one, cross), (_, two) = gram()
        size = math.sqrt(one * two)
        cosine = max(-1.0, min(1.0, cross / size)) if size else 1.0
        omega = math.acos(cosine)
        if math.sin(omega) < _PARALLEL:
            return [1 - self.t, self.t]
        t = float(self.t)
        return [Fraction(math.sin(part * omega) / math.sin(omega)) for part in (1 - t, t)]


@dataclass(frozen=True)
class ModelStock(LinearStrategy):
    """Mean of the variants drawn towards the base (Jang et al. 2024, arXiv 2403.19522, eq. 5 and section 4.3).

    ``ratio = N cos / (1 + (N - 1) cos)`` with the mean cosine between the differences of N variants; each has the
    coefficient ``ratio / N``. The paper takes a ratio a layer; ours is one for the model, so that the result is linear.

    Where the mean cosine is not positive the formula's ratio is 0 (the base itself) or negative (the opposite of what the
    variants learnt), and without bound near ``cos = -1 / (N - 1)``: such variants are refused.
    """

    name = "model-stock"

    def coefficients(self, weights: Sequence[Fraction], gram: Gram) -> list[Fraction]:
        """See :meth:`LinearStrategy.coefficients`."""
        count = len(weights)
        if count < 2 or any(weight != 1 for weight in weights):
            raise UsageError("model-stock is of two variants or more and has no weights.")
        products = gram()
        pairs = [(one, two) for one in range(count) for two in range(one)]
        cosines = [_cosine(products, one, two) for one, two in pairs]
        cosine = math.fsum(cosines) / len(cosines)
        if cosine <= 0:
            raise UsageError(
                f"The variants have no direction in common (mean cosine {cosine:.2g}): model stock would give the base or "
                "go the opposite way.",
                hint="Use --strategy average, or ties, which settles opposed changes entry by entry.",
            )
        ratio = count * cosine / (1 + (count - 1) * cosine)
        return [Fraction(ratio) / count] * count


_PARALLEL = 1e-6
"""Sine of an angle below which two directions count as one."""


def normalised(weights: Sequence[Fraction]) -> list[Fraction]:
    """Return weights that sum to 1.

    Raises
    ------
    UsageError
        If they sum to 0.
    """
    total = sum(weights, Fraction(0))
    if not total:
        raise UsageError("The weights sum to 0, so there is no average.", hint="Use --strategy task-arithmetic.")
    return [weight / total for weight in weights]


def _cosine(products: Sequence[Sequence[float]], one: int, two: int) -> float:
    size = math.sqrt(products[one][one] * products[two][two])
    return products[one][two] / size if size else 0.0
