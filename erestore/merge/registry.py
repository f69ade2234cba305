"""The one list of merge strategies: ours, and those that installed packages offer as entry points ``erestore.strategies``.

A package's strategy is called ``<package>.<name>``, so that no later version means something else by a name in somebody's
recipe; entry points without a dot are not looked at. A strategy is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from erestore.errors import CorruptionError, UnsupportedFormatError, UsageError
from erestore.merge.abc import MergeStrategy

_GROUP = "erestore.strategies"
_CLASSES = {
    "average": "linear:Average",
    "weighted": "linear:Weighted",
    "task-arithmetic": "linear:TaskArithmetic",
    "ema": "linear:Ema",
    "slerp": "linear:Slerp",
    "model-stock": "linear:ModelStock",
    "ties": "ties:Ties",
    "dare": "dare:Dare",
    "fisher": "fisher:Fisher",
    "regmean": "regmean:RegMean",
    "tsv": "tsv:Tsv",
    "knots": "knots:Knots",
    "iso-c": "iso_c:IsoC",
    "core-space": "core_space:CoreSpace",
}
BUILT_IN = tuple(_CLASSES)
"""Names of our own strategies."""


@cache
def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP) if "." in point.name}


@cache
def _class(name: str) -> type[MergeStrategy] | None:
    if name in _CLASSES:
        point: EntryPoint | None = EntryPoint(name, f"erestore.merge.{_CLASSES[name]}", _GROUP)
    else:
        point = _offered().get(name) if "." in name else None
    kind: type[MergeStrategy] | None = point.load() if point else None
    return kind


def strategy(name: str, options: Mapping[str, Any]) -> MergeStrategy:
    """Return the strategy of a name with its parameters.

    Parameters
    ----------
    name : str
    options : Mapping[str, object]
        Parameters as text, as a user writes them; missing ones have their defaults.

    Raises
    ------
    UsageError
        If there is no such strategy or parameter, or a value makes no sense.
    """
    kind = _class(name)
    if kind is None:
        raise UsageError(f"There is no strategy '{name}'.", hint=f"Use one of {', '.join(BUILT_IN)}.")
    return kind.configured(options)


def strategy_of(record: Any) -> MergeStrategy:
    """Return the strategy that :meth:`MergeStrategy.to_record` described.

    Raises
    ------
    UnsupportedFormatError
        If neither this version nor an installed package knows it, or its parameters.
    CorruptionError
        If it is not such a record.
    """
    name, configuration = (record.get(key) if isinstance(record, dict) else None for key in ("name", "configuration"))
    if not isinstance(name, str) or not isinstance(configuration, dict) or set(record) != {"name", "configuration"}:
        raise CorruptionError("A merge's recipe has a malformed strategy.")
    try:
        return strategy(name, configuration)
    except UsageError as error:
        raise UnsupportedFormatError(
            f"This merge was made by the strategy '{name}', which this version of erestore does not know like this.",
            hint="Upgrade erestore, or install the package that provides the strategy.",
        ) from error
