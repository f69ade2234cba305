"""The small immutable records of a store: base, layout, manifest, commit.

Each class mirrors one record of docs/format.md: ``to_record`` gives the JSON object that is stored, ``from_record`` reads
it strictly (an unknown field means a newer format and is refused), ``references`` names every object it needs, which is
what garbage collection and fsck walk. Nothing here reads storage or touches an array.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, Self

from erestore.errors import CorruptionError, UnsupportedFormatError

EDGES = ("imported", "adapted", "versioned", "merged", "picked", "reverted", "flattened", "rebased")
"""What a commit is to its parents."""

Coefficient = Fraction | float
"""A term's coefficient: an exact rational while numerator and denominator stay below 2**63, else a float64."""

_LARGEST = 2**63
LATEST = 253_402_300_800_000_000
"""The year 10000 in microseconds since 1970, which no time in a record reaches."""


def format_coefficient(value: Coefficient) -> str:
    """Write the one canonical form: ``-2``, ``1/3``, or the shortest float64 text with a ``.`` or ``e``."""
    if isinstance(value, Fraction):
        if abs(value.numerator) < _LARGEST and value.denominator < _LARGEST:
            return str(value)
        value = value.numerator / value.denominator
    return repr(value)


def parse_coefficient(text: str) -> Coefficient:
    """Read a stored coefficient, refusing any form but the canonical one."""
    try:
        value: Coefficient = float(text) if any(c in text for c in ".einf") else Fraction(text)
        if format_coefficient(value) == text and value == value and abs(value) != float("inf"):  # noqa: PLR0124 - NaN
            return value
    except (ValueError, ZeroDivisionError, OverflowError):
        pass
    raise CorruptionError(f"'{text}' is not a coefficient.")


class TensorRef(NamedTuple):
    """Where raw tensor data is: `segments` consecutive segments of the ``tensors`` object `oid`, from `first`."""

    oid: str
    first: int
    segments: int


