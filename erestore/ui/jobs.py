"""Work that takes longer than a person waits: done by threads, its results kept, its progress told."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from erestore.progress import Progress

_T = TypeVar("_T")

PATIENCE = 0.1
"""Seconds that an answer waits for work to end before it says that it has not."""
MOST_RESULTS = 24
"""Results; of others the ones that were asked for longest ago are dropped."""


@dataclass
class Job:
    """Work that was begun.

    Attributes
    ----------
    stage : str
    done, total : int
        As :data:`erestore.progress.Progress` is told; 0 of 0 before.
    future : Future
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    future: Future[Any] = field(default_factory=Future)

    def progress(self, stage: str, done: int, total: int) -> None:
        """See :data:`erestore.progress.Progress`."""
        self.stage, self.done, self.total = stage, done, total


class UnfinishedError(Exception):
    """Work goes on; `job` says how far it is."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job


class Jobs:
    """A few threads, and results by key.

    Parameters
    ----------
    workers : int
    """

    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="erestore-ui")
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, key: Hashable, compute: Callable[[Progress], _T], patience: float = PATIENCE) -> _T:
        """Return what `compute` returns, which is called once for a key; what it raises is raised, and forgotten.

        Parameters
        ----------
        key : Hashable
        compute : Callable
            Given something to report progress to; called in another thread.
        patience : float
            Seconds.

        Raises
        ------
        UnfinishedError
            If it has not returned by then.
        """
        job = self._begin(key, compute)
        wait([job.future], patience)
        if not job.future.done():
            raise UnfinishedError(job)
        if job.future.exception() is not None:
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]
        result: _T = job.future.result()
        return result

    def _begin(self, key: Hashable, compute: Callable[[Progress], Any]) -> Job:
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = Job()
                job.future = self._executor.submit(compute, job.progress)
                finished = [other_key for other_key, other in self._jobs.items() if other.future.done()]
                for other_key in finished[: len(self._jobs) - MOST_RESULTS] if len(self._jobs) > MOST_RESULTS else ():
                    del self._jobs[other_key]
            self._jobs.move_to_end(key)
            return job

    def close(self) -> None:
        """Begin nothing more."""
        self._executor.shutdown(wait=False, cancel_futures=True)
