"""Work on many tensors at once: an ordered, bounded map over any ``concurrent.futures.Executor``."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def worker_count() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bounded_map(
    executor: Executor, function: Callable[[_T], _R], items: Iterable[_T], *, in_flight: int
) -> Generator[_R, None, None]:
    """Yield ``function(item)`` in order, with at most `in_flight` items begun and not yet yielded.

    The bound is what keeps memory to a few tensors, however many there are. If the consumer stops early or an item fails,
    what has not begun is cancelled and what has is waited for: it may be writing to a file that is closed next.
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
        wait(pending)


@contextmanager
def tensor_threads() -> Iterator[ThreadPoolExecutor]:
    """Give an executor with one worker a processor and one BLAS thread a worker.

    Several BLAS threads on busy processors can be many times slower than one (design fact 11). The number of BLAS threads of
    the caller is restored afterwards.
    """
    # Torch brings a library of its own, which only torch can limit, thread by thread. Nobody else imports it.
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    begin = functools.partial(torch.set_num_threads, 1) if torch else None
    with _ONE_BLAS_THREAD:
        try:
            if begin:
                begin()
            with ThreadPoolExecutor(worker_count(), initializer=begin) as executor:
                yield executor
        finally:
            if torch:
                torch.set_num_threads(before)


class _OneBlasThread:
    """A limit of the whole process: who comes in first sets it, and who goes out last takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        import numpy as np  # noqa: F401 - only a library that is loaded can be limited
        from threadpoolctl import threadpool_limits

        with self._lock:
            if not self._inside:
                self._limit = threadpool_limits(1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limit.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()
