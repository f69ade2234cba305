"""Parameters of a strategy as text or JSON without floats, and back: the fields of its dataclass.

Numbers are rationals, written as ``1/5`` or ``0.2`` and kept exactly; a recipe holds them as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from fractions import Fraction
from typing import Any, get_type_hints

from erestore.errors import UsageError

_LONGEST = 400
_BITS = 1000
"""Characters of a number, and bits of its parts: as much as a float64 holds."""
_ABSURD = re.compile(r"[eE][+-]?[0_]*[1-9](?:_?\d){3}")
"""An exponent of four digits or more: reading it would take as many digits as it says."""


def rational(text: Fraction | float | str) -> Fraction | None:
    """Return a number as it is written, exactly; None if it is none, or absurdly large or small."""
    if isinstance(text, str) and (len(text) > _LONGEST or _ABSURD.search(text)):
        return None
    try:
        number = Fraction(text)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if max(number.numerator.bit_length(), number.denominator.bit_length()) < _BITS else None


def configuration_of(strategy: Any) -> dict[str, Any]:
    """Return the fields of a strategy as JSON without floats."""
    values = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
    return {name: str(value) if isinstance(value, Fraction) else value for name, value in values.items()}


def parse(kind: Any, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a strategy's class.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are of type Fraction, int or str.
    name : str
        As the user knows it.
    options : Mapping[str, object]
        Text, or what :func:`configuration_of` returns.

    Raises
    ------
    UsageError
        If there is no such parameter, or a value is not of its type.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    arguments = {}
    for key, value in options.items():
        if key not in names:
            raise UsageError(
                f"{name} has no parameter '{key}'.", hint=f"It has {', '.join(names)}." if names else "It has none."
            )
        reader, what, hint = _READERS[hints[key]]
        read = reader(value)
        if read is None:
            raise UsageError(f"'{value}' is not {what} for {key}.", hint=hint)
        arguments[key] = read
    return arguments


def _number(value: object) -> Fraction | None:
    return rational(value) if isinstance(value, (Fraction, float, int, str)) and not isinstance(value, bool) else None


def _integer(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.denominator == 1 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


_READERS: Mapping[Any, tuple[Callable[[object], Any], str, str]] = {
    Fraction: (_number, "a number", "Write it as 0.25 or 1/4."),
    int: (_integer, "a whole number", "Write it as 3."),
    str: (_text, "a word", "Write one of its names."),
}


def require_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Make sure that a parameter has one of its values.

    Raises
    ------
    UsageError
    """
    if value not in choices:
        raise UsageError(f"'{value}' is not a value for {what}.", hint=f"Use {' or '.join(choices)}.")


def require_density(density: Fraction) -> None:
    """Make sure that a density is a share of the entries that leaves some.

    Raises
    ------
    UsageError
    """
    if not 0 < density <= 1:
        raise UsageError(f"A density of {density} is out of range.", hint="Use more than 0, and at most 1 for all.")
