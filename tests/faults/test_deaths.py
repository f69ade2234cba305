"""Every verb dies at every storage call: afterwards the store shows old or new, never half.

After each death a fresh store on the same storage must have every name where it was or where the verb would have put
it, pass ``fsck --deep``, let the verb be repeated, and lose all that was left behind to ``gc``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import tiny
from verbs import VERBS, Verb, check_old_or_new, names_of, restart

import erestore.store
from erestore.errors import ConflictError, NotFoundError, UnknownRevisionError
from erestore.ops.fsck import fsck
from erestore.ops.gc import gc
from erestore.ops.init import init
from erestore.ops.undo import undo
from erestore.storage.abc import Entry, Storage
from erestore.storage.local import LocalStorage
from erestore.store import Store
from erestore.testing.faults import FaultInjected, FaultyStorage, Mode

_T = TypeVar("_T")

pytestmark = pytest.mark.usefixtures("no_flushing")


class FaultyWrites(FaultyStorage):
    """Dies at the n-th call that changes something; to die at a read shows nothing else."""

    def read(self, key: str) -> bytes:
        return self._pass(lambda: self._inner.read(key))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        return self._pass(lambda: self._inner.read_range(key, start, stop))

    def exists(self, key: str) -> bool:
        return self._pass(lambda: self._inner.exists(key))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._pass(lambda: iter([*self._inner.list(prefix)]))

    def _pass(self, run: Callable[[], _T]) -> _T:
        if self.dead:
            raise FaultInjected
        return run()


def check_repeated(verb: Verb, storage: Storage, models: Path) -> None:
    store = tiny.store_on(storage)
    before = names_of(store)
    try:
        verb.run(store, models)
    except (ConflictError, NotFoundError):
        # Where the whole of it had happened before the death, there is nothing left to do, and it says so.
        assert verb.moved
        assert names_of(store) == before
    tiny.make_older(storage, 3601, "gc/leases/")  # the dead program's lease
    if isinstance(storage, LocalStorage):
        for stray in storage.directory.rglob("#*"):
            os.utime(stray, (0, 0))  # as clocks tick coarsely
    collected = gc(store, grace_days=0)
    assert collected.waiting is None
    found = fsck(store, deep=True)
    assert found.clean, found
    assert found.unreachable == ()
    if isinstance(storage, LocalStorage):
        assert not list(storage.directory.rglob("#*"))


def die_everywhere(
    kind: type[FaultyStorage],
    mode: Mode,
    verb: Verb,
    states: dict[str, Storage],
    models: Path,
    place: Callable[[int], Path | None],
    stride: int = 1,
) -> int:
    """Let a verb die at its first, second, third ... call, or every `stride`-th, until it comes through; return the last."""
    checked = -1
    for number in itertools.count(1, stride):
        storage = restart(states, verb, place(number))
        before = names_of(tiny.store_on(storage))
        faulty = kind(storage, number, mode)
        try:
            verb.run(tiny.store_on(faulty), models)
        except FaultInjected:
            pass
        else:
            check_old_or_new(verb, before, storage, models)
            return number - 1
        # Between two writes nothing changes: one check is enough for all reads in between.
        state = hash(frozenset(tiny.keys_of(storage)))
        if state != checked or kind is FaultyWrites:
            check_old_or_new(verb, before, storage, models)
            check_repeated(verb, storage, models)
        checked = state
    raise AssertionError


QUICK = [name for name in VERBS if name != "repack" and "commit" not in name and "next" not in name]


@pytest.mark.parametrize(("name", "stride"), [*((name, 1) for name in QUICK), ("next exact version", 5)])
def test_a_verb_dies_at_every_call(name: str, stride: int, states: dict[str, Storage], models: Path) -> None:
    """A commit encodes before each of its deaths: it dies at every fifth, at every write below, and at every call by soak."""
    deaths = die_everywhere(FaultyStorage, "before", VERBS[name], states, models, lambda _: None, stride)
    assert deaths >= 3


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_dies_in_the_middle_of_every_write(
    name: str, states: dict[str, Storage], models: Path, tmp_path: Path
) -> None:
    deaths = die_everywhere(
        FaultyWrites, "truncate", VERBS[name], states, models, lambda number: tmp_path / str(number)
    )
    assert deaths >= 1


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["before", "after", "truncate"])
@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.parametrize("name", VERBS)
def test_a_verb_dies_in_every_way(
    name: str, kind: str, mode: Mode, states: dict[str, Storage], models: Path, tmp_path: Path
) -> None:
    place = (lambda _: None) if kind == "memory" else (lambda number: tmp_path / str(number))
    die_everywhere(FaultyStorage, mode, VERBS[name], states, models, place)
    if mode == "after":
        die_everywhere(FaultyWrites, mode, VERBS[name], states, models, lambda number: place(-number))


@pytest.mark.parametrize("mode", ["before", "after", "truncate"])
def test_init_dies_at_every_call(mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in itertools.count(1):
        place = tmp_path / str(number)
        with monkeypatch.context() as patched:
            faulty = FaultyStorage(LocalStorage(place), number, mode)
            patched.setattr(erestore.store, "open_storage", lambda *_, faulty=faulty: faulty)
            try:
                init(place)
                died = False
            except FaultInjected:
                died = True
        if not died:
            assert number >= 3
            assert fsck(Store.open(place)).clean
            return
        if not LocalStorage(place).exists(erestore.store.MARKER):
            with pytest.raises(NotFoundError):
                Store.open(place)
            init(place)
        for stray in place.rglob("#*"):
            os.utime(stray, (0, 0))  # as clocks tick coarsely
        store = Store.open(place)
        gc(store, grace_days=0)
        assert fsck(store, deep=True).clean
        assert not list(place.rglob("#*"))


def test_a_revision_that_was_deleted_half_is_named_as_such(states: dict[str, Storage], models: Path) -> None:
    """Two names deleted by one verb: after a death between them, undo brings back the first."""
    verb = VERBS["branch -d"]
    storage = restart(states, verb, None)
    expected = names_of(tiny.store_on(storage))
    for number in itertools.count(1):
        storage = restart(states, verb, None)
        with pytest.raises(FaultInjected):
            verb.run(tiny.store_on(FaultyWrites(storage, number)), models)
        if names_of(tiny.store_on(storage)) != expected:
            break
    store = tiny.store_on(storage)
    with pytest.raises(UnknownRevisionError):
        store.ref("other")
    undo(store)
    assert names_of(store) == expected
