"""``fsck``: look for damage; report it, and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from erestore.errors import CorruptionError, ErestoreError, KeyNotFoundError, MissingObjectError, RemoteError
from erestore.execute import bounded_map
from erestore.objects.references import READERS, RECORDS, Reference, walk
from erestore.progress import Progress, silent
from erestore.records import Base, Layout, Manifest
from erestore.storage.calibrations import PREFIX as CALIBRATIONS
from erestore.storage.calibrations import parse_entry
from erestore.storage.canonical import parse_canonical
from erestore.storage.condemned import PREFIX as CONDEMNED
from erestore.storage.condemned import parse_list
from erestore.storage.frames import RECORD_HEADER, damaged, is_segmented, kind_of
from erestore.storage.objects import StoredObject
from erestore.storage.reflogs import LoggedEntry, read_reflogs
from erestore.storage.segments import read_present
from erestore.store import MARKER, Store

_RECORDS_KEPT = 16
"""Bases and layouts that are kept while manifests are held against them: most share a few."""


@dataclass(frozen=True)
class Damage:
    """One damaged or missing object.

    Attributes
    ----------
    oid : str
    kind : str
        What it should be; ``object`` where nothing says so.
    reason : str
    needed_by : tuple of str
        Revisions that cannot be checked out without it; where there are none, those whose history it belongs to.
    """

    oid: str
    kind: str
    reason: str
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class DamagedEntry:
    """A marker, entry of a log or condemned list that cannot be read, or does not follow the entry before."""

    key: str
    reason: str


@dataclass(frozen=True)
class FsckResult:
    """What ``fsck`` found; the fields are those of its JSON.

    Attributes
    ----------
    checked : int
        Objects that were looked at.
    corrupt, missing : tuple of Damage
    unreachable : tuple of str
        Oids of objects that no ref or reflog leads to: no damage, garbage collection takes them in time.
    entries : tuple of DamagedEntry
        Damage outside of objects: refs, configuration, marker.
    """

    checked: int
    corrupt: tuple[Damage, ...]
    missing: tuple[Damage, ...]
    unreachable: tuple[str, ...]
    entries: tuple[DamagedEntry, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.corrupt or self.missing or self.entries)


def fsck(store: Store, *, read_data: bool = False, deep: bool = False, progress: Progress = silent) -> FsckResult:
    """Check a store.

    Always: every entry of every log parses, every object that refs and reflogs lead to is there, is of the right kind,
    and its record or index is what was written; objects have the size that their index says; what a variant's layout lists
    can be checked out.

    Parameters
    ----------
    store : Store
    read_data : bool
        Also read every byte of every object, unreachable ones too, past any local copies, and verify it.
    deep : bool
        Also decode every tensor of every variant and compare it with what its commit recorded; includes `read_data`.
    progress : Progress

    Returns
    -------
    FsckResult

    Raises
    ------
    RemoteError, AccessError
        If the storage cannot be read. Damage is never raised.
    """
    check = _Check(store, progress)
    check.walk()
    check.read_reachable(every_byte=read_data or deep)
    check.check_layouts()
    if read_data or deep:
        check.read_unreachable()
    if deep:
        check.decode()
    return check.result()


@dataclass
class _Check:
    store: Store
    progress: Progress
    entries: list[DamagedEntry] = field(default_factory=list)
    revisions: dict[str, list[str]] = field(default_factory=dict)
    listed: dict[str, StoredObject] = field(default_factory=dict)
    needs: dict[Reference, tuple[Reference, ...]] = field(default_factory=dict)
    faults: dict[Reference, list[ErestoreError]] = field(default_factory=dict)
    checked: int = 0

    def walk(self) -> None:
        """Read logs and every reachable record."""
        self.entries = list(_damaged_keys(self.store))
        # Objects are listed before refs: what is written meanwhile is not taken for unreachable or missing.
        self.listed = {stored.oid: stored for stored in self.store.objects.list()}
        logs = read_reflogs(self.store.storage)
        roots = list(self._roots(logs.values()))
        for visit in walk(self.store.objects, roots, set(), self._add):
            self.needs[visit.reference] = visit.needs
            self.progress("walking", len(self.needs), max(len(self.needs), len(self.listed)))

    def _roots(self, logs: Iterable[list[LoggedEntry]]) -> Iterator[Reference]:
        for log in logs:
            for back, logged in enumerate(reversed(log)):
                if logged.entry is not None and logged.entry.oid:
                    revision = f"{logged.name}@{{{back}}}" if back else logged.name
                    self.revisions.setdefault(logged.entry.oid, []).append(revision)
                    yield Reference("commit", logged.entry.oid)
            before: LoggedEntry | None = None
            for logged in log:
                if logged.entry is None:
                    self.entries.append(DamagedEntry(logged.key, logged.error.message if logged.error else ""))
                elif before is not None and not _follows(logged, before):
                    self.entries.append(DamagedEntry(logged.key, f"It does not follow entry {before.number}."))
                elif logged.entry.previous in self.listed:
                    # An expired entry's commit is held by the entry after it for a while, and may be gone later.
                    yield Reference("commit", logged.entry.previous)
                before = logged

    def _add(self, reference: Reference, error: ErestoreError) -> None:
        if isinstance(error, RemoteError):  # says nothing about what is stored
            raise error
        self.faults.setdefault(reference, []).append(error)

    def read_reachable(self, *, every_byte: bool) -> None:
        """Look at what the walk did not read: indexes, sizes, or with `every_byte` every byte."""
        self.checked = len(self.needs)
        rest = [r for r in self.needs if r not in self.faults and (every_byte or r.kind not in RECORDS)]
        self._each("reading", rest, lambda reference: self._read(reference, every_byte=every_byte))

    def check_layouts(self) -> None:
        """Hold the layout of every variant against what its manifest and base hold."""
        from erestore.ingest.layout_faults import layout_faults

        objects = self.store.objects
        bases = lru_cache(_RECORDS_KEPT)(lambda oid: Base.from_record(objects.get_record("base", oid)).tensors)
        layouts = lru_cache(_RECORDS_KEPT)(lambda oid: Layout.from_record(objects.get_record("layout", oid)))

        def look(reference: Reference) -> None:
            manifest = Manifest.from_record(objects.get_record("manifest", reference.oid))
            faults = list(layout_faults(layouts(manifest.layout), manifest, bases(manifest.base)))
            if faults:
                more = f" And {len(faults) - 1} more of the kind." if len(faults) > 1 else ""
                raise CorruptionError(f"It cannot be checked out: {faults[0]}{more}")

        broken = self._dependents(self.faults, through_parents=False)
        manifests = [needed for needed in self.needs if needed.kind == "manifest" and needed not in broken]
        self._each("checking layouts", manifests, look)

    def _read(self, reference: Reference, *, every_byte: bool) -> None:
        kind, oid = reference
        objects = self.store.objects
        if every_byte:
            objects.verify(kind, oid)
        elif is_segmented(read_present(objects.storage, kind, oid, 0, RECORD_HEADER)):
            segments = objects.open(kind, oid).segments
            if segments and oid in self.listed and self.listed[oid].size != segments[-1].stop:
                raise damaged(kind, oid, f"it has {self.listed[oid].size} bytes instead of {segments[-1].stop}")
        else:
            objects.verify(kind, oid)

    def read_unreachable(self) -> None:
        """Verify every object that no ref leads to."""
        reached = {reference.oid for reference in self.needs}
        rest = [Reference("object", oid) for oid in self.listed if oid not in reached]
        self.checked += len(rest)

        def read(reference: Reference) -> None:
            start = read_present(self.store.storage, *reference, 0, RECORD_HEADER)
            kind = kind_of(start)
            if kind is None:
                raise damaged(*reference, "it does not start like an object")
            self.store.objects.verify(kind, reference.oid)

        self._each("reading unreachable", rest, read, gone_is_fine=True)

    def _each(
        self,
        stage: str,
        references: list[Reference],
        read: Callable[[Reference], None],
        *,
        gone_is_fine: bool = False,
    ) -> None:
        def attempt(reference: Reference) -> ErestoreError | None:
            try:
                read(reference)
            except MissingObjectError as error:
                return None if gone_is_fine else error  # collected since it was listed
            except ErestoreError as error:
                return error
            return None

        with ThreadPoolExecutor(READERS) as executor:
            results = bounded_map(executor, attempt, references, in_flight=2 * READERS)
            for number, (reference, error) in enumerate(zip(references, results, strict=True), 1):
                if error is not None:
                    self._add(reference, error)
                self.progress(stage, number, len(references))

    def decode(self) -> None:
        """Decode every base and variant all of whose parts are there and whole."""
        from erestore.variant.verify import base_faults, variant_faults

        broken = self._dependents(self.faults, through_parents=False)
        intact = [reference for reference in self.needs if reference not in broken]
        bases = [reference for reference in intact if reference.kind == "base"]
        manifests = [reference for reference in intact if reference.kind == "manifest"]
        for number, reference in enumerate(bases + manifests, 1):
            find = base_faults if reference.kind == "base" else variant_faults
            for error in find(self.store.objects, reference.oid):
                self._add(reference, error)
            self.progress("decoding", number, len(bases) + len(manifests))

    @cached_property
    def _needed_by_kind(self) -> tuple[dict[Reference, list[Reference]], dict[Reference, list[Reference]]]:
        """What needs each object: without commits that need their parents, and those alone."""
        parts: dict[Reference, list[Reference]] = {}
        parents: dict[Reference, list[Reference]] = {}
        for reference, needs in self.needs.items():
            for needed in needs:
                (parents if needed.kind == "commit" else parts).setdefault(needed, []).append(reference)
        return parts, parents

    def _dependents(self, damage: Iterable[Reference], *, through_parents: bool) -> set[Reference]:
        """Return `damage` and everything that needs it."""
        parts, parents = self._needed_by_kind
        affected = set(damage)
        pending = list(affected)
        while pending:
            reference = pending.pop()
            dependents = parts.get(reference, []) + (parents.get(reference, []) if through_parents else [])
            for dependent in dependents:
                if dependent not in affected:
                    affected.add(dependent)
                    pending.append(dependent)
        return affected

    def _needed_by(self, reference: Reference) -> tuple[str, ...]:
        for through_parents in (False, True):
            commits = self._dependents([reference], through_parents=through_parents)
            names = {name for commit in commits for name in self.revisions.get(commit.oid, ())}
            if names:
                return tuple(sorted(names))
        return ()

    def result(self) -> FsckResult:
        corrupt: list[Damage] = []
        missing: list[Damage] = []
        for reference, errors in sorted(self.faults.items()):
            names = self._needed_by(reference)
            for error in errors:
                is_missing = isinstance(error, MissingObjectError) and error.oid == reference.oid
                damages = missing if is_missing else corrupt
                damages.append(Damage(reference.oid, reference.kind, error.message, names))
        reached = {reference.oid for reference in self.needs}
        unreachable = tuple(sorted(oid for oid in self.listed if oid not in reached))
        return FsckResult(self.checked, tuple(corrupt), tuple(missing), unreachable, tuple(self.entries))


def _follows(logged: LoggedEntry, before: LoggedEntry) -> bool:
    if logged.number != before.number + 1:
        return False
    return before.entry is None or logged.entry is None or logged.entry.previous == before.entry.oid


def _damaged_keys(store: Store) -> Iterator[DamagedEntry]:
    """Look at everything that is neither an object nor a ref."""
    parsers: tuple[tuple[str, Callable[[bytes], object]], ...] = (
        (MARKER, _parse_object),
        ("config/", _parse_object),
        (CONDEMNED, parse_list),
        (CALIBRATIONS, parse_entry),
    )
    for prefix, parse in parsers:
        for entry in store.storage.list(prefix):
            try:
                parse(store.storage.read(entry.key))
            except KeyNotFoundError:  # removed since it was listed
                continue
            except CorruptionError as error:
                yield DamagedEntry(entry.key, error.message)
    if not store.storage.exists(MARKER):
        yield DamagedEntry(MARKER, "It is missing.")


def _parse_object(content: bytes) -> None:
    if not isinstance(parse_canonical(content), dict):
        raise CorruptionError("It is not a JSON object.")
