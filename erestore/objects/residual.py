"""Reading residual objects: sections of many tensors packed into few segments, largest components first.

Parts are taken with the tensors sorted, and those of one band gather in segments of about 4 MiB. Segments are ordered by band,
so that a prefix of the object is the same model at a lower rank. The place of a part within its segment follows from the
order (tensors sorted, their sections and parts as stored), so the index holds only lengths.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, overload

from erestore.arrays import matrix_shape
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.objects.index import RESIDUAL_OPTIONAL, Placement, check_fields, check_index, check_size, read_shape
from erestore.objects.residual_prefix import UNLIMITED, LeftError, PrefixLimit, StoredSection, band_stops
from erestore.objects.squared_errors import Errors
from erestore.residual import entropy
from erestore.residual.codecs.abc import Section
from erestore.residual.codecs.registry import codec, known_codecs
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import Segment, SegmentedObject

EVALUATOR = 1
"""Version of the evaluation contract."""
CACHE_BYTES = 32 << 20
"""Decoded segments kept while a residual is read tensor by tensor."""


@dataclass(frozen=True)
class StoredTensor:
    """What a residual holds of one tensor."""

    shape: tuple[int, ...]
    sections: tuple[StoredSection, ...]
    errors: Errors

    @property
    def matrix(self) -> tuple[int, int]:
        """The shape as rows and columns; see :mod:`erestore.residual.codecs.abc`."""
        return matrix_shape(self.shape)


@dataclass
class Residual:
    """A residual object opened for reading.

    Attributes
    ----------
    oid, base : str
    tensors : Mapping[str, StoredTensor]
    bands : tuple of (int, float)
        For every band: how many segments end with it, and the relative error of the linear value that those leave, over
        all floating tensors; empty where it was not recorded.
    """

    oid: str
    base: str
    tensors: Mapping[str, StoredTensor]
    bands: tuple[tuple[int, float], ...]
    _object: SegmentedObject
    _cache_bytes: int = CACHE_BYTES
    _prefix: PrefixLimit = UNLIMITED
    _decoded: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, objects: ObjectStore, oid: str, *, cache_bytes: int = CACHE_BYTES) -> Self:
        """Read and check the index.

        Parameters
        ----------
        objects : ObjectStore
        oid : str
        cache_bytes : int
            Decoded segments kept while tensors are read.

        Raises
        ------
        UnsupportedFormatError
            If it was written for a newer evaluator.
        """
        stored = objects.open("residual", oid)
        index = stored.index
        if index.get("evaluator") != EVALUATOR:
            raise UnsupportedFormatError(
                f"The residual {oid[:12]} needs evaluator {index.get('evaluator')}; this version has {EVALUATOR}.",
                hint="Upgrade erestore to read it.",
            )
        features = index.get("features")
        readable = {*entropy.STAGES, *known_codecs(features if isinstance(features, list) else ())}
        check_index("residual", oid, index, {"base", "evaluator", "tensors"}, readable, RESIDUAL_OPTIONAL)
        try:
            bands = tuple(_bands(index["bands"], len(stored.segments))) if "bands" in index else ()
            tensors = dict(_tensors(index["tensors"], [segment.raw_length for segment in stored.segments]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CorruptionError(f"The residual {oid[:12]} has a malformed index.") from error
        _check_expansion(oid, stored.segments, tensors)
        return cls(oid, str(index["base"]), tensors, bands, stored, cache_bytes)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, bands in order."""
        return self._object.segments

    @property
    def band_stops(self) -> tuple[int, ...]:
        """For every band, how many segments end with it; where that was not recorded, as parts of sections tell."""
        return tuple(stop for stop, _ in self.bands) or band_stops(self._sections(), len(self.segments))

    def limit(self, *, segments: int | None = None, rank: int | None = None) -> None:
        """Read only a prefix: the first segments, or the first components of matrices. Call it before anything is read."""
        self._prefix = PrefixLimit(segments, rank)

    @cached_property
    def _used(self) -> tuple[int, int]:
        """How many leading segments are read wholly, and how many at all."""
        return self._prefix.segments_of(self._sections(), len(self.segments))

    def _sections(self) -> Iterator[tuple[StoredSection, tuple[int, int]]]:
        return ((section, tensor.matrix) for tensor in self.tensors.values() for section in tensor.sections)

    @property
    def is_prefix(self) -> bool:
        """Whether only a prefix is read."""
        return self._used[0] < len(self.segments)

    def leaves_out(self, keys: Collection[str]) -> bool:
        """Return whether something of one of some tensors is left out."""
        sections = (
            (section, tensor.matrix)
            for key, tensor in self.tensors.items()
            if key in keys
            for section in tensor.sections
        )
        return any(self._prefix.parts_of(section, shape)[0] < len(section.parts) for section, shape in sections)

    @property
    def read_bytes(self) -> int:
        """Stored size of the segments that are read."""
        return sum(segment.stored_length for segment in self.segments[: self._used[1]])

    @property
    def left_error(self) -> LeftError | None:
        """Relative error of the linear value that the prefix leaves, None where it was not recorded."""
        if not self.bands:
            return None
        complete, used = self._used
        bands = [(stop, error) for stop, error in self.bands if stop <= complete]
        stop, error = bands[-1] if bands else (0, 1.0)
        return LeftError(error, is_measured=bool(bands) and used <= stop)

    def sections(self, key: str) -> tuple[Section, ...]:
        """Return one tensor's sections, ready for evaluation; empty if the residual does not touch it."""
        tensor = self.tensors.get(key)
        if tensor is None:
            return ()
        sections = (self._section(section, tensor.matrix) for section in tensor.sections)
        return tuple(section for section in sections if section is not None)

    def streamed(self, key: str) -> tuple[Section, ...]:
        """Return :meth:`sections` for one thread that evaluates rows in ascending order: what is large is not held whole."""
        tensor = self.tensors.get(key)
        if tensor is None:
            return ()
        sections = (self._section(section, tensor.matrix, streamed=True) for section in tensor.sections)
        return tuple(section for section in sections if section is not None)

    def _section(self, section: StoredSection, shape: tuple[int, int], *, streamed: bool = False) -> Section | None:
        """Read one section as far as it is to be read; None if nothing of it counts."""
        kind = codec(section.codec)
        _, used = self._prefix.parts_of(section, shape)
        if used < len(section.parts) and not (used and kind.progressive):
            return None
        parts = section.parts[:used]
        decoded = (
            kind.open(section.parameters, _Parts(self._part, parts), shape)
            if streamed
            else kind.decode(section.parameters, self._parts(parts), shape)
        )
        return decoded if self._prefix.rank is None else decoded.leading(self._prefix.rank)

    @property
    def reproducible(self) -> bool:
        """Whether every section evaluates to the same bits everywhere."""
        names = {section.codec for tensor in self.tensors.values() for section in tensor.sections}
        return all(codec(name).reproducible for name in names)

    def contents(self, section: StoredSection) -> list[bytes]:
        """Return the bytes of a section's parts, decompressed."""
        return self._parts(section.parts)

    def _parts(self, parts: tuple[tuple[int, int, int], ...]) -> list[bytes]:
        return [self._part(part) for part in parts]

    def _part(self, part: tuple[int, int, int]) -> bytes:
        number, start, length = part
        return self._segment(number)[start : start + length]

    def _segment(self, number: int) -> bytes:
        with self._lock:
            if number not in self._decoded:
                segment = self._object.segments[number]
                content = entropy.decode(segment.stage, self._object.read(number), segment.raw_length)
                self._decoded[number] = content
                while len(self._decoded) > 1 and sum(map(len, self._decoded.values())) > self._cache_bytes:
                    self._decoded.popitem(last=False)
            self._decoded.move_to_end(number)
            return self._decoded[number]


