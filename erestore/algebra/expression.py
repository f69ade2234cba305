"""Revision expressions: linear combinations of variants, such as ``0.6*a + 0.4*b - c`` or ``mean(a, b, c)``.

A name denotes ``variant - base``; the whole denotes ``base + expression``. Grammar::

    sum     = ["+" | "-"] product { ("+" | "-") product }
    product = factor { "*" factor | "/" number }
    factor  = number | revision | "(" sum ")" | "mean" "(" sum { "," sum } ")"

Names may hold ``-`` and ``/``, so these are operators only where white space or a parenthesis sets them apart: ``a - b``,
``(a + b) / 2``. A number is a name unless it multiplies or divides. Coefficients are rationals: ``0.1`` is 1/10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple, NoReturn

from erestore.errors import UsageError

LONGEST = 1 << 18
"""Characters of an expression."""
DEEPEST = 50
"""Parentheses within parentheses."""
LARGEST = 1000
"""Bits of numerator and denominator of a coefficient."""

_WORD = r"[A-Za-z0-9_./@{}~^-]"
_TOKENS = re.compile(rf"\s+|[+*(),]|[-/](?=[\s(]|$)|(?<=\))/|-(?={_WORD})|{_WORD}+")
_NUMBER = re.compile(r"(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,2})?(?:/\d{1,40})?")
_MARKS = re.compile(r"[\s+*(),]|^-")


class Token(NamedTuple):
    """A piece of an expression: ``number``, ``name``, or an operator as it is written."""

    kind: str
    text: str
    position: int


def is_expression(text: str) -> bool:
    """Return whether `text` is more than the name of one revision."""
    return _MARKS.search(text) is not None


def parse_expression(text: str) -> dict[str, Fraction]:
    """Return the coefficient of every revision that an expression names, in the order in which they come first.

    Raises
    ------
    UsageError
        If it is not an expression, or not a linear one.
    """
    if len(text) > LONGEST:
        raise UsageError(f"An expression of {len(text)} characters is too long.", hint="Merge in several steps.")
    return _Parser(text).whole()


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            _refuse(text, f"'{text[position]}' has no meaning in it")
        if not match[0].isspace():
            yield Token(
                "name" if re.match(_WORD, match[0]) and match[0] not in ("-", "/") else match[0], match[0], position
            )
        position = match.end()


def _refuse(text: str, reason: str) -> NoReturn:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    raise UsageError(
        f"'{shown}' is not an expression: {reason}.",
        hint="Write it as '0.6*a + 0.4*b - c', 'a + 0.5*(b - a)' or 'mean(a, b, c)'.",
    )


class _Value(NamedTuple):
    """A number, or a linear form without a constant."""

    number: Fraction | None
    form: dict[str, Fraction]


class _Parser:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.next = 0
        self.depth = 0

    def whole(self) -> dict[str, Fraction]:
        """Read all of it."""
        value = self.form(self.sum())
        if not value:
            self.refuse("it names no revision")
        if self.next < len(self.tokens):
            self.refuse(f"'{self.tokens[self.next].text}' is not expected there")
        return value

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error."""
        _refuse(self.text, reason)

    def peek(self, ahead: int = 0) -> str:
        """Return the kind of a coming token, empty at the end."""
        position = self.next + ahead
        return self.tokens[position].kind if position < len(self.tokens) else ""

    def take(self, *kinds: str) -> str | None:
        """Step over a token of one of these kinds; return which."""
        kind = self.peek()
        if kind and kind in kinds:
            self.next += 1
            return kind
        return None

    def form(self, value: _Value) -> dict[str, Fraction]:
        """Return a value that has to be a sum of revisions."""
        if value.number is not None:
            self.refuse("a number alone stands where a revision is expected")
        return value.form

    def sum(self) -> _Value:
        """Read ``product + product - ...``."""
        sign = -1 if self.take("+", "-") == "-" else 1
        value = self.scaled(self.product(), Fraction(sign))
        while operator := self.take("+", "-"):
            right = self.scaled(self.product(), Fraction(-1 if operator == "-" else 1))
            if value.number is not None and right.number is not None:
                value = _Value(value.number + right.number, {})
            else:
                _add(self.form(value), self.form(right))
        return value

    def product(self) -> _Value:
        """Read ``factor * factor / number ...``."""
        value = self.factor()
        while operator := self.take("*", "/"):
            right = self.factor()
            if operator == "/":
                if not right.number:
                    self.refuse("only numbers other than 0 divide")
                right = _Value(1 / right.number, {})
            if value.number is None and right.number is None:
                self.refuse("a product of two revisions is not linear")
            number, other = (value.number, right) if value.number is not None else (right.number, value)
            value = self.scaled(other, number or Fraction(0))
        return value

    def factor(self) -> _Value:
        """Read a number, a revision, a sum in parentheses or a mean."""
        if self.peek() == "(":
            return self.group(lambda parts: parts[0] if len(parts) == 1 else self.refuse("a comma is only for mean()"))
        if self.peek() != "name":
            reason = (
                "it ends too early" if not self.peek() else f"'{self.tokens[self.next].text}' is not expected there"
            )
            self.refuse(reason)
        token = self.tokens[self.next]
        self.next += 1
        if token.text == "mean" and self.peek() == "(":
            return self.group(self.mean)
        if _NUMBER.fullmatch(token.text) and (self.peek() in ("*", "/") or self.is_multiplied()):
            return _Value(self.number(token.text), {})
        return _Value(None, {token.text: Fraction(1)})

    def scaled(self, value: _Value, by: Fraction) -> _Value:
        """Multiply."""
        if value.number is not None:
            return _Value(self.checked(value.number * by), {})
        if by == 1:
            return value
        return _Value(None, {name: self.checked(coefficient * by) for name, coefficient in value.form.items()})

    def checked(self, number: Fraction) -> Fraction:
        """Return a coefficient, unless it is absurd."""
        if max(number.numerator.bit_length(), number.denominator.bit_length()) > LARGEST:
            self.refuse("a coefficient has too many digits")
        return number

    def is_multiplied(self) -> bool:
        """Return whether the token just taken follows ``*`` or ``/``."""
        return self.next >= 2 and self.tokens[self.next - 2].kind in ("*", "/")

    def number(self, text: str) -> Fraction:
        """Return the value of a number as it is written, ``p/q`` included."""
        above, _, below = text.partition("/")
        if below and not int(below):
            self.refuse("it divides by 0")
        return Fraction(above) / int(below or 1)

    def mean(self, parts: list[_Value]) -> _Value:
        """Return the mean of several sums."""
        total: dict[str, Fraction] = {}
        for part in parts:
            _add(total, self.form(part))
        return self.scaled(_Value(None, total), Fraction(1, len(parts)))

    def group(self, finish: Callable[[list[_Value]], _Value]) -> _Value:
        """Read sums in parentheses."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"parentheses are nested more than {DEEPEST} deep")
        self.take("(")
        parts = [self.sum()]
        while self.take(","):
            parts.append(self.sum())
        if not self.take(")"):
            self.refuse("a parenthesis is not closed")
        self.depth -= 1
        return finish(parts)


def _add(total: dict[str, Fraction], more: dict[str, Fraction]) -> None:
    for name, coefficient in more.items():
        total[name] = total.get(name, Fraction(0)) + coefficient
