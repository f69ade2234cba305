"""What is known of a variant's error without its original: measured at its commit, or bounded by what residuals record.

Let ``e_k`` be what residual ``k`` lost: its original minus the value that it completes. A child is encoded against what its
parent decodes to, so its residual makes up for its parent's error. A value ``base + sum(c_k * R_k)`` therefore misses the
same combination of the originals by ``sum((c_k - s_k) * e_k)``, where ``s_k`` is the sum of the coefficients of the residuals
that were encoded against ``k``: nothing but the last ``e`` along a chain, a weighted sum in a merge. The triangle inequality
bounds its norm. Only indices are read.

The residual of a flattened or rebased commit stands for a sum that missed something itself: its ``e`` is its own plus the
sum's. A repacked commit's is added to residuals that it shares with others and makes up for all that they miss; the commit
whose value it stands for is gone, so a bound of the norm of what it misses, before and now, is recorded with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from erestore.errors import CorruptionError, UnsupportedFormatError, UsageError
from erestore.objects.squared_errors import Errors, ratio
from erestore.records import Commit, Manifest, Term, relative_error
from erestore.storage.objects import ObjectStore

SHARE_OF_LOST = 0.25
"""What encoding anew loses by default at most, of the squared error before: its root grows by half at most."""

_ABOVE = 1.001
"""Times what is recorded, in four digits, is not less than what was meant."""


class ErrorEstimate(NamedTuple):
    """A relative error: measured, or else an upper bound; neither where nothing was recorded."""

    measured: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class ResidualErrors:
    """What one residual records about all floating tensors.

    Attributes
    ----------
    errors : Mapping[str, float]
        Norm of the linear value's error, by key.
    rest : float
        The same of all tensors that changed and have no sections; they are not listed one by one.
    rounded, norm : float
        Squared error of the rounded value, and squared norm of original minus parent.
    """

    errors: Mapping[str, float]
    rest: float
    rounded: float
    norm: float


@dataclass
class _Records:
    """What commits record of their residuals: relative linear errors, or bounds of the norm of all that is missed."""

    linear_errors: dict[str, float] = field(default_factory=dict)
    missed: dict[str, float | None] = field(default_factory=dict)

    def add(self, other: _Records) -> None:
        """Note what another does."""
        self.linear_errors |= other.linear_errors
        self.missed |= other.missed


@dataclass
class _Lineage:
    """Of residuals: which one each was encoded against, or which combination; whose sum it stands for; what is noted."""

    parents: dict[str, str] = field(default_factory=dict)
    combined: dict[str, Commit] = field(default_factory=dict)
    replaced: dict[str, Commit] = field(default_factory=dict)
    shared: dict[str, tuple[Term, ...]] = field(default_factory=dict)
    noted: _Records = field(default_factory=_Records)


class Lost(NamedTuple):
    """Squared norms: a bound of what a commit's linear value misses, and what that is relative to."""

    squared_error: float
    squared_norm: float


def is_repacked(commit: Commit) -> bool:
    """Return whether a commit was encoded anew in place of another, which is gone."""
    return "repack_error" in commit.quality


def repack_record(moved: float, lost: Lost | None) -> dict[str, str]:
    """Return what a repacked commit records of quality.

    Parameters
    ----------
    moved : float
        Squared norm of what encoding it anew lost, over that of all that the variant changed of the base.
    lost : Lost or None
        Before and now.
    """
    record = {"repack_error": repr(moved)}
    return record | {key: repr(value) for key, value in lost._asdict().items()} if lost else record


def introduced(commit: Commit) -> tuple[str, ...]:
    """Return the residuals that were encoded for a commit: a repacked one's last, after those that it shares."""
    return commit.own[-1:] if is_repacked(commit) else commit.own


