"""Verbs that change a store, the states that they start from, and what may have become of names when they are interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiny
import torch

from erestore.encoding.quality import Quality
from erestore.ops.branch import branch, delete_branches, rename_branch
from erestore.ops.commit import commit
from erestore.ops.fsck import fsck
from erestore.ops.gc import gc
from erestore.ops.import_base import import_base
from erestore.ops.repack import repack
from erestore.ops.tag import delete_tags, tag
from erestore.ops.undo import undo
from erestore.storage.abc import Storage
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.store import Store


@dataclass(frozen=True)
class Verb:
    """A verb, the state of the store that it starts from, and what it makes of names.

    Attributes
    ----------
    start : str
        Name of one of the states of :func:`states`.
    run : callable
        Of a store and the directory of models.
    moved : tuple of str
        Names that may be new, moved or deleted afterwards.
    weights : str or None
        Model whose weights `moved` must have, bit for bit, if it has moved.
    order : tuple of str
        Names that may not be missing both at once: the second goes after the first has come.
    """

    start: str
    run: Callable[[Store, Path], object]
    moved: tuple[str, ...] = ()
    weights: str | None = None
    order: tuple[str, ...] = ()


def collect_in_two_phases(store: Store, _models: Path) -> None:
    gc(store)
    gc(store, reflog_days=0, grace_days=0)


VERBS = {
    "import": Verb("empty", lambda s, m: import_base(s, m / "base", name="base"), ("base",), "base"),
    "commit": Verb("base", lambda s, m: commit(s, m / "one", base="base", name="ft"), ("ft",)),
    "commit and import": Verb(
        "empty", lambda s, m: commit(s, m / "one", base=str(m / "base"), name="ft"), ("base", "ft")
    ),
    "commit --exact": Verb(
        "base", lambda s, m: commit(s, m / "one", base="base", name="ft", quality=tiny.EXACT), ("ft",), "one"
    ),
    "next version": Verb("exact", lambda s, m: commit(s, m / "two", name="exact"), ("exact",)),
    "next exact version": Verb(
        "exact", lambda s, m: commit(s, m / "two", name="exact", quality=tiny.EXACT), ("exact",), "two"
    ),
    "branch": Verb("exact", lambda s, m: branch(s, "other", "exact"), ("other",), "one"),
    "branch --force": Verb("other", lambda s, m: branch(s, "other", "exact", force=True), ("other",), "one"),
    "branch -d": Verb("other", lambda s, m: delete_branches(s, ["other", "exact"]), ("other", "exact")),
    "branch -m": Verb(
        "exact", lambda s, m: rename_branch(s, "exact", "new"), ("exact", "new"), "one", ("exact", "new")
    ),
    "tag": Verb("exact", lambda s, m: tag(s, "v1", "exact"), ("v1",), "one"),
    "tag -d": Verb("tagged", lambda s, m: delete_tags(s, ["v1"]), ("v1",)),
    "undo": Verb("deleted", lambda s, m: undo(s), ("other", "exact")),
    "config": Verb("exact", lambda s, m: s.configure("gc.grace_days", "3")),
    "repack": Verb("family", lambda s, _: repack(s, max_error=0.01), ("son", "daughter")),
    "gc": Verb("garbage", collect_in_two_phases),
}


def write_models(directory: Path) -> Path:
    """Write the models that verbs take."""
    base = tiny.base_weights()
    one = tiny.tuned(base, 1)
    for name, tensors in (("base", base), ("one", one), ("two", tiny.tuned(one, 2))):
        tiny.write_model(directory / name, tensors, name)
    generator = torch.Generator().manual_seed(9)
    far = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        if value.ndim == 2 and value.is_floating_point()
        else value
        for name, value in base.items()
    }
    for seed, name in enumerate(("son", "daughter")):
        tiny.write_model(directory / name, tiny.tuned(far, seed), name)
    return directory


def make_states(models: Path) -> dict[str, Storage]:
    """Make the stores that verbs start from, each a step further."""
    found: dict[str, Storage] = {}
    store = tiny.make_store(MemoryStorage())

    def keep(name: str) -> None:
        found[name] = tiny.copy_store(store.storage, MemoryStorage()).storage

    keep("empty")
    import_base(store, models / "base", name="base")
    keep("base")
    family = tiny.copy_store(store.storage, MemoryStorage())
    for name in ("son", "daughter"):
        commit(family, models / name, base="base", name=name, quality=Quality(max_error=1e-4))
    found["family"] = family.storage
    commit(store, models / "one", base="base", name="exact", quality=tiny.EXACT)
    keep("exact")
    tag(store, "v1", "exact")
    keep("tagged")
    commit(store, models / "two", base="base", name="other")
    keep("other")
    delete_branches(store, ["other", "exact"])
    keep("deleted")
    store.objects.put_blob(b"left over")
    tiny.make_older(store.storage, 60 * tiny.DAY)
    keep("garbage")
    return found


def restart(states: dict[str, Storage], verb: Verb, place: Path | None) -> Storage:
    """Copy the state that a verb starts from."""
    storage = MemoryStorage() if place is None else LocalStorage(place)
    tiny.copy_store(states[verb.start], storage)
    if verb.start == "garbage":
        tiny.make_older(storage, 60 * tiny.DAY)
    return storage


def names_of(store: Store) -> dict[str, str | None]:
    return {name: entry.oid for name, entry in store.refs.all().items()}


def check_old_or_new(verb: Verb, before: dict[str, str | None], storage: Storage, models: Path) -> None:
    store = tiny.store_on(storage)
    after = names_of(store)
    for name in before.keys() | after.keys():
        moved = before.get(name) != after.get(name)
        assert not moved or name in verb.moved
        oid = after.get(name)
        if oid and moved and verb.weights:
            assert tiny.same_tensors(tiny.tensors_of(store, name), tiny.weights_of(models / verb.weights))
    assert not verb.order or any(after.get(name) for name in verb.order)
    found = fsck(store, deep=True)
    assert found.clean, found
