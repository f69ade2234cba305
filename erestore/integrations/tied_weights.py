"""Which weights of a model are one and the same, as the library transformers knows it by the configuration.

The model is built without memory for its weights; nothing is downloaded, and no code of a checkpoint is run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib.util import find_spec
from typing import Any

import torch

_COUNTS = re.compile(r"layers?$|experts?$|blocks?$|depths?$|n_layer|num_hidden")
_MOST_MODULES = 1024


def tied_weights(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the names of weights that a model shares with others, each with the name of that other.

    Parameters
    ----------
    config : Mapping
        The content of the model's ``config.json``.

    Returns
    -------
    Mapping[str, str] or None
        None if transformers (5 or later) is not installed, or does not know the model.
    """
    model = _model(config)
    return None if model is None else dict(model.all_tied_weights_keys)


def _model(config: Mapping[str, Any]) -> Any:
    if find_spec("transformers") is None:
        return None
    import transformers

    settings = {name: value for name, value in config.items() if name != "auto_map"}
    names = settings.get("architectures")
    kind = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    if kind is None or not isinstance(settings.get("model_type"), str) or _is_endless(settings):
        return None
    try:
        with torch.device("meta"), redirect_stderr(io.StringIO()):
            model = kind(transformers.AutoConfig.for_model(**settings))
    except Exception:  # noqa: BLE001 - whatever a library says of a configuration that is not its own
        return None
    return model if hasattr(model, "all_tied_weights_keys") else None


def _is_endless(settings: Mapping[str, Any], depth: int = 0) -> bool:
    """Return whether a configuration asks for more layers than a model has: without weights they take time and memory too."""
    return depth > 4 or any(
        _is_endless(value, depth + 1)
        if isinstance(value, dict)
        else isinstance(value, int) and value > _MOST_MODULES and bool(_COUNTS.search(name))
        for name, value in settings.items()
    )