def require_lossy(commit: Commit, revision: str, *, hint: str) -> None:
    """Make sure that there is something to read beside the exact remainder.

    Raises
    ------
    UsageError
        If the commit keeps nothing but that.
    """
    if commit.quality.get("codec") == "exact-only":
        raise UsageError(
            f"'{revision}' was committed with --exact-only: all of it is an exact remainder, and it has no lossy part.",
            hint=hint,
        )


def lossy_error(objects: ObjectStore, commit: Commit) -> float | None:
    """Return the relative error that is left without the exact remainder, None where that is not known.

    Commits made before this was recorded have it in the index of their residual.
    """
    quality = commit.quality
    if quality.get("codec") == "exact-only":
        return None
    if quality.get("exact") != "yes":
        return relative_error(commit)
    if (text := quality.get("lossy_error")) is not None:
        return _number(text)
    linear = _number(quality["linear_error"]) if "linear_error" in quality else None
    if len(commit.own) != 1:
        return linear
    recorded = read_errors(objects, commit.own[0], linear)
    return None if recorded is None else ratio(recorded.rounded, recorded.norm)


def known_error(objects: ObjectStore, commit: Commit, manifest: Manifest | None = None) -> ErrorEstimate:
    """Return what is known of the error of a commit's own value; see :func:`error_bound`."""
    measured = relative_error(commit)
    return (
        ErrorEstimate(measured) if measured is not None else ErrorEstimate(bound=error_bound(objects, commit, manifest))
    )


def recorded_error(objects: ObjectStore, commit: Commit, manifest: Manifest | None = None) -> ErrorEstimate:
    """Return :func:`known_error`, or that nothing is known where a residual cannot be read: history can do without."""
    try:
        return known_error(objects, commit, manifest)
    except (CorruptionError, UnsupportedFormatError):
        return ErrorEstimate()


def lost_before(objects: ObjectStore, commit: Commit, manifest: Manifest) -> float | None:
    """Return the squared error of a commit's lossy value, as it was measured or else an upper bound; None if not known.

    It is in the units of the weights squared: what is relative to one change says little of another.
    """
    measured = lossy_error(objects, commit)
    if measured is not None and is_repacked(commit) and "squared_norm" in commit.quality:
        return measured * _number(commit.quality["squared_norm"])
    if measured is not None and len(commit.own) == 1:
        recorded = read_errors(objects, commit.own[0], measured)
        return None if recorded is None else measured * recorded.norm
    loss = lost(objects, commit, manifest)
    return None if loss is None else loss.squared_error


def error_bound(
    objects: ObjectStore, commit: Commit, manifest: Manifest | None = None, left: Mapping[str, float] | None = None
) -> float | None:
    """Bound the relative error of a commit's linear value, None where something was not recorded.

    Parameters
    ----------
    objects : ObjectStore
    commit : Commit
    manifest : Manifest, optional
        The commit's, if it is at hand.
    left : Mapping[str, float], optional
        Relative errors of residuals that are read in part only, by oid.

    Returns
    -------
    float or None
        Relative, where the commit has an original, to what changed since its parent, as the error that it records; else to
        the sum of the squared norms of all changes that it combines, times the squares of their coefficients.
    """
    loss = lost(objects, commit, manifest, left)
    return None if loss is None else ratio(*loss)