class _Parts(Sequence[bytes]):
    """Parts that are read when they are asked for."""

    def __init__(self, read: Callable[[tuple[int, int, int]], bytes], places: Sequence[tuple[int, int, int]]) -> None:
        self._read, self._places = read, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return _Parts(self._read, self._places[index])
        return self._read(self._places[index])


def _bands(index: Any, segments: int) -> Iterator[tuple[int, float]]:
    """Yield the end and the error of every band; the last ends with the last segment."""
    last = 0
    for stop, error in index:
        if not (last < check_size(stop) <= segments and float(error) >= 0):
            raise ValueError
        yield stop, float(error)
        last = stop
    if last != segments:
        raise ValueError


def _tensors(index: Mapping[str, Any], lengths: list[int]) -> Iterator[tuple[str, StoredTensor]]:
    """Place every part by the running length of its segment."""
    placement = Placement(lengths)
    for key in sorted(index):
        check_fields(f"A residual's tensor '{key}'", index[key], {"shape", "sections", "errors"})
        sections = []
        for name, parameters, stored in index[key]["sections"]:
            if not (isinstance(name, str) and isinstance(parameters, dict)):
                raise TypeError
            sections.append(StoredSection(name, parameters, tuple(map(placement.take, stored))))
        shape = read_shape(index[key]["shape"])
        errors = Errors.read(index[key]["errors"])
        yield key, StoredTensor(shape, tuple(sections), errors)
    placement.finish()


def _check_expansion(oid: str, segments: Iterable[Segment], tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse segments that declare more content than the tensors can need: a few bytes may decompress to terabytes.

    No codec stores more than 32 bytes an element but ``factors`` of a rank above the tensor's size, which hardly compress.
    """
    declared = sum(segment.raw_length for segment in segments)
    stored = sum(segment.stored_length for segment in segments)
    elements = sum(rows * columns for rows, columns in (tensor.matrix for tensor in tensors.values()))
    if declared > 32 * elements + 64 * stored + CACHE_BYTES:
        raise CorruptionError(f"The residual {oid[:12]} declares {declared} bytes of content, which no tensor needs.")
