"""A variant that may be encoded anew in place of what it is: what that may lose, what it could free, what it records."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from erestore.encoding.quality import DEFAULT_MAX_ERROR
from erestore.ingest.variant_writer import StoredVariant
from erestore.objects.squared_errors import ratio
from erestore.records import Commit
from erestore.repacking.reencode import Original
from erestore.variant.error_bound import (
    SHARE_OF_LOST,
    Lost,
    introduced,
    is_repacked,
    lost,
    lost_before,
    read_errors,
    repack_record,
)
from erestore.variant.variant import Variant

UNKNOWN_ERROR = DEFAULT_MAX_ERROR / 10
"""What may be lost, of the squared norm of all that a variant changed, where what was lost before is not known."""
_ASKED = ("original", "max_error", "budget", "gate", "gate_runs", "relative_error", "linear_error", "lossy_error")
"""What a lossy commit records of a value that is another now."""


@dataclass(frozen=True)
class Candidate:
    """A commit that may give way to a copy of it with another manifest.

    Attributes
    ----------
    name : str
    commit : Commit
    original : Original
        Its value.
    removable : Mapping[str, int]
        Stored size of its residuals, exact remainder and manifest, by oid, as far as nothing else needs them.
    """

    name: str
    commit: Commit
    original: Original
    removable: Mapping[str, int]

    @property
    def variant(self) -> Variant:
        """Its manifest, opened."""
        return self.original.variant

    @property
    def residual_bytes(self) -> int:
        """What its residuals take that nothing else needs."""
        return sum(self.removable.get(oid, 0) for oid in self.commit.own)

    @cached_property
    def lost(self) -> Lost | None:
        """What is known of its error."""
        return lost(self.variant.objects, self.commit, self.variant.manifest)

    @cached_property
    def own_squared_norm(self) -> float | None:
        """Squared norm of the residual that was encoded for it, None where it was not recorded."""
        recorded = read_errors(self.variant.objects, introduced(self.commit)[-1])
        return None if recorded is None else recorded.norm

    def allowed(self, max_error: float | None, squared_norm: float) -> float:
        """Return the squared error that encoding it anew may make.

        Parameters
        ----------
        max_error : float or None
            Relative to all that the variant changed of its base; None for the default.
        squared_norm : float
            Of all that.
        """
        if self.original.is_exact:  # what is lost is counted from the exact value, as it was before
            return max(self._lost_before or 0.0, (max_error or 0.0) * squared_norm)
        if max_error is not None:
            return max_error * squared_norm
        if is_repacked(self.commit):  # else each time would add to what the next may lose
            return float(self.commit.quality["repack_error"]) * squared_norm
        return UNKNOWN_ERROR * squared_norm if self._lost_before is None else SHARE_OF_LOST * self._lost_before

    @cached_property
    def _lost_before(self) -> float | None:
        return lost_before(self.variant.objects, self.commit, self.variant.manifest)

    def copied(self, stored: StoredVariant, inherited: Collection[str], moved: float, freed: int) -> Commit:
        """Return the commit with another manifest; of its own residuals the one that was encoded for it is the last.

        Parameters
        ----------
        stored : StoredVariant
        inherited : collection of str
            Residuals of its parent.
        moved : float
            What was lost, relative to all that the variant changed of its base.
        freed : int
            Bytes that are not needed any more.
        """
        commit, outcome = self.commit, stored.outcome
        shared = (
            term.residual for term in stored.manifest.terms if term.residual not in (*inherited, *stored.residuals)
        )
        quality, now = dict(commit.quality), None
        if self.original.is_exact:
            quality = {key: text for key, text in quality.items() if key not in ("lossy_error", "linear_error")}
            if self.lost is not None:
                now = Lost(outcome.linear_error, self.lost.squared_norm)
                quality["lossy_error"] = repr(ratio(outcome.squared_error, now.squared_norm))
                quality["linear_error"] = repr(ratio(now.squared_error, now.squared_norm))
        else:
            if self.lost is not None:
                error = math.sqrt(self.lost.squared_error) + math.sqrt(outcome.linear_error)
                now = Lost(error**2, self.lost.squared_norm)
            quality = {key: text for key, text in quality.items() if key not in _ASKED} | {"codec": "lowrank"}
        return replace(
            commit,
            manifest=stored.manifest_oid,
            own=(*shared, *stored.residuals),
            quality=quality | repack_record(moved, now),
            stored_bytes=max(0, commit.stored_bytes - freed + stored.added_bytes),
        )
