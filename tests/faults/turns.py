"""Storages that let another program run in between: at one chosen call, or call by call in a random order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from erestore.storage.abc import Data, Entry, Storage

_T = TypeVar("_T")


class Watched(Storage):
    """Calls :meth:`before` before every call."""

    def __init__(self, inner: Storage) -> None:
        self.url = inner.url
        self._inner = inner

    def before(self) -> None:
        raise NotImplementedError

    def _call(self, run: Callable[[], _T]) -> _T:
        self.before()
        return run()

    def read(self, key: str) -> bytes:
        return self._call(lambda: self._inner.read(key))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        return self._call(lambda: self._inner.read_range(key, start, stop))

    def create(self, key: str, data: Data) -> bool:
        return self._call(lambda: self._inner.create(key, data))

    def exists(self, key: str) -> bool:
        return self._call(lambda: self._inner.exists(key))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._call(lambda: iter([*self._inner.list(prefix)]))

    def delete(self, key: str) -> None:
        self._call(lambda: self._inner.delete(key))

    def remove_unfinished(self, before: float) -> int:
        return self._call(lambda: self._inner.remove_unfinished(before))


class Interrupted(Watched):
    """Lets something else happen before the n-th call."""

    def __init__(self, inner: Storage, number: int, happen: Callable[[], object]) -> None:
        super().__init__(inner)
        self.calls = 0
        self._number = number
        self._happen = happen
        self._lock = threading.Lock()

    def before(self) -> None:
        with self._lock:
            self.calls += 1
            now = self.calls == self._number
        if now:
            self._happen()


class Turns:
    """Gives programs turns, a storage call each, in an order that a seed decides."""

    def __init__(self, names: list[str], seed: int) -> None:
        self._names = list(names)
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._turn = self._random.choice(self._names)

    def take(self, name: str) -> None:
        """Wait for a turn, and pass it on."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._turn == name, timeout=60):
                raise AssertionError("a program waits for its turn in vain")
            self._pass_on()

    def leave(self, name: str) -> None:
        """Take part no longer."""
        with self._changed:
            self._names.remove(name)
            if self._names:
                self._pass_on()

    def _pass_on(self) -> None:
        self._turn = self._random.choice(self._names)
        self._changed.notify_all()


class InTurn(Watched):
    """Waits for a turn before every call."""

    def __init__(self, inner: Storage, name: str, turns: Turns) -> None:
        super().__init__(inner)
        self._name = name
        self._turns = turns

    def before(self) -> None:
        self._turns.take(self._name)


def run_in_turns(
    storage: Storage, programs: dict[str, Callable[[Storage], object]], seed: int
) -> dict[str, object | Exception]:
    """Run programs on one storage, call by call in a random order; return what each returned or raised."""
    turns = Turns(list(programs), seed)

    def run(name: str) -> object | Exception:
        try:
            return programs[name](InTurn(storage, name, turns))
        except Exception as error:  # noqa: BLE001 - the caller judges it
            return error
        finally:
            turns.leave(name)

    with ThreadPoolExecutor(len(programs)) as pool:
        return dict(zip(programs, pool.map(run, programs), strict=True))
