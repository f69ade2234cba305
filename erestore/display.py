"""How results render in notebooks: they are plain data, and what draws them stands above them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

renderers: dict[str, Callable[[Any], str]] = {}
"""HTML of a result, by the name of its class; filled by :mod:`erestore.api`."""


class Displayed:
    """A result that renders inline in a notebook once something that draws it is loaded."""

    def _repr_html_(self) -> str | None:
        render = renderers.get(type(self).__name__)
        return None if render is None else render(self)
