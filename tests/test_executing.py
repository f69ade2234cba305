"""Work on several items at once: what fails leaves nothing running behind it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from erestore.execute import bounded_map, tensor_threads


def test_nothing_runs_on_after_a_failure() -> None:
    """A worker that went on could write to a descriptor that has become another file's."""
    begun, caller_went_on, seen = threading.Event(), threading.Event(), []

    def work(item: str) -> None:
        if item == "fails":
            begun.wait(10)
            raise OSError(item)
        begun.set()
        seen.append(caller_went_on.wait(0.5))  # as long as the caller waits, this is not told

    with ThreadPoolExecutor(2) as executor:
        with pytest.raises(OSError, match="fails"):
            list(bounded_map(executor, work, ["fails", "goes on"], in_flight=4))
        caller_went_on.set()
    assert seen == [False]


def test_nothing_runs_on_where_the_caller_stops() -> None:
    begun, caller_went_on, seen = threading.Event(), threading.Event(), []

    def work(number: int) -> None:
        if number:
            begun.set()
            seen.append(caller_went_on.wait(0.5))

    with ThreadPoolExecutor(2) as executor:
        results = bounded_map(executor, work, range(2), in_flight=2)
        next(results)
        begun.wait(10)
        results.close()
        caller_went_on.set()
    assert seen == [False]


def test_limits_that_overlap_are_taken_back_by_the_last() -> None:
    def blas_threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        one, two = tensor_threads(), tensor_threads()
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        two.__exit__(None, None, None)
        assert set(blas_threads()) == {2}
