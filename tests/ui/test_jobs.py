"""Work in threads: begun once, kept, its failures told and forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from erestore.errors import ConflictError
from erestore.progress import Progress
from erestore.ui.jobs import MOST_RESULTS, Jobs, UnfinishedError


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    found = Jobs(2)
    yield found
    found.close()


def test_work_is_done_once(jobs: Jobs) -> None:
    calls: list[int] = []
    for _ in range(3):
        assert jobs.ask("key", lambda _: calls.append(1) or "result", patience=60) == "result"
    assert calls == [1]


def test_how_far_it_is_can_be_seen_meanwhile(jobs: Jobs) -> None:
    told, go_on = threading.Event(), threading.Event()

    def work(progress: Progress) -> str:
        progress("comparing", 3, 7)
        told.set()
        go_on.wait(60)
        return "done"

    with pytest.raises(UnfinishedError) as unfinished:
        jobs.ask("key", work, patience=0)
    assert told.wait(60)
    job = unfinished.value.job
    assert (job.stage, job.done, job.total) == ("comparing", 3, 7)
    with pytest.raises(UnfinishedError):
        jobs.ask("key", work, patience=0)
    go_on.set()
    assert jobs.ask("key", work, patience=60) == "done"


def test_a_failure_is_raised_and_the_next_one_tries_again(jobs: Jobs) -> None:
    calls: list[int] = []

    def work(_: Progress) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConflictError("no")
        return len(calls)

    with pytest.raises(ConflictError):
        jobs.ask("key", work, patience=60)
    assert jobs.ask("key", work, patience=60) == 2


def test_the_oldest_results_are_dropped_and_running_work_is_not(jobs: Jobs) -> None:
    go_on = threading.Event()
    with pytest.raises(UnfinishedError):
        jobs.ask("running", lambda _: go_on.wait(60), patience=0)
    calls: list[int] = []
    for number in range(MOST_RESULTS + 5):
        jobs.ask(number, lambda _, number=number: calls.append(number), patience=60)
    jobs.ask(MOST_RESULTS + 4, lambda _: calls.append(-1), patience=60)
    jobs.ask(0, lambda _: calls.append(-2), patience=60)
    assert calls == [*range(MOST_RESULTS + 5), -2]
    go_on.set()
    assert jobs.ask("running", lambda _: pytest.fail("begun again"), patience=60) is True
