"""Garbage collection at the same time as everything else: whatever was acknowledged is whole.

The store holds garbage that is byte for byte what the verb is about to write (left by a run that was killed), condemned
long ago: the worst case, since a writer does not write again what is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from turns import Interrupted, run_in_turns
from verbs import VERBS, Verb, check_old_or_new, names_of, restart

from erestore.errors import ConflictError, ErestoreError, NotFoundError
from erestore.ops.commit import commit
from erestore.ops.fsck import fsck
from erestore.ops.gc import GcResult, gc
from erestore.storage import leases
from erestore.storage.abc import Storage
from erestore.storage.condemned import PREFIX as CONDEMNED

Collect = Callable[[Storage], GcResult]

COLLECTIONS: dict[str, Collect] = {
    "second phase": lambda storage: gc(tiny.store_on(storage), reflog_days=0),
    "at once": lambda storage: gc(tiny.store_on(storage), reflog_days=0, grace_days=0),
}
RACES = [name for name in VERBS if name not in ("gc", "config")]


def with_remains(states: dict[str, Storage], verb: Verb, models: Path) -> Storage:
    """Return the state a verb starts from, with all that the verb writes but refs, condemned and ready to be deleted."""
    storage = restart(states, verb, None)
    done = restart(states, verb, None)
    verb.run(tiny.store_on(done), models)
    for entry in done.list("objects/"):
        storage.create(entry.key, done.read(entry.key))
    tiny.make_older(storage, 60 * tiny.DAY)
    gc(tiny.store_on(storage))
    tiny.make_older(storage, 30 * tiny.DAY, CONDEMNED)
    return storage


def check_acknowledged(
    verb: Verb, before: dict[str, str | None], error: object, storage: Storage, models: Path
) -> None:
    assert isinstance(error, ConflictError | NotFoundError) or not isinstance(error, Exception), error
    check_old_or_new(verb, before, storage, models)
    if not isinstance(error, Exception):
        assert names_of(tiny.store_on(storage)) != before
    assert not tiny.keys_of(storage, "gc/leases/")


def run(verb: Verb, storage: Storage, models: Path) -> ErestoreError | None:
    try:
        verb.run(tiny.store_on(storage), models)
    except ErestoreError as error:
        return error
    return None


def collect_at_every_call(name: str, collect: Collect, states: dict[str, Storage], models: Path, step: int = 1) -> None:
    verb = VERBS[name]
    start = with_remains(states, verb, models)
    deleted = waited = 0
    for number in itertools.count(1, step):
        storage = tiny.copy_store(start, type(start)(), keep_times=True).storage
        before = names_of(tiny.store_on(storage))
        results: list[GcResult] = []
        error = run(
            verb,
            Interrupted(storage, number, lambda storage=storage, r=results: r.append(collect(storage))),
            models,
        )
        if not results:
            assert error is None
            break
        deleted += results[0].deleted_objects
        waited += results[0].waiting is not None
        check_acknowledged(verb, before, error, storage, models)
    if "commit" in name or "next" in name:
        assert waited
        assert deleted


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("next exact version", "second phase"),
        *((name, "at once") for name in ("commit", "branch", "branch -m", "undo")),
    ],
)
def test_a_collection_at_every_call_of_a_verb(name: str, phase: str, states: dict[str, Storage], models: Path) -> None:
    """Where a commit is encoded anew before each, at some; the soak test below takes every one."""
    collect_at_every_call(name, COLLECTIONS[phase], states, models, {"commit": 2, "next exact version": 6}.get(name, 1))


@pytest.mark.soak
@pytest.mark.parametrize("phase", COLLECTIONS)
@pytest.mark.parametrize("name", RACES)
def test_a_collection_at_every_call_of_every_verb(
    name: str, phase: str, states: dict[str, Storage], models: Path
) -> None:
    collect_at_every_call(name, COLLECTIONS[phase], states, models)


def run_at_every_call(name: str, collect: Collect, states: dict[str, Storage], models: Path, step: int) -> None:
    """Run a verb at every call of a collection."""
    verb = VERBS[name]
    start = with_remains(states, verb, models)
    refused = 0
    for number in itertools.count(1, step):
        storage = tiny.copy_store(start, type(start)(), keep_times=True).storage
        before = names_of(tiny.store_on(storage))
        errors: list[ErestoreError | None] = []
        collect(Interrupted(storage, number, lambda s=storage, e=errors: e.append(run(verb, s, models))))
        if not errors:
            break
        refused += errors[0] is not None
        check_acknowledged(verb, before, errors[0], storage, models)
    assert refused or name in ("branch -d", "tag -d")  # what deletes a name needs no object


@pytest.mark.parametrize("name", ["next exact version", "branch"])
def test_a_verb_at_every_call_of_a_collection(name: str, states: dict[str, Storage], models: Path) -> None:
    run_at_every_call(name, COLLECTIONS["at once"], states, models, 1)


@pytest.mark.soak
@pytest.mark.parametrize("phase", COLLECTIONS)
@pytest.mark.parametrize("name", RACES)
def test_every_verb_at_every_call_of_a_collection(
    name: str, phase: str, states: dict[str, Storage], models: Path
) -> None:
    run_at_every_call(name, COLLECTIONS[phase], states, models, 1)


def interleave(name: str, phase: str, seeds: range, states: dict[str, Storage], models: Path) -> None:
    verb = VERBS[name]
    start = with_remains(states, verb, models)
    for seed in seeds:
        storage = tiny.copy_store(start, type(start)(), keep_times=True).storage
        before = names_of(tiny.store_on(storage))
        found = run_in_turns(
            storage,
            {
                "verb": lambda storage: verb.run(tiny.store_on(storage), models),
                "gc": COLLECTIONS[phase],
                "other gc": COLLECTIONS["at once"],
            },
            seed,
        )
        for collector in ("gc", "other gc"):
            assert isinstance(found[collector], GcResult), (seed, found[collector])
        check_acknowledged(verb, before, found["verb"], storage, models)


def test_interleaved_call_by_call(states: dict[str, Storage], models: Path) -> None:
    interleave("next exact version", "second phase", range(12), states, models)
    interleave("branch", "at once", range(30), states, models)
    interleave("undo", "at once", range(30), states, models)


@pytest.mark.soak
@pytest.mark.parametrize("phase", COLLECTIONS)
@pytest.mark.parametrize("name", RACES)
def test_interleaved_call_by_call_for_long(name: str, phase: str, states: dict[str, Storage], models: Path) -> None:
    interleave(name, phase, range(100, 250), states, models)


def test_a_writer_that_was_suspended_until_its_lease_lapsed(
    states: dict[str, Storage], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a grace period nothing is lost, wherever the writer stopped; it is told, or what it wrote is whole."""
    verb = VERBS["next exact version"]
    start = with_remains(states, verb, models)
    told = 0
    for number in itertools.count(1, 3):
        storage = tiny.copy_store(start, type(start)(), keep_times=True).storage
        before = names_of(tiny.store_on(storage))
        results: list[GcResult] = []
        with monkeypatch.context() as patched:

            def sleep(storage: Storage = storage, results: list[GcResult] = results, patched=patched) -> None:
                tiny.make_older(storage, 3700, "gc/leases/")
                results.append(COLLECTIONS["second phase"](storage))
                patched.setattr(leases._Stopwatch, "seconds", lambda _: 3700.0)

            error = run(verb, Interrupted(storage, number, sleep), models)
        if not results:
            break
        assert results[0].waiting is None
        told += isinstance(error, ConflictError)
        check_acknowledged(verb, before, error, storage, models)
    assert told > 3


def test_what_an_unfinished_commit_wrote_is_deleted_only_after_its_lease(
    states: dict[str, Storage], models: Path
) -> None:
    storage = tiny.copy_store(states["base"], type(states["base"])()).storage
    waiting: list[GcResult] = []

    def happen() -> None:
        waiting.append(gc(tiny.store_on(storage), grace_days=0))

    done = commit(tiny.store_on(Interrupted(storage, 30, happen)), models / "one", base="base", name="ft")
    assert waiting[0].waiting is not None
    assert tiny.store_on(storage).resolve("ft") == done.commit
    assert fsck(tiny.store_on(storage), deep=True).clean
