"""Reading a prefix of residuals: the same model at a lower rank, from fewer bytes, and what error that leaves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from erestore.errors import UsageError
from erestore.objects.residual import Residual
from erestore.records import Commit, Manifest
from erestore.storage.objects import ObjectStore
from erestore.variant.error_bound import ErrorEstimate, error_bound, known_error, lossy_error


@dataclass(frozen=True)
class Prefix:
    """How much of a variant's residuals to read; one of the two.

    Attributes
    ----------
    max_rank : int or None
        So many components of every low-rank section of every term, and nothing of what all components leave.
    max_bytes : int or None
        So many bytes of segments at most, as they are stored, of all terms together: the first band of every term, then
        the second of every term, and so on, each if it fits and all before it in its term did.
    """

    max_rank: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse contradictory options."""
        if (self.max_rank is None) == (self.max_bytes is None):
            raise UsageError("A rank and a number of bytes exclude each other.", hint="Give one of them.")
        if min(self.max_rank or 0, self.max_bytes or 0) < 0:
            raise UsageError("Ranks and numbers of bytes cannot be negative.")

    def apply(self, residuals: Sequence[Residual], codes: Collection[str] = ()) -> None:
        """Limit residuals to this prefix; what is outside is not read.

        Parameters
        ----------
        residuals : sequence of Residual
        codes : collection of str
            Tensors of quantised weights. Some of a weight's are held whole, outside of residuals: without the others, codes
            would stand under the scales of another model.

        Raises
        ------
        UsageError
            If something of `codes` would be left out.
        """
        if self.max_rank is not None:
            for residual in residuals:
                residual.limit(rank=self.max_rank)
        else:
            for residual, segments in zip(residuals, self._affordable(residuals), strict=True):
                residual.limit(segments=segments)
        if any(residual.leaves_out(codes) for residual in residuals):
            # Codes are in the first band, as all that is kept exact.
            least = sum(sizes[0] for sizes in map(_band_sizes, residuals) if sizes)
            is_short = self.max_bytes is not None and self.max_bytes < least
            raise UsageError(
                "This prefix leaves out codes or scales of quantised weights, which cannot be read in part.",
                hint=f"Give --max-bytes {least} or more." if is_short else "Check it out in full.",
            )

    def _affordable(self, residuals: Sequence[Residual]) -> list[int]:
        """Return how many leading segments of each residual to read."""
        left = self.max_bytes or 0
        counts = [0] * len(residuals)
        steps = [list(pairwise((0, *residual.band_stops))) for residual in residuals]
        for depth in range(max(map(len, steps), default=0)):
            for index, residual in enumerate(residuals):
                if depth >= len(steps[index]) or counts[index] != steps[index][depth][0]:
                    continue
                start, stop = steps[index][depth]
                size = sum(segment.stored_length for segment in residual.segments[start:stop])
                if size <= left:
                    left -= size
                    counts[index] = stop
        return counts


def _band_sizes(residual: Residual) -> list[int]:
    """Return what every band takes as it is stored."""
    return [
        sum(segment.stored_length for segment in residual.segments[start:stop])
        for start, stop in pairwise((0, *residual.band_stops))
    ]


def left_error(
    objects: ObjectStore, commit: Commit, manifest: Manifest, residuals: Sequence[tuple[float, Residual]]
) -> ErrorEstimate:
    """Return what is known of the error without the exact remainder, of what is read of a commit's residuals.

    What residuals record of a prefix is the error of the linear value, before rounding.

    Parameters
    ----------
    objects : ObjectStore
    commit : Commit
    manifest : Manifest
        The commit's.
    residuals : sequence of (float, Residual)
        Coefficients and residuals of the commit's variant.
    """
    prefixes = [residual for _, residual in residuals if residual.is_prefix]
    if not prefixes:
        lossy = lossy_error(objects, commit)
        return ErrorEstimate(lossy) if lossy is not None else known_error(objects, commit, manifest)
    left = {residual.oid: residual.left_error for residual in prefixes}
    recorded = {oid: error.value for oid, error in left.items() if error is not None}
    if len(recorded) < len(prefixes):
        return ErrorEstimate()
    if len(residuals) == 1 and residuals[0][0] == 1 and commit.own == (prefixes[0].oid,):
        error = left[prefixes[0].oid]
        assert error is not None
        return ErrorEstimate(error.value) if error.is_measured else ErrorEstimate(bound=error.value)
    return ErrorEstimate(bound=error_bound(objects, commit, manifest, recorded))
