"""All strategies by name, with their parameters as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from erestore.errors import UsageError
from erestore.merge.elementwise import Dare, DareTies, ElementwiseStrategy, Ties
from erestore.merge.linear import Average, Ema, LinearStrategy, ModelStock, Slerp, TaskArithmetic, Weighted
from erestore.merge.numbers import rational
from erestore.merge.spectral import CoreSpace, IsoC, Knots, SpectralStrategy, Tsv

Strategy = LinearStrategy | ElementwiseStrategy | SpectralStrategy

_KINDS: tuple[type[Strategy], ...] = (
    *(Average, Weighted, TaskArithmetic, Ema, Slerp, ModelStock),
    *(Ties, Dare, DareTies),
    *(Tsv, IsoC, Knots, CoreSpace),
)
STRATEGIES: Mapping[str, type[Strategy]] = {kind.name: kind for kind in _KINDS}


def strategy(name: str, options: Mapping[str, str]) -> Strategy:
    """Return the strategy of a name with its parameters.

    Raises
    ------
    UsageError
        If there is none, or it has no such parameter, or a value is not a number or out of range.
    """
    if name not in STRATEGIES:
        raise UsageError(f"There is no strategy '{name}'.", hint=f"Use one of {', '.join(STRATEGIES)}.")
    kind = STRATEGIES[name]
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every subclass is a dataclass
    found = {}
    for key, text in options.items():
        if key not in known:
            raise UsageError(
                f"{name} has no parameter '{key}'.", hint=f"It has {', '.join(known)}." if known else "It has none."
            )
        found[key] = rational(text)
        if found[key] is None:
            raise UsageError(f"'{text}' is not a number for {key}.", hint="Write it as 0.25 or 1/4.")
    return kind(**found)
