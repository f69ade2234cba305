"""Writing residual objects; how they are laid out is told in :mod:`erestore.objects.residual`, which reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from erestore.objects.residual import EVALUATOR
from erestore.objects.squared_errors import Errors
from erestore.residual import entropy
from erestore.residual.codecs.abc import EncodedPart, EncodedSection
from erestore.residual.runs import RunGroup
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult

SEGMENT_BYTES = 4 << 20
_SEGMENT_GROUPS = 1 << 14
"""Most groups of runs in a segment; the stage has room for more, and one part adds a few."""
_END = 1 << 16
"""Behind every band."""


@dataclass
class _OpenSegment:
    """A segment that parts of one band are gathered for."""

    number: int
    parts: list[bytes] = field(default_factory=list)
    layout: list[RunGroup] = field(default_factory=list)
    size: int = 0


class ResidualWriter:
    """Packs sections into a residual object. A context manager; what is not finished is dropped."""

    def __init__(self, objects: ObjectStore, base: str) -> None:
        self._writer = objects.writer("residual")
        self._base = base
        self._features: set[str] = set()
        self._tensors: dict[str, dict[str, Any]] = {}
        self._places: list[tuple[int, int, int]] = []
        self._open: dict[int, _OpenSegment] = {}
        self._begun = 0
        self._last = ""
        self._losses: list[dict[int, float]] = []
        self._norm = 0.0
        self._rounding = (0.0, 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether no tensor has a section."""
        return not self._tensors

    def add(
        self,
        key: str,
        shape: tuple[int, ...],
        sections: tuple[EncodedSection, ...],
        errors: Errors,
        before: Mapping[int, float] | None = None,
    ) -> None:
        """Take one tensor; keys must come sorted. Without sections, only its errors are noted.

        Parameters
        ----------
        key : str
        shape : tuple of int
            Shape that the sections cover (fewer rows than the base's where the vocabulary shrank).
        sections : tuple of EncodedSection
            In the order in which they are summed.
        errors : Errors
        before : Mapping[int, float], optional
            Squared error of the linear value without the parts of a band and of those after it, by band.
        """
        assert key > self._last
        self._last = key
        bands = {part.band for section in sections for part in section.parts}
        self._losses.append({**dict.fromkeys(bands, errors.norm), **(before or {}), _END: errors.linear})
        self._norm += errors.norm
        if not sections:
            return
        described = []
        for section in sections:
            self._features.add(section.codec)
            lengths = [[self._take(part), len(part.content)] for part in section.parts]
            described.append([section.codec, dict(section.parameters), lengths])
        self._tensors[key] = {
            "shape": list(shape),
            "sections": described,
            "errors": errors.to_record(),
        }
        noted = Errors.read(self._tensors[key]["errors"])
        self._rounding = (
            self._rounding[0] + noted.linear - errors.linear,
            self._rounding[1] + noted.norm - errors.norm,
        )

    def _take(self, part: EncodedPart) -> int:
        """Put a part into its band's segment and return the segment's number, in the order in which they were begun."""
        if part.band not in self._open:
            self._open[part.band] = _OpenSegment(self._begun)
            self._begun += 1
        segment = self._open[part.band]
        segment.parts.append(part.content)
        segment.size += len(part.content)
        segment.layout += part.layout or (RunGroup(1, 1, len(part.content)),)
        if segment.size >= SEGMENT_BYTES or len(segment.layout) >= _SEGMENT_GROUPS:
            self._close(part.band)
        return segment.number

    def _close(self, band: int) -> None:
        segment = self._open.pop(band)
        content = b"".join(segment.parts)
        stage, stored = entropy.encode(content, layout=segment.layout)
        self._features.add(stage)
        handle = self._writer.add(stored, raw_length=len(content), stage=stage)
        self._places.append((band, segment.number, handle))

    def finish(self) -> PutResult:
        """Write the object."""
        return self._writer.finish(*self._closed)

    @property
    def size(self) -> int:
        """Bytes of the object; nothing can be added any more."""
        return self._writer.size(*self._closed)

    @property
    def keys(self) -> Collection[str]:
        """Tensors that have sections."""
        return self._tensors.keys()

    @cached_property
    def _closed(self) -> tuple[dict[str, Any], list[int]]:
        """The index, and the order of the segments."""
        for band in list(self._open):
            self._close(band)
        order = sorted(self._places)
        number = {begun: position for position, (_, begun, _) in enumerate(order)}
        for tensor in self._tensors.values():
            for section in tensor["sections"]:
                section[2] = [[number[begun], length] for begun, length in section[2]]
        index: dict[str, Any] = {
            "base": self._base,
            "evaluator": EVALUATOR,
            "features": sorted(self._features),
            "tensors": self._tensors,
        }
        if self._norm and entropy.RUNS in self._features:  # what knows these segments knows this field
            index["bands"] = self._band_errors([band for band, _, _ in order])
        return index, [handle for _, _, handle in order]

    def _band_errors(self, bands: Sequence[int]) -> list[list[Any]]:
        """Return, for every band, the number of segments up to its end and the relative error that they leave.

        That of all bands is over the errors of tensors as they are noted, so that what a reader takes as the error of tensors
        without sections, the difference of the two, is not what rounding them left.
        """
        records: list[list[Any]] = []
        for band in sorted(set(bands)):
            lost = sum(losses[min(other for other in losses if other > band)] for losses in self._losses)
            records.append([sum(other <= band for other in bands), f"{lost / self._norm:.4g}"])
        if records:
            linear, norm = (total + more for total, more in zip((lost, self._norm), self._rounding, strict=True))
            records[-1][1] = f"{linear / norm:.9g}"
        return records

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._writer.__exit__(*details)
