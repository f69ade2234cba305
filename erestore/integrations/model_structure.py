"""What the library transformers knows of a model by its configuration: the names of its weights, and which are the same.

The model is built without memory for its weights; nothing is downloaded, and no code of a checkpoint is run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch


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
    model = _model(json.dumps(config))
    return None if model is None else dict(model.all_tied_weights_keys)


def module_names(config: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, str] | None:
    """Return what names of a checkpoint are called in the model that transformers makes of it; None as above.

    Parameters
    ----------
    config : Mapping
    names : iterable of str
    """
    model = _model(json.dumps(config))
    if model is None:
        return None
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    state = model.state_dict()
    return {name: rename_source_key(name, renamings, [], model.base_model_prefix, state)[0] for name in names}


@lru_cache(maxsize=1)
def _model(config: str) -> Any:
    if find_spec("transformers") is None:
        return None
    import transformers

    settings = {name: value for name, value in json.loads(config).items() if name != "auto_map"}
    names = settings.get("architectures")
    kind = getattr(transformers, str(names[0]), None) if isinstance(names, list) and names else None
    if kind is None or not isinstance(settings.get("model_type"), str):
        return None
    try:
        with torch.device("meta"), redirect_stderr(io.StringIO()):
            model = kind(transformers.AutoConfig.for_model(**settings))
    except Exception:  # noqa: BLE001 - whatever a library says of a configuration that is not its own
        return None
    return model if hasattr(model, "all_tied_weights_keys") else None
