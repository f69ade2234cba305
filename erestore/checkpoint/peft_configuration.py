"""The configuration of a PEFT adapter: what of it changes the weights, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from erestore.errors import CheckpointError

CONFIGURATION = "adapter_config.json"
MERGE_FIRST = "Merge it in PEFT (model.merge_and_unload().save_pretrained(directory)), then commit the merged model."

_SETTINGS = (
    "auto_mapping base_model_name_or_path bias exclude_modules fan_in_fan_out inference_mode init_lora_weights "
    "layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout megatron_config megatron_core "
    "modules_to_save peft_type peft_version qalora_group_size r rank_pattern alpha_pattern revision runtime_config "
    "target_modules task_type use_rslora eva_config"
)
"""Settings that say where an adapter is, how it was trained, or what is read here. Any other that is set is refused,
those of a later PEFT included: it may change what the factors mean."""

_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Those that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ and others subtract from it when training starts."""


class LoraConfiguration(NamedTuple):
    """What of a LoRA adapter's configuration its values depend on.

    Attributes
    ----------
    alpha : Fraction
    alpha_pattern : Mapping[str, Fraction]
        By regular expression over the end of a module's name; the first that matches counts.
    uses_rslora : bool
        Scaling is alpha / sqrt(rank) instead of alpha / rank.
    is_transposed : bool
        ``fan_in_fan_out``: the default for weights stored as (in, out).
    """

    alpha: Fraction
    alpha_pattern: Mapping[str, Fraction]
    uses_rslora: bool
    is_transposed: bool

    def scaling(self, module: str, rank: int) -> Fraction | float:
        """Return the factor of a module's product: exact, or a float64 with rsLoRA."""
        alpha = next(
            (value for key, value in self.alpha_pattern.items() if re.match(rf"(.*\.)?({key})$", module)), self.alpha
        )
        return float(alpha) / math.sqrt(rank) if self.uses_rslora else alpha / rank


def read_configuration(path: Path) -> LoraConfiguration:
    """Read ``adapter_config.json``.

    Raises
    ------
    CheckpointError
        If it is malformed, not of LoRA, or uses what cannot be kept as plain factors, naming it.
    """
    try:
        settings = json.loads(path.read_bytes())
        peft_type = settings["peft_type"]
        if peft_type != "LORA":
            raise CheckpointError(f"The adapter is of the type {str(peft_type)[:40]}, not LoRA.", hint=MERGE_FIRST)
        for name, value in settings.items():
            if value and name not in _SETTINGS.split():
                raise CheckpointError(
                    f"The adapter uses '{name}', which cannot be kept as plain LoRA factors.", hint=MERGE_FIRST
                )
        initialisation = settings.get("init_lora_weights", True)
        if initialisation not in _INITIALISATIONS:
            raise CheckpointError(
                f"The adapter was initialised by '{initialisation}', which changes the base.",
                hint="Convert it in PEFT (save_pretrained with path_initial_model_for_weight_conversion) or merge it.",
            )
        pattern = {
            _regular_expression(key): Fraction(value) for key, value in settings.get("alpha_pattern", {}).items()
        }
        return LoraConfiguration(
            alpha=Fraction(settings["lora_alpha"]),
            alpha_pattern=pattern,
            uses_rslora=bool(settings.get("use_rslora")),
            is_transposed=bool(settings.get("fan_in_fan_out")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, re.error) as error:
        raise CheckpointError(f"'{path.name}' is malformed.", hint="Save the adapter again with PEFT.") from error


def _regular_expression(key: Any) -> str:
    re.compile(key)
    return str(key)
