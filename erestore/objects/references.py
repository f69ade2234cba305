"""What objects refer to, and a walk along it: the one place that knows every reference. No tensor is touched.

``tensors``, ``blob``, ``note`` and kinds whose form is not fixed yet refer to nothing; all others are read once each. A base
refers to the note that calibrates it, which its record does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final, NamedTuple

from erestore.errors import CorruptionError, ErestoreError, UnsupportedFormatError
from erestore.execute import bounded_map
from erestore.objects.index import RESIDUAL_OPTIONAL, check_fields
from erestore.records import Base, Commit, Layout, Manifest
from erestore.storage.calibrations import newest_note
from erestore.storage.frames import is_oid
from erestore.storage.objects import ObjectStore

READERS: Final = 8
"""Objects read at once: a remote answers slowly, but to many."""

RECORDS: Final[Mapping[str, type[Commit | Manifest | Base | Layout]]] = {
    "commit": Commit,
    "manifest": Manifest,
    "base": Base,
    "layout": Layout,
}
REFERRING: Final = frozenset(RECORDS) | {"residual", "patch"}
"""Kinds that refer to other objects."""


class Reference(NamedTuple):
    """An object as others refer to it."""

    kind: str
    oid: str


class Visit(NamedTuple):
    """One object on a walk and what it refers to."""

    reference: Reference
    needs: tuple[Reference, ...]


Damage = Callable[[Reference, ErestoreError], None]
"""Told of an object on the walk that cannot be read; what it refers to stays unknown."""


def references(objects: ObjectStore, kind: str, oid: str, *, lenient: bool = False) -> tuple[Reference, ...]:
    """Return what an object refers to, each once; with `lenient`, as if a base with a damaged log had no calibration.

    Raises
    ------
    MissingObjectError
        If it is not there.
    CorruptionError
        If it is not what was written, or refers to something that is not an oid.
    UnsupportedFormatError
        If a newer version wrote it.
    """
    if kind in RECORDS:
        pairs = RECORDS[kind].from_record(objects.get_record(kind, oid)).references()
        if kind == "base":
            pairs = chain(pairs, _of_calibration(objects, oid, lenient=lenient))
    elif kind == "residual":
        pairs = _of_residual(objects, oid)
    elif kind == "patch":
        pairs = _of_patch(objects, oid)
    else:
        return ()
    needs = dict.fromkeys(Reference(*pair) for pair in pairs if _checked(kind, oid, pair[1]))
    return tuple(needs)


def _of_calibration(objects: ObjectStore, base: str, *, lenient: bool) -> Iterator[tuple[str, str]]:
    try:
        note = newest_note(objects.storage, base)
    except CorruptionError:
        if not lenient:
            raise
        return
    if note is not None:
        yield "note", note


def _of_residual(objects: ObjectStore, oid: str) -> Iterator[tuple[str, str]]:
    index = objects.open("residual", oid).index
    # A newer version's field may refer to something; what codecs are used does not matter here.
    check_fields(
        f"The residual {oid[:12]}", index, {"base", "evaluator", "features", "segments", "tensors"}, RESIDUAL_OPTIONAL
    )
    yield "base", index["base"]


def _of_patch(objects: ObjectStore, oid: str) -> Iterator[tuple[str, str]]:
    index = objects.open("patch", oid).index
    check_fields(f"The patch {oid[:12]}", index, {"features", "segments", "tensors"})
    try:
        predictors = [list(tensor["predictor"]) for tensor in index["tensors"].values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"The patch {oid[:12]} has a malformed index.") from error
    for predictor in predictors:
        if predictor[:1] == ["stored"] and len(predictor) == 2:
            yield "manifest", predictor[1]
        elif predictor not in (["linear"], ["base"]):
            raise UnsupportedFormatError(f"The patch {oid[:12]} uses the unknown predictor {predictor}.")


def _checked(kind: str, oid: str, needed: object) -> bool:
    if not is_oid(needed):
        raise CorruptionError(f"The {kind} {oid} refers to something that is not an oid.")
    return True


def walk(
    objects: ObjectStore, roots: Iterable[Reference], reached: set[Reference], damaged: Damage | None = None
) -> Iterator[Visit]:
    """Visit everything that `roots` lead to and that is not in `reached` yet, each once.

    Parameters
    ----------
    objects : ObjectStore
    roots : iterable of Reference
    reached : set of Reference
        Grows; hand it to a later walk to go on from there.
    damaged : callable, optional
        By default the first object that cannot be read ends the walk with its error. Objects that refer to nothing are
        not read, and so are not found damaged here; nor are entries of logs, which is a matter of those.

    Yields
    ------
    Visit
        Nearest to the roots first. One that is damaged needs nothing as far as is known.
    """

    def read(reference: Reference) -> tuple[Reference, ...]:
        try:
            return references(objects, *reference, lenient=damaged is not None)
        except ErestoreError as error:
            if damaged is None:
                raise
            damaged(reference, error)
            return ()

    frontier = _fresh(roots, reached)
    with ThreadPoolExecutor(READERS) as executor:
        while frontier:
            reading = [reference for reference in frontier if reference.kind in REFERRING]
            yield from (Visit(reference, ()) for reference in frontier if reference.kind not in REFERRING)
            frontier = []
            results = bounded_map(executor, read, reading, in_flight=2 * READERS)
            for reference, needs in zip(reading, results, strict=True):
                frontier += _fresh(needs, reached)
                yield Visit(reference, needs)


def _fresh(candidates: Iterable[Reference], reached: set[Reference]) -> list[Reference]:
    fresh = [reference for reference in dict.fromkeys(candidates) if reference not in reached]
    reached.update(fresh)
    return fresh


def closure(starts: Iterable[str], needs: Mapping[str, Iterable[str]]) -> set[str]:
    """Return some objects and all that they lead to, given what every object refers to."""
    reached = set(starts)
    pending = list(reached)
    while pending:
        for oid in needs[pending.pop()]:
            if oid not in reached:
                reached.add(oid)
                pending.append(oid)
    return reached
