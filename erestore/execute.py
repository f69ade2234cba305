"""Work on many tensors at once: an ordered, bounded map over any ``concurrent.futures.Executor``."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def worker_count() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bounded_map(
    executor: Executor, function: Callable[[_T], _R], items: Iterable[_T], *, in_flight: int
) -> Iterator[_R]:
    """Yield ``function(item)`` in order, with at most `in_flight` items begun and not yet yielded.

    The bound is what keeps memory to a few tensors, however many there are. If the consumer stops early, what has not
    begun is cancelled.
    """
    pending: deque[Future[_R]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class Ahead(Generic[_T, _R]):
    """Computes what will be asked for next while the caller is busy with what it has.

    Parameters
    ----------
    executor : Executor
    function : callable
    order : iterable
        The items in the order in which they are expected to be asked for; others are computed when they are.
    in_flight : int
        How many results may wait, which bounds memory.
    """

    def __init__(
        self, executor: Executor, function: Callable[[_T], _R], order: Iterable[_T], *, in_flight: int
    ) -> None:
        self._executor = executor
        self._function = function
        self._order = iter(order)
        self._pending: dict[_T, Future[_R]] = {}
        self._in_flight = in_flight

    def get(self, item: _T) -> _R:
        """Return the result for `item`."""
        self._submit()
        future = self._pending.pop(item, None)
        self._submit()
        return self._function(item) if future is None else future.result()

    def _submit(self) -> None:
        while len(self._pending) < self._in_flight:
            item = next(self._order, None)
            if item is None:
                return
            self._pending[item] = self._executor.submit(self._function, item)

    def cancel(self) -> None:
        """Drop what has not begun."""
        for future in self._pending.values():
            future.cancel()


@contextmanager
def tensor_threads() -> Iterator[ThreadPoolExecutor]:
    """Give an executor with one worker a processor and one BLAS thread a worker.

    Several BLAS threads on busy processors can be many times slower than one (design fact 11). The number of BLAS threads of
    the caller is restored afterwards.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(worker_count(), initializer=torch.set_num_threads, initargs=(1,)) as executor:
            yield executor
    finally:
        torch.set_num_threads(before)
