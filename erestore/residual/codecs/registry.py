"""The one list of codecs: ours, and those that installed packages offer under the entry point ``erestore.codecs``.

Names without a dot belong to the store format. A package's codec is called ``<package>.<name>``, so that no later version of
the format means something else by a name that is in somebody's store; entry points without a dot are not looked at.

A codec is imported when a residual uses it, and packages are looked through when a name has a dot: both take time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from erestore.errors import UnsupportedFormatError
from erestore.residual.codecs.abc import Codec

_GROUP = "erestore.codecs"
_CLASSES = {
    "lowrank2": "LowRank2",
    "lowrank": "LowRank",
    "remainder": "Remainder",
    "gamma": "Gamma",
    "vector": "Vector",
    "dense": "Dense",
    "factors": "Factors",
    "ere": "Ere",
}
_BUILT_IN = {
    name: EntryPoint(name, f"erestore.residual.codecs.{name}:{class_name}", _GROUP)
    for name, class_name in _CLASSES.items()
}


@cache
def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_GROUP) if "." in point.name}


def known_codecs(names: Iterable[object]) -> set[str]:
    """Return which of `names` are codecs that :func:`codec` finds."""
    return {
        name for name in names if isinstance(name, str) and (name in _BUILT_IN or ("." in name and name in _offered()))
    }


@cache
def codec(name: str) -> type[Codec]:
    """Return the codec called `name`.

    Raises
    ------
    UnsupportedFormatError
        If neither this version nor an installed package knows it.
    """
    if not known_codecs([name]):
        raise UnsupportedFormatError(
            f"This residual uses the codec '{name}', which this version of erestore does not know.",
            hint="Upgrade erestore, or install the package that provides the codec.",
        )
    kind: type[Codec] = (_BUILT_IN.get(name) or _offered()[name]).load()
    return kind
