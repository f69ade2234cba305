"""Sums of what manifests hold: terms, and whole tensors with coefficients."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from erestore.algebra.operands import Operand
from erestore.errors import UsageError
from erestore.records import Part, Term, WholeTensor, format_coefficient, normal_terms, parse_coefficient

Parts = tuple[Part, ...]

_SMALLEST = Fraction(1, 2**1000)


def sum_terms(operands: Iterable[Operand]) -> tuple[Term, ...]:
    """Sum the terms of operands.

    Raises
    ------
    UsageError
        If a coefficient is beyond what can be stored.
    """
    terms = normal_terms(
        tuple(
            Term(term.residual, operand.coefficient * _exact(term.coefficient))
            for operand in operands
            for term in operand.manifest.terms
        )
    )
    stored = (Term(oid, _stored(_exact(coefficient))) for oid, coefficient in terms)
    return tuple(term for term in stored if term.coefficient != 0)


def sum_parts(weighted: Iterable[tuple[Fraction, Parts]]) -> Parts:
    """Sum whole tensors; equal ones are one part, and what cancels is gone."""
    total: dict[str, tuple[Fraction, WholeTensor]] = {}
    for weight, parts in weighted:
        for part in parts:
            before, tensor = total.get(part.tensor.digest, (Fraction(0), part.tensor))
            total[part.tensor.digest] = before + weight * _exact(part.coefficient), tensor
    return tuple(Part(_stored(weight), tensor) for _, (weight, tensor) in sorted(total.items()) if weight)


def _exact(coefficient: Fraction | float) -> Fraction:
    return coefficient if isinstance(coefficient, Fraction) else Fraction(coefficient)


def _stored(coefficient: Fraction) -> Fraction | float:
    """Return a coefficient as it is after it was written and read."""
    if coefficient and not _SMALLEST < abs(coefficient) < 1 / _SMALLEST:
        raise UsageError(
            "A coefficient of the result is beyond what floating-point numbers hold.", hint="Scale the variants less."
        )
    return parse_coefficient(format_coefficient(coefficient))
