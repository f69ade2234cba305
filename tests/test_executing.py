"""Work on several items at once: what fails leaves nothing running behind it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from erestore.execute import bounded_map


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
