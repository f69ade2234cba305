"""Revisions by name: a ref, the start of an oid, ``name~2``, ``name@{3}``."""

from __future__ import annotations

import re

from erestore.errors import ErestoreError, UnknownRevisionError, UsageError, similar_names
from erestore.records import Commit
from erestore.storage.frames import is_oid
from erestore.storage.objects import ObjectStore
from erestore.storage.refs import Refs, check_name

_STEPS = re.compile(r"(?P<start>.+?)(?P<steps>(?:~\d*|@\{\d+\})+)")
_STEP = re.compile(r"~(?P<back>\d*)|@\{(?P<entry>\d+)\}")


def resolve(objects: ObjectStore, refs: Refs, revision: str) -> str:
    """Return the oid of the commit that a revision names: a ref, an oid prefix, ``name~2``, ``name@{3}``.

    Raises
    ------
    UnknownRevisionError
        If it names nothing; similar names are given.
    UsageError
        If an oid prefix is ambiguous.
    """
    match = _STEPS.fullmatch(revision)
    if match is None:
        return _resolve_name(objects, refs, revision)
    oid, start = None, match["start"]
    for step in _STEP.finditer(match["steps"]):
        if step["entry"] is not None:
            if oid is not None:
                raise UsageError(f"'{revision}' is not a revision: @{{n}} follows a ref's name.")
            oid = _reflog_entry(refs, start, int(step["entry"]), revision)
        else:
            oid = _ancestor(objects, oid or _resolve_name(objects, refs, start), int(step["back"] or 1), revision)
    assert oid is not None
    return oid


def near(refs: Refs, name: str) -> tuple[str, ...]:
    """Return names of branches and tags that look like `name`."""
    return similar_names(name, refs.names())


def _resolve_name(objects: ObjectStore, refs: Refs, name: str) -> str:
    try:
        entry = refs.read(check_name(name))
    except UsageError:
        entry = None
    if entry is not None and entry.oid is not None:
        return entry.oid
    if len(name) >= 4 and re.fullmatch(r"[0-9a-f]{4,64}", name):
        commits = [oid for oid in objects.find(name) if _is_commit(objects, oid)]
        if len(commits) > 1:
            raise UsageError(f"'{name}' is the start of {len(commits)} commits.", hint="Give more digits.")
        if commits:
            return commits[0]
    raise UnknownRevisionError(name, near(refs, name))


def _is_commit(objects: ObjectStore, oid: str) -> bool:
    try:
        objects.get_record("commit", oid)
    except ErestoreError:
        return False
    return is_oid(oid)


def _reflog_entry(refs: Refs, name: str, back: int, revision: str) -> str:
    for number, entry in enumerate(refs.log(check_name(name))):
        if number == back and entry.oid is not None:
            return entry.oid
    raise UnknownRevisionError(revision, near(refs, name))


def _ancestor(objects: ObjectStore, oid: str, back: int, revision: str) -> str:
    for _ in range(back):
        parents = Commit.from_record(objects.get_record("commit", oid)).parents
        if not parents:
            raise UnknownRevisionError(revision)
        oid = parents[0]
    return oid
