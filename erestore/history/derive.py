"""Commits that are made from other commits alone: merges, picks, reverts. Most write nothing but a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from erestore.algebra.combine import Combination, combine
from erestore.algebra.operands import Operand
from erestore.errors import Conflict, RefConflictError
from erestore.history.branch import NextVersion, encoded, next_version, of_value
from erestore.objects.squared_errors import ratio
from erestore.records import Commit, Layout, Manifest, relative_error
from erestore.store import Store
from erestore.variant.error_bound import known_error

if TYPE_CHECKING:
    from erestore.ingest.variant_writer import StoredVariant
    from erestore.storage.segments import PutResult

Encode = Callable[[Manifest, Layout], "StoredVariant"]
"""Given a manifest and its layout, which is stored, writes another value of the same layout."""


@dataclass(frozen=True)
class Derived:
    """Result of a derived commit. Fields match the ``--json`` output.

    Attributes
    ----------
    commit, ref, base : str
        Oid of the commit, its branch, and the name of the base.
    parents : tuple of str
    edge : str
    stored_bytes : int
        Bytes that this commit added to the store, everything included.
    original_bytes : int
        What the first parent's checkpoint took.
    relative_error, error_bound : float or None
        Measured, where the result equals an operand; else an upper bound, if one follows from what is recorded. See
        :func:`erestore.variant.error_bound.error_bound`.
    exact : bool
    tensors : Mapping[str, int]
        How many residuals are combined (``terms``), and how many tensors are ``whole`` or have ``added rows``.
    coefficients : Mapping[str, str]
        By operand, as it was named: what it counts in a linear combination, or the weight that a strategy was given.
    loses_exact : tuple of str
        Operands whose exact remainders do not apply to the result.
    chosen : tuple of Conflict
        Conflicts that were decided as asked.
    notes : tuple of str
        Sentences about what was resolved without being a conflict.
    unchanged : bool
        Whether the branch held just this already, so that nothing was written.
    previous : str or None
        Commit that the branch was at.
    """

    commit: str
    ref: str
    base: str
    parents: tuple[str, ...]
    edge: str
    stored_bytes: int
    original_bytes: int
    relative_error: float | None
    error_bound: float | None
    exact: bool
    tensors: Mapping[str, int]
    coefficients: Mapping[str, str]
    loses_exact: tuple[str, ...]
    chosen: tuple[Conflict, ...]
    unchanged: bool
    notes: tuple[str, ...] = ()
    previous: str | None = None


def derive(
    store: Store,
    name: str,
    operands: Sequence[Operand],
    *,
    parents: Sequence[str],
    edge: str,
    message: str,
    recipe: Any = None,
    choose: str | None = None,
    encode: Encode | None = None,
    weights: Mapping[str, Fraction] | None = None,
    residuals: Sequence[PutResult] = (),
    tip: str | None = None,
) -> Derived:
    """Combine commits and record the result on the branch `name`.

    Parameters
    ----------
    store : Store
    name : str
        Made, or moved on: its former version is a parent then.
    operands : sequence of Operand
    parents : sequence of str
        Commit oids.
    edge : str
        One of :data:`erestore.records.EDGES`.
    message : str
    recipe : Any
        JSON without floats.
    choose : str, optional
        See :func:`erestore.algebra.combine.combine`.
    encode : Encode, optional
        Writes a result that is no linear combination, given one of the same layout; not called where the branch's newest
        commit has this very recipe.
    weights : Mapping[str, Fraction], optional
        What the operands count in such a result, by name; by default their coefficients.
    residuals : sequence of PutResult
        Residuals that were written for this.
    tip : str, optional
        Commit that the branch has to be at: what it was at when it was read.

    Raises
    ------
    CombinationError
        If there are conflicts and nothing is chosen.
    ConflictError
        If `name` is a tag or a base.
    RefConflictError
        If another writer moved the branch meanwhile.
    """
    with next_version(store, name) as version:
        previous = version.previous
        weights = total_weights(operands) if weights is None else weights
        if tip is not None and previous != tip:
            raise RefConflictError(name)
        version.require_continued(parents)
        combined = combine(store.objects, operands, choose)
        if previous is not None and _is_there(store, previous, None if encode else combined, edge, recipe):
            existing = store.commit_record(previous)
            return _result(store, version, weights, combined, previous, existing, 0, unchanged=True)
        commit = Commit(
            manifest="",
            parents=_parents(store, previous, parents),
            edge=edge,
            author=version.operation.author,
            time=version.operation.time,
            message=message,
            original_bytes=store.commit_record(parents[0]).original_bytes,
            recipe=recipe,
            own=tuple(receipt.oid for receipt in residuals),
            stored_bytes=sum(receipt.added_bytes for receipt in (*residuals, combined.written) if receipt),
        )
        if encode is None:
            commit = _write(store, combined, commit)
        else:
            commit, combined = _encode(store, combined, commit, encode)
        recorded = version.record(commit)
        commit = store.commit_record(recorded.oid)
        return _result(store, version, weights, combined, recorded.oid, commit, recorded.stored_bytes, unchanged=False)


def total_weights(operands: Iterable[Operand]) -> dict[str, Fraction]:
    """Return the sum of the coefficients of every operand, by name."""
    weights: dict[str, Fraction] = {}
    for operand in operands:
        weights[operand.name] = weights.get(operand.name, Fraction(0)) + operand.coefficient
    return weights


def _parents(store: Store, previous: str | None, parents: Sequence[str]) -> tuple[str, ...]:
    """Return the parents of the result: a branch's former version comes first, unless one of the others continues it."""
    if previous is None or any(store.is_ancestor(previous, parent) for parent in parents):
        return tuple(parents)
    return previous, *parents


