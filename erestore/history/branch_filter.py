"""Which branches to list, and in which order: ``branch --sort`` and ``branch --where``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from erestore.errors import UsageError, similar_names

SORT_KEYS = ("name", "time", "size", "error")
"""Besides ``metric:NAME``."""

_METRIC = "metric:"
_CONDITION = re.compile(r"(?P<metric>[^<>=!]+?)\s*(?P<sign>>=|<=|!=|==?|>|<)\s*(?P<value>.*)", re.DOTALL)
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Listed(Protocol):
    """What is known of a branch."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def time(self) -> datetime:
        """When its commit was made."""

    @property
    def stored_bytes(self) -> int:
        """What its commit added."""

    @property
    def relative_error(self) -> float | None:
        """What was measured."""

    @property
    def error_bound(self) -> float | None:
        """An upper bound where nothing was."""

    @property
    def metrics(self) -> Mapping[str, str]:
        """Recorded with its commit."""


_B = TypeVar("_B", bound=Listed)


class Condition(NamedTuple):
    """A comparison of one metric, such as ``acc>=0.8``."""

    metric: str
    sign: str
    value: str

    def holds(self, metrics: Mapping[str, str]) -> bool:
        """Return whether the metrics meet it; one that is missing does not, nor does text where numbers are compared."""
        if self.metric not in metrics:
            return False
        recorded = metrics[self.metric]
        numbers = number_of(recorded), number_of(self.value)
        if self.sign in _SIGNS:
            return None not in numbers and _SIGNS[self.sign](*numbers)  # type: ignore[arg-type]
        equal = recorded == self.value if None in numbers else numbers[0] == numbers[1]
        return equal == (self.sign == "=")


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises
    ------
    UsageError
        If it is none, or orders by what is no number.
    """
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a condition.", hint="Write it as --where 'acc>=0.8' or --where task=mnli.")
    sign = "=" if match["sign"] == "==" else match["sign"]
    condition = Condition(match["metric"].strip(), sign, match["value"])
    if condition.sign in _SIGNS and number_of(condition.value) is None:
        raise UsageError(
            f"'{condition.value}' is not a number to compare a metric with.",
            hint="Write a plain number, as in --where 'acc>=0.8'; text takes = or !=.",
        )
    return condition


def matching(branches: Iterable[_B], where: Sequence[str]) -> list[_B]:
    """Return the branches whose metrics meet every condition.

    Raises
    ------
    UsageError
        See :func:`parse_condition`.
    """
    conditions = [parse_condition(text) for text in where]
    return [branch for branch in branches if all(condition.holds(branch.metrics) for condition in conditions)]


def ordered(branches: Iterable[_B], key: str) -> list[_B]:
    """Sort branches by ``name``, ``time``, ``size``, ``error`` or a metric, ``metric:NAME``; a ``-`` in front reverses.

    Without ``metric:`` one of the branches has to have the metric, so that a slip is told of.

    What lacks the value comes last either way; metrics that are text come after numbers. Equals stand by name.

    Raises
    ------
    UsageError
        If there is no such key.
    """
    reverse, key = key.startswith("-"), key.removeprefix("-")
    by_name = sorted(branches, key=lambda branch: branch.name)
    metrics = {name for branch in by_name for name in branch.metrics}
    if key == _METRIC or (key not in (*SORT_KEYS, *metrics) and not key.startswith(_METRIC)):
        near = similar_names(key, [*SORT_KEYS, *metrics])
        raise UsageError(
            f"Branches cannot be sorted by '{key}': no branch has such a metric.",
            hint=f"Did you mean {' or '.join(near)}?" if near else f"Use {', '.join((*SORT_KEYS, *sorted(metrics)))}.",
        )
    value = _value_of(key)
    present = [(rank, branch) for branch in by_name if (rank := value(branch)) is not None]
    numbers = [(rank, branch) for rank, branch in present if not isinstance(rank, str)]
    texts = [(rank, branch) for rank, branch in present if isinstance(rank, str)]
    in_order = [
        branch for part in (numbers, texts) for _, branch in sorted(part, key=operator.itemgetter(0), reverse=reverse)
    ]
    return in_order + [branch for branch in by_name if value(branch) is None]


def sort_metric(key: str) -> str | None:
    """Return the metric that a key sorts by, if it does."""
    key = key.removeprefix("-")
    return None if not key or key in SORT_KEYS else key.removeprefix(_METRIC)


def _value_of(key: str) -> Callable[[Listed], float | str | None]:
    if metric := sort_metric(key):
        return lambda branch: None if (text := branch.metrics.get(metric)) is None else _rank(text)
    values: dict[str, Callable[[Listed], float | str | None]] = {
        "name": lambda branch: branch.name,
        "time": lambda branch: branch.time.timestamp(),
        "size": lambda branch: branch.stored_bytes,
        "error": lambda branch: branch.error_bound if branch.relative_error is None else branch.relative_error,
    }
    return values[key]


def _rank(text: str) -> float | str:
    number = number_of(text)
    return text if number is None else number


def number_of(text: str) -> float | None:
    """Return the number that a text is; a percentage is one, NaN is not."""
    text = text.strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return None if math.isnan(number) else number
