"""Stores for tests of metadata verbs: a lineage made of commit records that share one tiny manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from erestore.api import Store
from erestore.operation import Operation
from erestore.records import Base, Commit, Layout, Manifest
from erestore.storage.abc import Storage
from erestore.storage.canonical import parse_canonical
from erestore.storage.memory import MemoryStorage
from erestore.store import MARKER

START = 1_700_000_000_000_000
"""Time of the first commit, in microseconds."""


def empty_store() -> Store:
    """A store that its author "tester" writes to."""
    storage = MemoryStorage()
    storage.create(MARKER, b'{"erestore":1,"id":"00","read":[],"write":[]}')
    return reopened(storage)


def reopened(storage: Storage) -> Store:
    """The store in a storage."""
    store = Store(storage, parse_canonical(storage.read(MARKER)))
    store.author = "tester"
    return store


def add(
    store: Store,
    name: str,
    *parents: str,
    edge: str | None = None,
    message: str = "",
    seconds: float = 0,
    operation: Operation | None = None,
    base: str = "base",
    metrics: Mapping[str, str] | None = None,
) -> str:
    """Make a commit that `name` points to, and return its oid; every base is another record."""
    objects = store.objects
    held = objects.put_record("base", Base({}).to_record() if base == "base" else {"tensors": {base: _blank(store)}})
    layout = objects.put_record("layout", Layout("safetensors", True, (), {}).to_record())
    manifest = objects.put_record("manifest", Manifest(base=held.oid, terms=(), layout=layout.oid).to_record())
    operation = operation or store.begin()
    operation = replace(operation, time=int(START + 1e6 * seconds))
    entry = store.refs.read(name)
    commit = Commit(
        manifest=manifest.oid,
        parents=tuple(store.resolve(parent) for parent in parents),
        edge=edge or ("adapted" if parents else "imported"),
        author=operation.author,
        time=operation.time,
        message=message,
        metrics=dict(metrics or {}),
        quality={"exact": "no", "relative_error": "0.25"} if parents else {"exact": "yes", "relative_error": "0.0"},
        original_bytes=1000,
        stored_bytes=100,
    )
    return store.record(commit, name, operation, expected=entry.number if entry else 0).oid


def _blank(store: Store) -> list[object]:
    with store.objects.writer("tensors") as writer:
        writer.add(b"x", raw_length=1, stage="raw")
        written = writer.finish({})
    return ["U8", [1], "0" * 64, [written.oid, 0, 1]]


def names(entries: Sequence[object], field: str = "commit") -> list[object]:
    """One field of every entry."""
    return [getattr(entry, field) for entry in entries]
