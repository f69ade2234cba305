"""The one list of codecs: ours, and those that installed packages offer under the entry point ``erestore.codecs``.

Names without a dot belong to the store format. A package's codec is called ``<package>.<name>``, so that no later version of
the format means something else by a name that is in somebody's store; entry points without a dot are not looked at.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from erestore.errors import UnsupportedFormatError
from erestore.residual.codecs.abc import Codec
from erestore.residual.codecs.dense import Dense
from erestore.residual.codecs.ere import Ere
from erestore.residual.codecs.factors import Factors
from erestore.residual.codecs.gamma import Gamma
from erestore.residual.codecs.lowrank import LowRank
from erestore.residual.codecs.lowrank2 import LowRank2
from erestore.residual.codecs.remainder import Remainder
from erestore.residual.codecs.vector import Vector

_BUILT_IN: tuple[type[Codec], ...] = (LowRank2, LowRank, Remainder, Gamma, Vector, Dense, Factors, Ere)


@cache
def codecs() -> dict[str, type[Codec]]:
    """Return every codec by name."""
    offered = [point for point in entry_points(group="erestore.codecs") if "." in point.name]
    found: dict[str, type[Codec]] = {point.name: point.load() for point in offered}
    return found | {codec.name: codec for codec in _BUILT_IN}


def codec(name: str) -> type[Codec]:
    """Return the codec called `name`.

    Raises
    ------
    UnsupportedFormatError
        If neither this version nor an installed package knows it.
    """
    if name not in codecs():
        raise UnsupportedFormatError(
            f"This residual uses the codec '{name}', which this version of erestore does not know.",
            hint="Upgrade erestore, or install the package that provides the codec.",
        )
    return codecs()[name]
