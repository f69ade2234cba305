"""A prefix of a residual: which parts of its sections are read when it is not read whole.

Segments are ordered by band. Whatever parts are missing, what is there evaluates as it always does; only that is not the
value that digests and exact remainders were made for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from erestore.residual.codecs.registry import codec


@dataclass(frozen=True)
class StoredSection:
    """Where one section is: parts as (segment, offset, length) within decoded segments."""

    codec: str
    parameters: Mapping[str, Any]
    parts: tuple[tuple[int, int, int], ...]


Sections = Iterable[tuple[StoredSection, tuple[int, int]]]
"""Sections, and the matrices' shapes."""


class LeftError(NamedTuple):
    """Relative squared error that a residual, or the part of it that is read, leaves; an upper bound if not `is_measured`."""

    value: float
    is_measured: bool


class PrefixLimit(NamedTuple):
    """How much of a residual is read: all of it, its first segments, or the first components of low-rank sections."""

    segments: int | None = None
    rank: int | None = None

    def parts_of(self, section: StoredSection, shape: tuple[int, int]) -> tuple[int, int]:
        """Return how many of a section's parts are read wholly, and how many at all."""
        if self.rank is not None:
            return codec(section.codec).leading_parts(section.parameters, len(section.parts), shape, self.rank)
        if self.segments is None:
            return len(section.parts), len(section.parts)
        number = sum(segment < self.segments for segment, _, _ in section.parts)
        return number, number

    def segments_of(self, sections: Sections, segments: int) -> tuple[int, int]:
        """Return how many of a residual's first segments are read wholly, and how many at all."""
        first, last = segments, 0
        for section, shape in sections:
            complete, used = self.parts_of(section, shape)
            first = min([first, *(segment for segment, _, _ in section.parts[complete:])])
            last = max([last, *(segment + 1 for segment, _, _ in section.parts[:used])])
        return first, last


UNLIMITED = PrefixLimit()


def band_stops(sections: Sections, segments: int) -> tuple[int, ...]:
    """Return for every band how many segments end with it, as far as parts of sections tell."""
    bands = [0] * segments
    for section, _ in sections:
        if codec(section.codec).progressive:
            for band, (segment, _, _) in enumerate(section.parts):
                bands[segment] = band
    bands = list(accumulate(bands, max))  # a segment without low-rank parts goes with those before it
    ends = [number for number in range(1, segments) if bands[number - 1] != bands[number]]
    return (*ends, segments) if segments else ()
