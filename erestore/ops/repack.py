"""``repack``: encode variants anew, each against the parent that makes all of them take the least.

Commits are immutable, as with ``gc --drop-exact``: a branch moves to a copy of its commit with another manifest. What it
pointed to stays until its reflog forgets it, so ``undo`` takes a whole repacking back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from erestore.analysis.similarity.product_cache import ProductTable
from erestore.encoding.quality import require_max_error
from erestore.errors import NotFoundError, RefConflictError, UsageError
from erestore.ingest.variant_writer import StoredVariant
from erestore.objects.exclusive import Reach
from erestore.objects.squared_errors import ratio
from erestore.operation import Operation
from erestore.progress import Progress, silent
from erestore.records import Commit, Term
from erestore.repacking.candidate import Candidate
from erestore.repacking.fleet import Fleet, RepackGroup
from erestore.repacking.parent_choice import LEAST_GAIN
from erestore.repacking.reencode import Original, mean_of, reencode, write_mean
from erestore.storage.leases import Lease
from erestore.storage.local import LocalStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.overlay import Overlay
from erestore.storage.refs import RefEntry
from erestore.store import Store
from erestore.variant.error_bound import known_error
from erestore.variant.rank import total_rank
from erestore.variant.variant import Variant


@dataclass(frozen=True)
class Repacked:
    """A variant that was encoded anew; the fields are those of JSON.

    Attributes
    ----------
    ref, before : str
        The branch, and the commit that it pointed to.
    after : str or None
        The commit that it points to now; None in a dry run.
    parent : str
        What its residual is added to: the base, another variant, or a mean.
    bytes_before, bytes_after : int
        What of it nothing else needs: residual, exact remainder and manifest.
    repack_error : float
        Squared norm of what was lost now, after the final rounding, over that of all that the variant changed of the base.
        Of an exact variant it is what its residuals lack of it.
    error_bound : float or None
        Of all that was lost, before and now.
    rank_before, rank_after : float
        Total rank; see :func:`erestore.variant.rank.total_rank`.
    exact : bool
    """

    ref: str
    before: str
    after: str | None
    parent: str
    bytes_before: int
    bytes_after: int
    repack_error: float
    error_bound: float | None
    rank_before: float
    rank_after: float
    exact: bool


@dataclass(frozen=True)
class KeptVariant:
    """A variant that stays as it is."""

    ref: str
    commit: str
    reason: str


@dataclass(frozen=True)
class SharedResidual:
    """A mean that was written: its residual, stored size, and the branches that are added to it."""

    residual: str
    bytes: int
    refs: tuple[str, ...]


@dataclass(frozen=True)
class RepackResult:
    """What ``repack`` did, or would do in a dry run; the fields are those of JSON.

    Attributes
    ----------
    bytes_before, bytes_after : int
        Of all reachable objects.
    added_bytes : int
        Written now.
    freed_bytes : int
        What garbage collection frees once reflogs have forgotten the former commits.
    repacked : tuple of Repacked
    kept : tuple of KeptVariant
    means : tuple of SharedResidual
    operation : str or None
        For ``undo``; None where nothing was moved.
    dry_run : bool
    """

    bytes_before: int
    bytes_after: int
    added_bytes: int
    freed_bytes: int
    repacked: tuple[Repacked, ...]
    kept: tuple[KeptVariant, ...]
    means: tuple[SharedResidual, ...]
    operation: str | None
    dry_run: bool


def repack(
    store: Store,
    revisions: Sequence[str] = (),
    *,
    max_error: float | None = None,
    max_total_rank: int | None = None,
    dry_run: bool = False,
    products_directory: Path | None = None,
    progress: Progress = silent,
) -> RepackResult:
    """Encode variants anew against the parents that make all of them take the least.

    Parents that are tried: the base, ancestors and other variants of it, and means of variants that have something in
    common, which are written once. A variant stays as it is where that gains too little, or where something else needs what
    it takes. Each that gains is moved by itself: what is interrupted has moved some of them.

    Parameters
    ----------
    store : Store
    revisions : sequence of str
        Branches; by default all.
    max_error : float, optional
        Most of the squared norm of all that a variant changed of its base that may be lost. By default a quarter of what it
        had lost before. Exact variants stay exact, and it bounds what their residuals lack of them.
    max_total_rank : int, optional
        By default the setting ``commit.flatten_rank``.
        Largest total rank that a variant may get; 0 for any.
    dry_run : bool
        Do all of it beside the store, and nothing in it.
    products_directory : Path, optional
        See :class:`erestore.analysis.similarity.product_cache.ProductTable`.
    progress : Progress

    Returns
    -------
    RepackResult

    Raises
    ------
    UsageError
        If a revision is no branch, or a base.
    NotFoundError
        If there are no variants.
    """
    if max_error is not None:
        require_max_error(max_error)
    operation = store.begin()
    with ExitStack() as stack:
        lease = None if dry_run else stack.enter_context(Lease(store.storage, "writer", operation.writer))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="erestore-repack-")))
        limit = store.setting("commit.flatten_rank") if max_total_rank is None else max_total_rank
        return _Repacking(store, operation, lease, directory, max_error, limit, products_directory, progress).run(
            revisions
        )


class _Encoded(NamedTuple):
    """A variant that was encoded anew, and waits for its branch to be moved."""

    candidate: Candidate
    parent: str
    stored: StoredVariant
    commit: Commit
    freed: int
    error: float
    ranks: tuple[float, float]


@dataclass
class _Repacking:
    store: Store
    operation: Operation
    lease: Lease | None
    directory: Path
    max_error: float | None
    max_total_rank: int
    products_directory: Path | None
    progress: Progress
    kept: dict[str, KeptVariant] = field(default_factory=dict)
    repacked: list[Repacked] = field(default_factory=list)
    means: list[SharedResidual] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    _groups: int = 0

    @cached_property
    def objects(self) -> ObjectStore:
        """Where what is accepted goes: the store, or in a dry run beside it."""
        if self.lease is not None:
            return self.store.objects
        return ObjectStore(Overlay(self.store.storage, LocalStorage(self.directory / "store"), refresh=False))

    @cached_property
    def entries(self) -> dict[str, RefEntry]:
        """All names."""
        return {name: entry for name, entry in sorted(self.store.refs.all().items()) if entry.oid is not None}

    @cached_property
    def reach(self) -> Reach:
        """What they lead to."""
        return Reach(self.store.objects, {name: str(entry.oid) for name, entry in self.entries.items()})

    def run(self, revisions: Sequence[str]) -> RepackResult:
        sizes = {stored.oid: stored.size for stored in self.store.objects.list()}
        candidates = list(self._candidates(revisions, sizes))
        for base in dict.fromkeys(candidate.variant.manifest.base for candidate in candidates):
            self._repack([candidate for candidate in candidates if candidate.variant.manifest.base == base])
        return self._result(sizes)

    def _result(self, sizes: Mapping[str, int]) -> RepackResult:
        before = set(self.reach.needs)
        after = before
        if self.moved:
            after = set(Reach(self.objects, {**self.reach.tips, **self.moved}).needs)
            sizes = {**sizes, **{oid: self.objects.size(oid) for oid in after - before}}
        dry_run = self.lease is None
        return RepackResult(
            bytes_before=sum(sizes.get(oid, 0) for oid in before),
            bytes_after=sum(sizes.get(oid, 0) for oid in after),
            added_bytes=sum(sizes[oid] for oid in after - before),
            freed_bytes=sum(sizes.get(oid, 0) for oid in before - after),
            repacked=tuple(self.repacked),
            kept=tuple(self.kept[name] for name in sorted(self.kept)),
            means=tuple(self.means),
            operation=self.operation.id if self.moved and not dry_run else None,
            dry_run=dry_run,
        )

    def _keep(self, name: str, reason: str) -> None:
        self.kept[name] = KeptVariant(name, str(self.entries[name].oid), reason)

    def _candidates(self, revisions: Sequence[str], sizes: Mapping[str, int]) -> Iterator[Candidate]:
        """Yield the branches that may be encoded anew; note why others stay."""
        for name in self._branches(revisions):
            oid = str(self.entries[name].oid)
            commit = self.store.commit_record(oid)
            if commit.edge == "imported":
                raise UsageError(f"'{name}' is a base, which cannot be repacked.", hint="Name a variant.")
            original = Original(Variant.open(self.store.objects, commit.manifest))
            exclusive = self.reach.exclusive(name, commit.parents)
            parts = {*commit.own, original.variant.manifest.patch, commit.manifest} & exclusive
            candidate = Candidate(name, commit, original, {part: sizes[part] for part in parts if part})
            if reason := self._reason(candidate, oid):
                self._keep(name, reason)
            else:
                yield candidate

    def _branches(self, revisions: Sequence[str]) -> list[str]:
        if revisions:
            for name in revisions:
                if name not in self.entries:
                    self.store.resolve(name)
                if name not in self.entries or self.entries[name].kind != "branch":
                    raise UsageError(f"'{name}' is not a branch, so it cannot be moved.", hint="Name branches.")
            return list(dict.fromkeys(revisions))
        names = [
            name
            for name, entry in self.entries.items()
            if entry.kind == "branch" and self.store.commit_record(str(entry.oid)).edge != "imported"
        ]
        if not names:
            raise NotFoundError("There are no variants to repack.", hint="`erestore commit` makes one.")
        return names

    def _reason(self, candidate: Candidate, oid: str) -> str | None:
        """Say why a variant cannot gain anything."""
        commit, name = candidate.commit, candidate.name
        if self.store.is_protected(name):
            return "it is protected (branch.protected)"
        if commit.quality.get("codec") == "exact-only":
            return "all of it is an exact remainder"
        if not commit.own:
            return "it has no residual of its own"
        if not candidate.variant.is_reproducible:
            return "it was encoded with ere, which decodes differently from machine to machine"
        if not candidate.residual_bytes:
            others = self.reach.others(oid, name) or self.reach.others(commit.own[-1], name)
            kinds = sorted(f"the {self.entries[other].kind} '{other}'" for other in others)
            # A tag rather than a branch: it is what is forgotten most easily.
            return f"{kinds[-1] if kinds else 'an earlier version'} needs its residual"
        if not candidate.allowed(self.max_error, 1.0):
            return "it is lossless so far, and --max-error was not given"
        return None

    def _repack(self, candidates: Sequence[Candidate]) -> None:
        """Repack variants of one base."""
        table = ProductTable(self.products_directory, self.store.id)
        others = list(self._others(candidates))
        fleet = Fleet(candidates, others, self.max_error, self.max_total_rank, table, self.progress)
        for group in fleet.groups():
            self._repack_group(fleet, group)
        for candidate in candidates:
            if candidate.name not in self.moved and candidate.name not in self.kept:
                self._keep(candidate.name, "no other encoding is smaller")

    def _others(self, candidates: Sequence[Candidate]) -> Iterator[tuple[str, Variant]]:
        """Yield more variants of the base: what all names and parents of candidates are."""
        oids = {str(entry.oid): name for name, entry in self.entries.items()}
        for candidate in candidates:
            oids |= {oid: f"{candidate.name}~1" for oid in candidate.commit.parents[:1] if oid not in oids}
        base = candidates[0].variant.manifest.base
        term_sets = {candidate.variant.manifest.terms for candidate in candidates}
        for oid, name in oids.items():
            variant = Variant.open(self.store.objects, self.store.commit_record(oid).manifest, lossy=True)
            manifest = variant.manifest
            if manifest.base == base and manifest.terms and manifest.terms not in term_sets and variant.is_reproducible:
                term_sets.add(manifest.terms)
                yield name, variant

    def _repack_group(self, fleet: Fleet, group: RepackGroup) -> None:
        """Encode variants that are added to one another; move their branches once all of it is smaller than before."""
        self._groups += 1
        waiting = self._over(self.objects, f"group-{self._groups}")
        objects = ObjectStore(waiting)
        terms, mean_bytes = {group.root: fleet.terms(group.root)}, 0
        if group.root in fleet.means:
            mean = mean_of(fleet.variants(fleet.means[group.root]))
            stored_mean = write_mean(objects, mean, fleet.mean_error(group.root), self.progress)
            if stored_mean is None:
                return
            terms[group.root], mean_bytes = (Term(stored_mean.oid, Fraction(1)),), stored_mean.added_bytes
        gained, pending, moved = -mean_bytes, list[_Encoded](), list[str]()
        for member, parent in group.members:
            encoded = self._encode(fleet, member, terms.get(parent, fleet.terms(parent)), objects, fleet.name(parent))
            if encoded is None:
                continue
            terms[member] = encoded.stored.manifest.terms
            gained += encoded.freed - encoded.stored.added_bytes
            pending.append(encoded)
            if gained > 0:
                waiting.publish()
                for variant in pending:
                    if self._move(variant, shared_bytes=0 if moved else mean_bytes):
                        moved.append(variant.candidate.name)
                pending = []
        for variant in pending:
            self._keep(variant.candidate.name, "sharing with others would take more space")
        if group.root in fleet.means and moved:
            self.means.append(SharedResidual(terms[group.root][0].residual, mean_bytes, tuple(moved)))

    def _over(self, objects: ObjectStore, name: str) -> Overlay:
        return Overlay(objects.storage, LocalStorage(self.directory / name), refresh=self.lease is not None)

    def _encode(
        self, fleet: Fleet, member: int, terms: Sequence[Term], objects: ObjectStore, parent: str
    ) -> _Encoded | None:
        """Encode a variant into the group's storage if that makes it smaller."""
        candidate = fleet.candidates[member]
        waiting = self._over(objects, f"variant-{self._groups}-{member}")
        variant_objects = ObjectStore(waiting)
        try:
            stored = reencode(variant_objects, candidate.original, terms, fleet.allowed[member], self.progress)
        except UsageError:  # the error that is allowed cannot be reached: nothing of that is the others' concern
            stored = None
        if stored is None:
            self._keep(candidate.name, "its allowed error is too small")
            return None
        needed = {oid for _, oid in stored.manifest.references()} | {stored.manifest_oid}
        freed = sum(size for oid, size in candidate.removable.items() if oid not in needed)
        variant = Variant(variant_objects, stored.manifest, layout=candidate.variant.layout)
        ranks = total_rank(candidate.variant), total_rank(variant)
        if stored.added_bytes > freed - LEAST_GAIN * candidate.residual_bytes:
            self._keep(candidate.name, f"re-encoded it would take {stored.added_bytes:,} bytes instead of {freed:,}")
            return None
        if self.max_total_rank and ranks[1] > max(self.max_total_rank, ranks[0]):
            self._keep(candidate.name, f"its total rank would become {ranks[1]:.4g}")
            return None
        waiting.publish()
        error = ratio(stored.outcome.squared_error, fleet.squared_norms[member])
        inherited = {term.residual for term in self.store.manifest_of(candidate.commit.parents[0]).terms}
        commit = candidate.copied(stored, inherited, error, freed)
        return _Encoded(candidate, parent, stored, commit, freed, error, ranks)

    def _move(self, encoded: _Encoded, *, shared_bytes: int) -> bool:
        """Point a branch to its new commit; `shared_bytes` were written for this and later ones."""
        name = encoded.candidate.name
        entry, commit = self.entries[name], encoded.commit
        commit = replace(commit, stored_bytes=commit.stored_bytes + shared_bytes)
        if self.lease is None:
            oid = self.objects.put_record("commit", commit.to_record()).oid
        else:
            self.lease.confirm()
            try:
                oid = self.store.record(commit, name, self.operation, expected=entry.number, subject="repacked").oid
            except RefConflictError:
                self._keep(name, "another writer moved it meanwhile")
                return False
        self.moved[name] = oid
        self.repacked.append(
            Repacked(
                ref=name,
                before=str(entry.oid),
                after=None if self.lease is None else oid,
                parent=encoded.parent,
                bytes_before=encoded.freed,
                bytes_after=encoded.stored.added_bytes,
                repack_error=encoded.error,
                error_bound=known_error(self.objects, commit).bound,
                rank_before=encoded.ranks[0],
                rank_after=encoded.ranks[1],
                exact=encoded.candidate.original.is_exact,
            )
        )
        return True
