"""Labelled texts for fine-tuning, divided into those to learn from and those to test on."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from debian_texts import fortunes, roles, sections
from rated_sentences import SETS, rated

Load = Callable[[Path], list[tuple[str, str]]]
"""A cache to texts, each with the name of its class."""

SENTIMENT: dict[str, Load] = {name: partial(rated, name) for name in SETS}
TASKS: dict[str, Load] = SENTIMENT | {"section": sections, "role": roles, "fortunes": fortunes}
"""By the name of the task."""

TEST_SHARE = 5
"""One text in five is kept for tests, chosen by its content."""


class Labelled(NamedTuple):
    """A text and the number of its class."""

    text: str
    label: int


class Task(NamedTuple):
    """Texts to learn from, others to test on, and the names of the classes."""

    train: list[Labelled]
    test: list[Labelled]
    classes: list[str]


def load_task(name: str, cache: Path) -> Task:
    """Return a task, downloading its texts unless the cache has them.

    Parameters
    ----------
    name : str
        A key of :data:`TASKS`.
    cache : Path

    Raises
    ------
    FetchError
        If the texts cannot be had here.
    """
    return _divide(TASKS[name](cache))


def _divide(texts: Sequence[tuple[str, str]]) -> Task:
    classes = sorted({kind for _, kind in texts})
    task = Task([], [], classes)
    for text, kind in texts:
        part = task.train if zlib.crc32(text.encode()) % TEST_SHARE else task.test
        part.append(Labelled(text, classes.index(kind)))
    random.Random(0).shuffle(task.test)  # noqa: S311 - so that any first few are like the rest
    return task
