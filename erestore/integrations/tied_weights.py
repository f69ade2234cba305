"""Which weights of a model are one and the same, as the library transformers knows it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib.util import find_spec
from typing import Any

import torch


def tied_weights(config: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the names of weights that a model shares with others, each with the name of that other.

    The model is built without memory for its weights; nothing is downloaded, no code of a checkpoint is run.

    Parameters
    ----------
    config : Mapping
        The content of the model's ``config.json``.

    Returns
    -------
    Mapping[str, str] or None
        None if transformers (5 or later) is not installed, or does not know the model.
    """
    if find_spec("transformers") is None:
        return None
    import transformers

    names = config.get("architectures")
    kind = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    settings = {name: value for name, value in config.items() if name != "auto_map"}
    if kind is None or not isinstance(settings.get("model_type"), str):
        return None
    try:
        with torch.device("meta"), redirect_stderr(io.StringIO()):
            model = kind(transformers.AutoConfig.for_model(**settings))
        return dict(model.all_tied_weights_keys)
    except Exception:  # noqa: BLE001 - whatever a library says of a configuration that is not its own
        return None
