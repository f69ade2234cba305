"""What a stored residual holds of each tensor, read from its index alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from erestore.errors import CorruptionError
from erestore.objects.squared_errors import Errors
from erestore.storage.segments import SegmentedObject


@dataclass(frozen=True)
class SectionSummary:
    """One section: its kind, its rank where it has one, and its share of the stored size of the segments it is in."""

    kind: str
    rank: int | None
    bytes: float


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a residual.

    Attributes
    ----------
    key : str
        The base's name.
    sections : tuple of SectionSummary
        In the order in which they are summed.
    linear_error, squared_error, squared_norm : float
        Squared error before and after rounding to the stored dtype, and of the change itself.
    """

    key: str
    sections: tuple[SectionSummary, ...]
    linear_error: float
    squared_error: float
    squared_norm: float

    @property
    def bytes(self) -> float:
        """About how many stored bytes the sections take."""
        return sum(section.bytes for section in self.sections)

    @property
    def rank(self) -> int | None:
        """Components of all factors together; None where there are none."""
        ranks = [section.rank for section in self.sections if section.rank is not None]
        return sum(ranks) if ranks else None


def stored_tensors(residual: SegmentedObject) -> Iterator[TensorSummary]:
    """Yield what a residual holds, tensor by tensor.

    Raises
    ------
    CorruptionError
        If its index is malformed.
    """
    shares = [segment.stored_length / max(1, segment.raw_length) for segment in residual.segments]
    places = range(len(shares))
    try:
        for key, tensor in residual.index["tensors"].items():
            sections = tuple(
                SectionSummary(
                    str(kind),
                    int(parameters["rank"]) if "rank" in parameters else None,
                    sum((int(length) * shares[places.index(segment)] for segment, length in parts), 0.0),
                )
                for kind, parameters, parts in tensor["sections"]
            )
            errors = Errors.read(tensor["errors"])
            yield TensorSummary(key, sections, errors.linear, errors.rounded, errors.norm + errors.outside)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CorruptionError(f"The residual {residual.oid[:12]} has a malformed index.") from error
