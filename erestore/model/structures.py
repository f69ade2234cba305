"""What is asked of a library that knows models by their configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol


class ModelStructure(Protocol):
    """See :mod:`erestore.integrations.model_structure`; both return None where the model is not known."""

    def tied_weights(self, config: Mapping[str, Any], /) -> Mapping[str, str] | None:
        """Return names of weights that are the same as others, with the names of these."""

    def module_names(self, config: Mapping[str, Any], names: Iterable[str], /) -> Mapping[str, str] | None:
        """Return what names of a checkpoint are called in the model."""