def lost(
    objects: ObjectStore, commit: Commit, manifest: Manifest | None = None, left: Mapping[str, float] | None = None
) -> Lost | None:
    """Return what :func:`error_bound` is the ratio of."""
    left = left or {}
    manifest = manifest or Manifest.from_record(objects.get_record("manifest", commit.manifest))
    coefficients = {term.residual: float(term.coefficient) for term in manifest.terms}
    noted = _Records()
    weights = _weights(objects, commit, coefficients, noted)
    norms: dict[str, float] = {}
    weighted: list[tuple[float, Mapping[str, float]]] = []
    rest = 0.0
    for oid in sorted(weights):
        recorded = read_errors(objects, oid, noted.linear_errors.get(oid))
        if recorded is None:
            return None
        norms[oid] = recorded.norm
        weight, missed = weights[oid], noted.missed.get(oid, 0.0)
        if missed is None:
            return None
        if oid in left:
            coefficient = coefficients.get(oid, 0.0)
            rest += abs(coefficient) * math.sqrt(left[oid] * recorded.norm)
            weighted.append((0.0, {}))
            if oid not in noted.missed:  # else what was missed before it was encoded anew is not part of that
                weight -= coefficient
        if oid in noted.missed:
            rest += abs(weight) * missed
        else:
            weighted.append((abs(weight), recorded.errors))
            rest += abs(weight) * recorded.rest
    squared = _squared_sum(weighted, rest)
    if is_repacked(commit) and "squared_norm" in commit.quality:
        return Lost(squared, _number(commit.quality["squared_norm"]))
    if len(commit.own) == 1 and relative_error(commit) is not None:
        return Lost(squared, norms.get(commit.own[0], 0.0))
    return Lost(squared, math.fsum(coefficient**2 * norms[oid] for oid, coefficient in coefficients.items()))


def _weights(
    objects: ObjectStore, commit: Commit, coefficients: Mapping[str, float], noted: _Records
) -> dict[str, float]:
    """Return how often the error of every residual counts; fill in what commits record of them."""
    lineage = _lineage(objects, commit, coefficients)
    noted.add(lineage.noted)
    weights = dict(coefficients)
    for oid, coefficient in coefficients.items():
        if oid in lineage.parents:
            parent = lineage.parents[oid]
            weights[parent] = weights.get(parent, 0.0) - coefficient
    for oid, terms in lineage.shared.items():
        for term in terms:
            weights[term.residual] = weights.get(term.residual, 0.0) - coefficients.get(oid, 0.0) * float(
                term.coefficient
            )
    for oid, below in lineage.combined.items():
        if weight := coefficients.get(oid):
            for other, share in _weights(objects, below, _coefficients(objects, below), noted).items():
                weights[other] = weights.get(other, 0.0) - weight * share
    for oid, before in lineage.replaced.items():
        if weight := weights.get(oid):
            before_coefficients = _coefficients(objects, before)
            for other, share in _weights(objects, before, before_coefficients, noted).items():
                weights[other] = weights.get(other, 0.0) + weight * share
    return weights


def _coefficients(objects: ObjectStore, commit: Commit) -> dict[str, float]:
    terms = Manifest.from_record(objects.get_record("manifest", commit.manifest)).terms
    return {term.residual: float(term.coefficient) for term in terms}


def _squared_sum(weighted: Iterable[tuple[float, Mapping[str, float]]], rest: float) -> float:
    """Bound the squared norm of a weighted sum of errors, given their norms by tensor.

    Parameters
    ----------
    weighted : iterable of (float, Mapping[str, float])
    rest : float
        Weighted sum of norms over tensors that an error does not list: any but those that all of them do.
    """
    terms = list(weighted)
    totals: dict[str, float] = {}
    for weight, errors in terms:
        for key, error in errors.items():
            totals[key] = totals.get(key, 0.0) + weight * error
    everywhere = set(totals).intersection(*(errors for _, errors in terms))
    apart = math.fsum(total**2 for key, total in totals.items() if key in everywhere)
    return (
        apart + (math.sqrt(math.fsum(total**2 for key, total in totals.items() if key not in everywhere)) + rest) ** 2
    )


def missed_tensors(objects: ObjectStore, commit: Commit) -> dict[str, float]:
    """Return the squared error of a commit's rounded value tensor by tensor, as far as residuals record it.

    Along a chain it is what the last residual with sections for a tensor lost. What is not recorded, as for a merge or for a
    tensor that was dropped, is left out; of what was encoded anew only the last encoding counts. So nothing is too large.
    """
    lineage = _lineage(objects, commit, commit.own)
    missed: dict[str, float] = {}
    oid = introduced(commit)[-1] if commit.own else None
    while oid is not None:
        missed = {key: _ABOVE * errors.rounded for key, errors in _read_index(objects, oid)[0].items()} | missed
        oid = lineage.parents.get(oid)
    return missed


