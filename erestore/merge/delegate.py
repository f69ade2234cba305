"""Strategies that change the space of the variants and leave the merge in it to another strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

from erestore.errors import UsageError
from erestore.merge.abc import ElementwiseStrategy, FactorStrategy, MergeStrategy
from erestore.merge.linear import LinearStrategy
from erestore.merge.operands import Rows, TiledOperands
from erestore.merge.tiles import combination

_KEY = "inner"


@dataclass(frozen=True)
class WrappingStrategy(FactorStrategy):
    """A strategy with another inside; its configuration is ``inner``, the other's name, and the other's own.

    Attributes
    ----------
    inner : MergeStrategy
        One of :attr:`allowed`, in its full space.
    """

    inner: MergeStrategy
    allowed: ClassVar[Mapping[str, type[MergeStrategy]]]
    default: ClassVar[str]

    def __post_init__(self) -> None:
        if getattr(self.inner, "space", "full") != "full":
            raise UsageError(f"{self.name} has a space of its own.", hint="Leave the parameter space out.")
        if self.allowed.get(self.inner.name) is not type(self.inner):
            raise self._refused(self.inner.name)

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> Self:
        """See :meth:`MergeStrategy.configured`."""
        rest = dict(options)
        name = rest.pop(_KEY, cls.default)
        if name not in cls.allowed:
            raise cls._refused(name)
        return cls(cls.allowed[name].configured(rest))

    def configuration(self) -> dict[str, Any]:
        """See :meth:`MergeStrategy.configuration`."""
        return {_KEY: self.inner.name, **self.inner.configuration()}

    def check(self, weights: Sequence[Fraction]) -> None:
        """See :meth:`MergeStrategy.check`."""
        super().check(weights)
        self.inner.check(weights)

    def fallback(self) -> MergeStrategy:
        """See :meth:`FactorStrategy.fallback`: the inner strategy, which needs no space."""
        if self.inner.kind == "factors" and isinstance(self.inner, FactorStrategy):
            return self.inner.fallback()
        return self.inner

    def prepared(self, operands: TiledOperands) -> Rows:
        """Return what the inner strategy, which does not work on factors, makes of tiles."""
        if isinstance(self.inner, ElementwiseStrategy):
            return self.inner.prepare(operands)
        assert isinstance(self.inner, LinearStrategy)
        return combination(
            operands, [float(coefficient) for coefficient in self.inner.coefficients(operands.weights, _no_gram)]
        )

    @classmethod
    def _refused(cls, name: object) -> UsageError:
        return UsageError(f"{cls.name} cannot merge by '{name}'.", hint=f"Use {', '.join(cls.allowed)}.")


def _no_gram() -> Sequence[Sequence[float]]:
    raise AssertionError("no strategy that asks for a Gram matrix is allowed inside another")