@dataclass(frozen=True)
class WholeTensor:
    """One whole tensor: dtype, shape, BLAKE3 of dtype, shape and bytes, and where the bytes are."""

    dtype: str
    shape: tuple[int, ...]
    digest: str
    data: TensorRef

    def to_record(self) -> list[Any]:
        """Return the stored JSON array."""
        return [self.dtype, list(self.shape), self.digest, list(self.data)]

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Read a stored JSON array."""
        dtype, shape, digest, (oid, first, segments) = record
        if not all(isinstance(text, str) for text in (dtype, digest, oid)):
            raise TypeError
        return cls(dtype, _shape(shape), digest, TensorRef(oid, _number(first), _number(segments)))


class Part(NamedTuple):
    """One weighted dense operand: coefficient and tensor."""

    coefficient: Coefficient
    tensor: WholeTensor


@dataclass(frozen=True)
class Base:
    """Whole tensors by name; a base never has a base."""

    tensors: Mapping[str, WholeTensor]

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        return {"tensors": {key: tensor.to_record() for key, tensor in self.tensors.items()}}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        with _reading("base", record, {"tensors"}):
            return cls({key: WholeTensor.from_record(held) for key, held in record["tensors"].items()})

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        for oid in {tensor.data.oid for tensor in self.tensors.values()}:
            yield "tensors", oid


@dataclass(frozen=True)
class LayoutTensor:
    """One tensor under the variant's own name: the manifest key that holds its value, its dtype and shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayoutFile:
    """One weight file: POSIX path, own names in order, header metadata."""

    name: str
    tensors: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How a variant looks outside the store: names, dtypes, ties, files; shared by variants that agree.

    Attributes
    ----------
    format : str
        ``safetensors`` or ``torch``.
    is_directory : bool
    files : tuple of LayoutFile
    tensors : Mapping[str, LayoutTensor]
        By own name. Tied names share one manifest key.
    ties : tuple of tuple of str
    side_files : Mapping[str, str]
        POSIX path to blob oid.
    structure : str or None
        Blob oid of the JSON skeleton of a torch file that is more than one flat state dict.
    """

    format: str
    is_directory: bool
    files: tuple[LayoutFile, ...]
    tensors: Mapping[str, LayoutTensor]
    ties: tuple[tuple[str, ...], ...] = ()
    side_files: Mapping[str, str] = field(default_factory=dict)
    structure: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        return {
            "format": self.format,
            "is_directory": self.is_directory,
            "files": [[file.name, list(file.tensors), dict(file.metadata)] for file in self.files],
            "tensors": {name: [t.key, t.dtype, list(t.shape)] for name, t in self.tensors.items()},
            "ties": [list(group) for group in self.ties],
            "side_files": dict(self.side_files),
            "structure": self.structure,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        fields = {"format", "is_directory", "files", "tensors", "ties", "side_files", "structure"}
        with _reading("layout", record, fields):
            return cls(
                format=_text(record["format"]),
                is_directory=_typed(record["is_directory"], bool),
                files=tuple(
                    LayoutFile(_text(name), _texts(names), _text_map(metadata))
                    for name, names, metadata in record["files"]
                ),
                tensors={
                    name: LayoutTensor(_text(key), _text(dtype), _shape(shape))
                    for name, (key, dtype, shape) in record["tensors"].items()
                },
                ties=tuple(map(_texts, record["ties"])),
                side_files=_text_map(record["side_files"]),
                structure=_typed(record["structure"], str | None),
            )

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        for oid in self.side_files.values():
            yield "blob", oid
        if self.structure:
            yield "blob", self.structure


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
            "dense": _parts_record(self.dense),
            "rows": _parts_record(self.rows),
            "patch": self.patch,
            "layout": self.layout,
            "digests": dict(self.digests),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        with _reading("manifest", record, {"base", "terms", "dense", "rows", "patch", "layout", "digests"}):
            terms = tuple(Term(_text(oid), parse_coefficient(text)) for oid, text in record["terms"])
            if terms != normal_terms(terms):
                raise CorruptionError("A manifest's terms are not in canonical order.")
            return cls(
                base=_text(record["base"]),
                terms=terms,
                layout=_text(record["layout"]),
                dense=_read_parts(record["dense"]),
                rows=_read_parts(record["rows"]),
                patch=_typed(record["patch"], str | None),
                digests=_text_map(record["digests"]),
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


@dataclass(frozen=True)
class Commit:
    """One point in the lineage.

    Attributes
    ----------
    manifest : str
    parents : tuple of str
        Commit oids.
    edge : str
        One of :data:`EDGES`.
    author, message : str
    time : int
        Microseconds since 1970 UTC.
    own : tuple of str
        Residuals that this commit introduced.
    metrics : Mapping[str, str]
    quality : Mapping[str, str]
        What was asked and reached: ``relative_error`` (shortest float64 text), ``codec``, ``exact`` ("yes"/"no"), ...
    original_bytes : int
        Size of the checkpoint that was committed.
    stored_bytes : int
        Bytes that this commit added to the store, less this record itself.
    recipe : Any
        How a merge was made, as JSON, or None.
    """

    manifest: str
    parents: tuple[str, ...]
    edge: str
    author: str
    time: int
    message: str
    own: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, str] = field(default_factory=dict)
    original_bytes: int = 0
    stored_bytes: int = 0
    recipe: Any = None

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        return {
            "manifest": self.manifest,
            "parents": list(self.parents),
            "edge": self.edge,
            "author": self.author,
            "time": self.time,
            "message": self.message,
            "own": list(self.own),
            "metrics": dict(self.metrics),
            "quality": dict(self.quality),
            "original_bytes": self.original_bytes,
            "stored_bytes": self.stored_bytes,
            "recipe": self.recipe,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        fields = set(cls.__dataclass_fields__)
        with _reading("commit", record, fields):
            if _text(record["edge"]) not in EDGES:
                raise UnsupportedFormatError(f"A commit has the unknown edge '{record['edge']}'.")
            return cls(
                manifest=_text(record["manifest"]),
                parents=_texts(record["parents"]),
                edge=record["edge"],
                author=_text(record["author"]),
                time=_number(record["time"], LATEST),
                message=_text(record["message"]),
                own=_texts(record["own"]),
                metrics=_text_map(record["metrics"]),
                quality=_text_map(record["quality"]),
                original_bytes=_number(record["original_bytes"]),
                stored_bytes=_number(record["stored_bytes"]),
                recipe=record["recipe"],
            )

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        yield "manifest", self.manifest
        for oid in self.own:
            yield "residual", oid
        for oid in self.parents:
            yield "commit", oid


def relative_error(commit: Commit) -> float | None:
    """Return the error that was measured when the commit was made, None if there was nothing to measure against."""
    text = commit.quality.get("relative_error")
    try:
        return None if text is None else float(text)
    except ValueError:
        raise CorruptionError(f"A commit records the relative error '{text}', which is no number.") from None


class _reading:  # noqa: N801 - used as a statement
    """Turn what strict reading trips over into the one error that names the kind."""

    def __init__(self, kind: str, record: Mapping[str, Any], fields: set[str]) -> None:
        self.kind = kind
        if unknown := sorted(set(record) - fields):
            raise UnsupportedFormatError(
                f"A {kind} has the unknown field '{unknown[0]}'.",
                hint="A newer erestore wrote it; upgrade to read it.",
            )
        if missing := sorted(fields - set(record)):
            raise CorruptionError(f"A {kind} lacks the field '{missing[0]}'.")

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, TypeError | ValueError | KeyError | AttributeError):
            raise CorruptionError(f"A {self.kind} is malformed.") from error


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _text(value: Any) -> str:
    text: str = _typed(value, str)
    return text


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, _typed(value, list)))


def _text_map(value: Any) -> dict[str, str]:
    return {_text(key): _text(text) for key, text in _typed(value, dict).items()}


def _number(value: Any, limit: int = _LARGEST) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError
    return value


def _shape(value: Any) -> tuple[int, ...]:
    return check_shape(map(_number, _typed(value, list)))


def check_shape(sizes: Iterable[int]) -> tuple[int, ...]:
    """Return a shape if a tensor can have it: at most 64 dimensions, and sizes whose product is below 2**60.

    Raises
    ------
    ValueError
        If not.
    """
    shape = tuple(sizes)
    if len(shape) > 64 or math.prod(max(1, size) for size in shape) >= 1 << 60:
        raise ValueError
    return shape


def _parts_record(parts: Mapping[str, tuple[Part, ...]]) -> dict[str, Any]:
    return {
        key: [[format_coefficient(part.coefficient), part.tensor.to_record()] for part in value]
        for key, value in parts.items()
    }


def _read_parts(record: Mapping[str, Any]) -> dict[str, tuple[Part, ...]]:
    return {
        key: tuple(Part(parse_coefficient(text), WholeTensor.from_record(held)) for text, held in value)
        for key, value in record.items()
    }
