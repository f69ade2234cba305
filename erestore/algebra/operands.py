"""Variants with coefficients, and what is read of them to combine them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from erestore.errors import CombinationError, Conflict
from erestore.records import Base, Layout, LayoutTensor, Manifest, Term, WholeTensor
from erestore.storage.objects import ObjectStore


class Operand(NamedTuple):
    """A variant with its coefficient; `name` is what people call it, `commit` its oid."""

    coefficient: Fraction
    name: str
    commit: str
    manifest: Manifest


def require_one_base(operands: Sequence[Operand]) -> None:
    """Make sure that variants can be combined at all.

    Raises
    ------
    CombinationError
        If they have different bases.
    """
    if len({operand.manifest.base for operand in operands}) > 1:
        raise CombinationError(
            f"{listed_names(operands)} are not variants of one base.",
            (Conflict("base", "", "different bases", tuple(operand.name for operand in operands)),),
            hint="`erestore rebase VARIANT --onto BASE` brings one onto the other's base.",
        )


def each_once(operands: Iterable[Operand]) -> list[Operand]:
    """Return every commit once, with the sum of its coefficients."""
    summed: dict[str, Operand] = {}
    for operand in operands:
        former = summed.get(operand.commit)
        summed[operand.commit] = (
            operand if former is None else former._replace(coefficient=former.coefficient + operand.coefficient)
        )
    return list(summed.values())


def listed_names(operands: Iterable[Operand]) -> str:
    """Return the names of operands as a sentence has them."""
    names = list(dict.fromkeys(f"'{operand.name}'" for operand in operands))
    if len(names) < 2 or len(names) > 5:
        return names[0] if len(names) == 1 else f"{', '.join(names[:4])} and others"
    return f"{', '.join(names[:-1])} and {names[-1]}"


class Combined:
    """Operands of one base that are being combined, and their records, each read once.

    Parameters
    ----------
    objects : ObjectStore
    operands : sequence of Operand
        With coefficients other than 0, unless all have none.
    """

    def __init__(self, objects: ObjectStore, operands: Sequence[Operand]) -> None:
        self.objects = objects
        self.operands = operands
        self._layouts: dict[str, Layout] = {}
        self._keys: dict[str, frozenset[str]] = {}
        self._files: dict[str, Any] = {}
        self._touched: dict[str, frozenset[str]] = {}

    @cached_property
    def base(self) -> Mapping[str, WholeTensor]:
        """The base's tensors."""
        return Base.from_record(self.objects.get_record("base", self.operands[0].manifest.base)).tensors

    def layout(self, operand: Operand) -> Layout:
        """Return an operand's layout; most share one."""
        oid = operand.manifest.layout
        if oid not in self._layouts:
            self._layouts[oid] = Layout.from_record(self.objects.get_record("layout", oid))
        return self._layouts[oid]

    def has(self, operand: Operand, key: str) -> bool:
        """Return whether an operand has a tensor at all, its own or the base's."""
        oid = operand.manifest.layout
        if oid not in self._keys:
            self._keys[oid] = frozenset(tensor.key for tensor in self.layout(operand).tensors.values())
        return key in self._keys[oid]

    def is_base(self, operand: Operand) -> bool:
        """Return whether an operand is the base, or changes nothing of it."""
        return not operand.manifest.terms and not operand.manifest.dense

    def tensor(self, operand: Operand, key: str) -> LayoutTensor:
        """Return what an operand's layout says of a tensor that it has."""
        return next(tensor for tensor in self.layout(operand).tensors.values() if tensor.key == key)

    @property
    def differ(self) -> bool:
        """Whether there is more than one layout."""
        return len({operand.manifest.layout for operand in self.operands}) > 1

    def names(self, places: Iterable[int]) -> tuple[str, ...]:
        """Return the names of the operands at some indices."""
        return tuple(self.operands[index].name for index in places)

    def listed(self, places: Iterable[int]) -> str:
        """Return these names as a sentence has them."""
        return listed_names(self.operands[index] for index in places)

    def weight(self, places: Iterable[int]) -> Fraction:
        """Return the sum of the coefficients of the operands at some indices."""
        return sum((self.operands[index].coefficient for index in places), Fraction(0))

    def others(self, places: Collection[int]) -> list[Operand]:
        """Return the operands at all other indices."""
        return [operand for index, operand in enumerate(self.operands) if index not in places]

    def touches(self, operand: Operand, key: str) -> bool:
        """Return whether a term of an operand changes a tensor of the base."""
        return any(True for _ in self.terms(operand, key))

    def terms(self, operand: Operand, key: str) -> Iterator[Term]:
        """Yield the terms of an operand that change a tensor of the base."""
        for term in operand.manifest.terms:
            if term.residual not in self._touched:
                index = self.objects.open("residual", term.residual).index
                self._touched[term.residual] = frozenset(index["tensors"])
            if key in self._touched[term.residual]:
                yield term

    def side_json(self, operand: Operand, name: str) -> Any:
        """Return what a JSON side file of an operand holds; None if there is none, or it is not JSON."""
        oid = self.layout(operand).side_files.get(name)
        if oid is None:
            return None
        if oid not in self._files:
            try:
                self._files[oid] = json.loads(self.objects.get_blob(oid))
            except (ValueError, RecursionError):
                self._files[oid] = None
        return self._files[oid]