def _is_there(store: Store, oid: str, combined: Combination | None, edge: str, recipe: Any) -> bool:
    """Return whether a branch's newest commit is what would be made: as with git, that is not made again."""
    commit = store.commit_record(oid)
    same = (commit.edge, commit.recipe) == (edge, recipe)
    return same and (combined is None or store.manifest_of(oid) == combined.manifest)


def _encode(store: Store, combined: Combination, commit: Commit, encode: Encode) -> tuple[Commit, Combination]:
    layout = store.objects.put_record("layout", combined.layout.to_record())
    manifest = replace(combined.manifest, patch=None, digests={})
    stored = encode(manifest, combined.layout)
    reached = {
        "exact": "no",
        "relative_error": repr(stored.outcome.relative_error),
        "linear_error": repr(ratio(stored.outcome.linear_error, stored.outcome.squared_norm)),
    }
    combined = replace(combined, manifest=stored.manifest, equals=None, loses_exact=combined.exact)
    return encoded(commit, stored, reached, layout.added_bytes), combined


def _write(store: Store, combined: Combination, commit: Commit) -> Commit:
    if combined.equals is not None:
        equal = store.commit_record(combined.equals)
        return replace(commit, manifest=equal.manifest, quality=of_value(equal))
    layout = store.objects.put_record("layout", combined.layout.to_record())
    manifest = store.objects.put_record("manifest", combined.manifest.to_record())
    added = commit.stored_bytes + layout.added_bytes + manifest.added_bytes
    return replace(commit, manifest=manifest.oid, stored_bytes=added)


def _result(
    store: Store,
    version: NextVersion,
    weights: Mapping[str, Fraction],
    combined: Combination,
    oid: str,
    commit: Commit,
    added: int,
    *,
    unchanged: bool,
) -> Derived:
    manifest = combined.manifest
    counts = {"terms": len(manifest.terms), "whole": len(manifest.dense), "added rows": len(manifest.rows)}
    return Derived(
        commit=oid,
        ref=version.name,
        base=store.base_name(manifest.base),
        parents=commit.parents,
        edge=commit.edge,
        stored_bytes=added,
        original_bytes=commit.original_bytes,
        relative_error=relative_error(commit),
        error_bound=known_error(store.objects, commit, manifest).bound,
        exact=commit.quality.get("exact") == "yes",
        tensors={what: count for what, count in counts.items() if count},
        coefficients={operand: str(weight) for operand, weight in weights.items()},
        loses_exact=combined.loses_exact,
        chosen=combined.chosen,
        unchanged=unchanged,
        notes=combined.notes,
        previous=version.previous,
    )
