"""What a variant is: a base and a linear combination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from erestore.errors import CorruptionError
from erestore.records.coefficients import Coefficient, format_coefficient, parse_coefficient
from erestore.records.parse import read_text, read_text_map, read_typed, reading
from erestore.records.tensors import Part, parts_record, read_parts


class Term(NamedTuple):
    """One residual and its coefficient."""

    residual: str
    coefficient: Coefficient


@dataclass(frozen=True)
class Manifest:
    """What a variant is: ``value = base + sum(coefficient * residual)``, with dense tensors and an exact patch.

    Attributes
    ----------
    base : str
        Oid of the base record.
    terms : tuple of Term
        Sorted by residual oid, equal oids summed, zeros dropped; use :func:`normal_terms`.
    dense : Mapping[str, tuple of Part]
        Tensors that are held whole, by key, overriding base and terms.
    rows : Mapping[str, tuple of Part]
        Rows appended below the base's rows where a vocabulary grew, by key.
    patch : str or None
        Oid of the exact remainder.
    layout : str
        Oid of the layout.
    digests : Mapping[str, str]
        By key: first 16 bytes (hex) of the BLAKE3 of the rounded linear value's bytes; encoded commits carry them.
    """

    base: str
    terms: tuple[Term, ...]
    layout: str
    dense: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    patch: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        return {
            "base": self.base,
            "terms": [[term.residual, format_coefficient(term.coefficient)] for term in self.terms],
            "dense": parts_record(self.dense),
            "rows": parts_record(self.rows),
            "patch": self.patch,
            "layout": self.layout,
            "digests": dict(self.digests),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        with reading("manifest", record, {"base", "terms", "dense", "rows", "patch", "layout", "digests"}):
            terms = tuple(Term(read_text(oid), parse_coefficient(text)) for oid, text in record["terms"])
            if terms != normal_terms(terms):
                raise CorruptionError("A manifest's terms are not in canonical order.")
            return cls(
                base=read_text(record["base"]),
                terms=terms,
                layout=read_text(record["layout"]),
                dense=read_parts(record["dense"]),
                rows=read_parts(record["rows"]),
                patch=read_typed(record["patch"], str | None),
                digests=read_text_map(record["digests"]),
            )

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        yield "base", self.base
        yield "layout", self.layout
        for term in self.terms:
            yield "residual", term.residual
        for parts in (*self.dense.values(), *self.rows.values()):
            for part in parts:
                yield "tensors", part.tensor.data.oid
        if self.patch:
            yield "patch", self.patch


def normal_terms(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Sum equal residuals, drop zeros, sort by oid: the one canonical form of a linear combination."""
    total: dict[str, Coefficient] = {}
    for oid, coefficient in terms:
        total[oid] = total[oid] + coefficient if oid in total else coefficient
    return tuple(Term(oid, total[oid]) for oid in sorted(total) if total[oid] != 0)
