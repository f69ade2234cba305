"""The configuration of a PEFT adapter: what of it changes the weights, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from erestore.checkpoint.peft_kinds import refuse_initialisation, refuse_kind, refuse_setting
from erestore.errors import CheckpointError

CONFIGURATION = "adapter_config.json"

_SETTINGS = (
    "auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config exclude_modules "
    "fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config lora_alpha "
    "lora_bias lora_dropout lora_ga_config megatron_config megatron_core modules_to_save monteclora_config peft_type "
    "peft_version qalora_group_size r rank_pattern alpha_pattern revision runtime_config target_modules task_type "
    "use_rslora velora_config"
)
"""Settings that say where an adapter is, how it was trained, or what is read here. Any other that is set is refused,
those of a later PEFT included: it may change what the factors mean."""

_OF_TRAINERS = {
    "lora_B_layout": "Unsloth, of fused experts",
    "nvfp4_merge_aware": "Axolotl, of its training",
    "unsloth_fused_expert_lora": "Unsloth, of fused experts",
}
"""Settings of other trainers that say nothing about the factors of plain weights. (Adapters of fused experts have
``target_parameters``, which is refused.)"""

_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
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
    has_bias : bool
        ``lora_bias``: PEFT adds the bias of B. Without it PEFT leaves such a bias out.
    saved_modules : tuple of str
        ``modules_to_save``: ends of the names of modules that were trained whole.
    notes : tuple of str
        Settings that were left out of account, in sentences.
    """

    alpha: Fraction
    alpha_pattern: Mapping[str, Fraction]
    uses_rslora: bool
    is_transposed: bool
    has_bias: bool
    saved_modules: tuple[str, ...]
    notes: tuple[str, ...]

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
        _refuse_unknown(settings)
        pattern = {
            _regular_expression(key): Fraction(value) for key, value in (settings.get("alpha_pattern") or {}).items()
        }
        notes = [
            f"'{name}' of {CONFIGURATION} ({origin}) is of no account to the weights."
            for name, origin in _OF_TRAINERS.items()
            if settings.get(name)
        ]
        return LoraConfiguration(
            alpha=Fraction(settings["lora_alpha"]),
            alpha_pattern=pattern,
            uses_rslora=bool(settings.get("use_rslora")),
            is_transposed=bool(settings.get("fan_in_fan_out")),
            has_bias=bool(settings.get("lora_bias")),
            saved_modules=tuple(_texts(settings.get("modules_to_save"))),
            notes=tuple(notes),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, re.error) as error:
        raise CheckpointError(f"'{path.name}' is malformed.", hint="Save the adapter again with PEFT.") from error


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    targets = [*_texts(settings.get("target_modules")), *_texts(settings.get("modules_to_save"))]
    if settings["peft_type"] != "LORA":
        raise refuse_kind(str(settings["peft_type"]), targets)
    for name, value in settings.items():
        if value and name not in _SETTINGS.split() and name not in _OF_TRAINERS:
            raise refuse_setting(name, targets)
    initialisation = settings.get("init_lora_weights", True)
    if initialisation not in _INITIALISATIONS:
        raise refuse_initialisation(str(initialisation), targets)


def _texts(value: Any) -> list[str]:
    """Return names that are given as one or as several."""
    return [value] if isinstance(value, str) else [str(name) for name in value or ()]


def _regular_expression(key: Any) -> str:
    re.compile(key)
    return str(key)
