"""Calibrations: second moments of what goes into a base's layers, stored as a note beside the base.

A note holds the moments of blocks of at most :data:`BLOCK` inputs: a whole matrix of a wide layer would take more than the
layer. A block is one segment: mean squares (float32), then the correlations below the diagonal, row by row (float16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import torch

from erestore.errors import CorruptionError
from erestore.objects.note import CALIBRATION, open_calibration
from erestore.residual.noise_shaping import Metric
from erestore.storage.calibrations import newest_note
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult, SegmentedObject

BLOCK = 1024
"""Inputs whose correlations are kept together."""
_PREPARED = 4
"""Layers whose moments are kept ready."""


def block_ranges(columns: int) -> Iterator[tuple[int, int]]:
    """Yield the inputs of every block: as few blocks as can be, of sizes that differ by at most one."""
    number = -(-columns // BLOCK)
    for block in range(number):
        yield block * columns // number, (block + 1) * columns // number


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of one layer's inputs.

    Attributes
    ----------
    blocks : tuple of torch.Tensor
        ``E[x x^T]`` of the inputs of every block, ``(s, s)``.
    """

    blocks: tuple[torch.Tensor, ...]

    @property
    def columns(self) -> int:
        """How many inputs there are."""
        return sum(len(block) for block in self.blocks)


def store_calibration(objects: ObjectStore, base: str, moments: Mapping[str, Moments], samples: int) -> PutResult:
    """Write a note.

    Parameters
    ----------
    objects : ObjectStore
    base : str
        Oid of the base.
    moments : Mapping[str, Moments]
        By the base's tensor name; layers with the same inputs share one.
    samples : int
        How many examples were seen.
    """
    first: dict[int, int] = {}
    tensors: dict[str, list[int]] = {}
    with objects.writer("note") as writer:
        for key, layer in sorted(moments.items()):
            if id(layer) not in first:
                contents = [_packed(block) for block in layer.blocks]
                numbers = [writer.add(content, raw_length=len(content), stage="raw") for content in contents]
                first[id(layer)] = numbers[0]
            tensors[key] = [layer.columns, first[id(layer)]]
        return writer.finish({"base": base, "features": [CALIBRATION, "raw"], "samples": samples, "tensors": tensors})


def _packed(block: torch.Tensor) -> bytes:
    values = block.to(torch.float64).numpy()
    squares = values.diagonal()
    roots = np.sqrt(np.where(squares > 0, squares, 1.0))
    correlations = (values / roots / roots[:, None])[np.tril_indices(len(values), -1)]
    return squares.astype("<f4").tobytes() + np.clip(correlations, -1, 1).astype("<f2").tobytes()


@dataclass(frozen=True, eq=False)
class Calibration:
    """A note opened for reading.

    Attributes
    ----------
    note : SegmentedObject
    base : str
        Oid of the base.
    samples : int
    tensors : Mapping[str, tuple of int]
        Columns and first segment, by the base's tensor name.
    """

    note: SegmentedObject
    base: str
    samples: int
    tensors: Mapping[str, tuple[int, int]]

    @classmethod
    def open(cls, objects: ObjectStore, oid: str) -> Self:
        """Open a note that holds a calibration.

        Raises
        ------
        UnsupportedFormatError
            If it is a note of another kind, or of a newer version.
        CorruptionError
            If its index is malformed.
        """
        note = open_calibration(objects, oid)
        try:
            tensors = {str(key): (int(columns), int(first)) for key, (columns, first) in note.index["tensors"].items()}
            fits = all(_fits(note, columns, first) for columns, first in tensors.values())
        except (TypeError, ValueError, AttributeError) as error:
            raise CorruptionError(f"The note {oid} has a malformed index.") from error
        if not fits:
            raise CorruptionError(f"The note {oid} does not hold the moments that its index names.")
        return cls(note, str(note.index["base"]), int(note.index["samples"]), tensors)

    @classmethod
    def of_base(cls, objects: ObjectStore, base: str) -> Self | None:
        """Open the calibration of a base, if there is one."""
        note = newest_note(objects.storage, base)
        if note is None:
            return None
        calibration = cls.open(objects, note)
        if calibration.base != base:
            raise CorruptionError(f"The note {note} calibrates another base than the one that it is kept for.")
        return calibration

    def moments(self, key: str) -> Moments | None:
        """Return the moments of one tensor's inputs, float64; None where they are not known."""
        if key not in self.tensors:
            return None
        return self._read(*self.tensors[key])

    def _read(self, columns: int, first: int) -> Moments:
        ranges = list(block_ranges(columns))
        contents = self.note.read_many(range(first, first + len(ranges)))
        return Moments(tuple(_unpacked(content, b - a) for content, (a, b) in zip(contents, ranges, strict=True)))

    def metrics(self, key: str, columns: int) -> tuple[Metric, ...] | None:
        """Return what rounding a tensor's matrix takes; None where nothing is known of its inputs, or they are all 0."""
        recorded, first = self.tensors.get(key, (0, 0))
        return self._prepared(columns, first) if recorded == columns else None

    @cached_property
    def _prepared(self) -> Callable[[int, int], tuple[Metric, ...] | None]:
        """Prepares by columns and first segment; layers that share their inputs come one after the other."""
        return lru_cache(maxsize=_PREPARED)(self._prepare)

    def _prepare(self, columns: int, first: int) -> tuple[Metric, ...] | None:
        blocks = self._read(columns, first).blocks
        mean = float(torch.cat([block.diagonal() for block in blocks]).mean())
        if not mean:
            return None
        starts = [start for start, _ in block_ranges(columns)]
        return tuple(Metric.of(block / mean, start) for block, start in zip(blocks, starts, strict=True))


def _fits(note: SegmentedObject, columns: int, first: int) -> bool:
    if not 0 < columns <= BLOCK * len(note.segments):
        return False
    sizes = [stop - start for start, stop in block_ranges(columns)]
    segments = note.segments[first : first + len(sizes)] if first >= 0 else ()
    lengths = [segment.raw_length if segment.stage == "raw" else -1 for segment in segments]
    return lengths == [4 * size + size * (size - 1) for size in sizes]


def _unpacked(content: bytes, size: int) -> torch.Tensor:
    squares = np.frombuffer(content, "<f4", size).astype(np.float64)
    correlations = np.frombuffer(content, "<f2", offset=4 * size).astype(np.float64)
    if not (np.isfinite(squares).all() and (squares >= 0).all() and (np.abs(correlations) <= 1).all()):
        raise CorruptionError("A calibration holds moments that no inputs have.")
    values = np.eye(size)
    below = np.tril_indices(size, -1)
    values[below] = correlations
    values.T[below] = correlations
    roots = np.sqrt(squares)
    return torch.from_numpy(values * roots * roots[:, None])