def read_errors(objects: ObjectStore, oid: str, linear_error: float | None = None) -> ResidualErrors | None:
    """Read what a residual records.

    Parameters
    ----------
    objects : ObjectStore
    oid : str
    linear_error : float, optional
        Relative error of the linear value over all tensors, where the commit records it and an older residual does not.

    Returns
    -------
    ResidualErrors or None
        None where it is unknown what was lost of tensors without sections.
    """
    errors, recorded = _read_index(objects, oid)
    linear_error = linear_error if recorded is None else recorded
    linear, rounded, norm = ([error[column] for error in errors.values()] for column in range(3))
    if linear_error is None or not all(0 <= value < math.inf for value in (*linear, *rounded, *norm, linear_error)):
        return None
    # Tensors without sections lost all of their change, so they add the same to error and norm.
    total, lost = math.fsum(norm), math.fsum(linear)
    rest = max(0.0, (linear_error * total - lost) / (1 - linear_error)) if linear_error < 1 else 0.0
    norms = dict(zip(errors, map(math.sqrt, linear), strict=True))
    return ResidualErrors(norms, math.sqrt(rest), math.fsum(rounded) + rest, total + rest)


def _read_index(objects: ObjectStore, oid: str) -> tuple[dict[str, Errors], float | None]:
    """Return the errors of the tensors of a residual, and the relative error of its linear value where it is recorded."""
    index = objects.open("residual", oid).index
    try:
        errors = {key: Errors.read(tensor["errors"]) for key, tensor in index["tensors"].items()}
        return errors, float(index["bands"][-1][1]) if index.get("bands") else None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CorruptionError(f"The residual {oid[:12]} has a malformed index.") from error


def _lineage(objects: ObjectStore, commit: Commit, residuals: Iterable[str]) -> _Lineage:
    """Look in the history for the commits that made residuals, and what those were encoded against."""
    lineage = _Lineage()
    wanted = set(residuals)
    commits: dict[str, Commit] = {}
    waiting = [commit]
    while waiting and wanted:
        current = waiting.pop()
        for oid in current.parents:
            if oid not in commits:
                commits[oid] = Commit.from_record(objects.get_record("commit", oid))
                waiting.append(commits[oid])
        for oid in wanted & set(introduced(current)):
            wanted.discard(oid)
            if is_repacked(current):
                terms = Manifest.from_record(objects.get_record("manifest", current.manifest)).terms
                lineage.shared[oid] = tuple(term for term in terms if term.residual != oid)
                text = current.quality.get("squared_error")
                lineage.noted.missed[oid] = None if text is None else math.sqrt(_number(text))
                continue
            if "linear_error" in current.quality:
                lineage.noted.linear_errors[oid] = _number(current.quality["linear_error"])
            if current.edge in ("flattened", "rebased"):
                lineage.replaced[oid] = commits[current.parents[-1 if current.edge == "rebased" else 0]]
            elif current.parents and _continues(objects, current, parent := commits[current.parents[0]]):
                if parent.own:
                    lineage.parents[oid] = introduced(parent)[0]
                    wanted.add(introduced(parent)[0])
                else:
                    lineage.combined[oid] = parent
    return lineage


def _continues(objects: ObjectStore, commit: Commit, parent: Commit) -> bool:
    """Return whether a commit's one residual was encoded against what its parent, with one of its own, decodes to."""
    if len(commit.own) != 1 or len(introduced(parent)) > 1 or parent.edge == "imported":
        return False
    terms, before = (
        {tuple(term) for term in Manifest.from_record(objects.get_record("manifest", member.manifest)).terms}
        for member in (commit, parent)
    )
    return {term for term in terms if term[0] != commit.own[0]} == before


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CorruptionError(f"A commit records the error '{text}', which is not a number.") from None
