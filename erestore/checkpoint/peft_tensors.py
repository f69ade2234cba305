"""The tensors of a LoRA adapter by what they are: factors, changes of biases, whole tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.peft_configuration import LoraConfiguration
from erestore.checkpoint.peft_kinds import KEEP, MERGE
from erestore.errors import CheckpointError

_SAVED_COPY = re.compile(r"modules_to_save\.(?:default\.)?")
_FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
_BIAS = re.compile(r"(?P<module>.+)\.lora_B\.bias")
_OF_TRAINING = re.compile(r"\.lora_(?:velora_|monteclora_)")
"""What VeLoRA and MonteCLoRA keep for the next step of training; a model in evaluation does not look at it."""
_OTHER_PARTS = re.compile(r"(?:^|\.)(?:lora_|ia3_|hada_|boft_|oft_|vera_)|_magnitude_|prompt_|adalora|token_adapter")
_ATTENTION_OUTPUT = ".base_layer.out_proj."


@dataclass(frozen=True)
class LoraFactors:
    """One adapted weight: it changes by ``scaling * up @ down``, both seen as matrices, transposed if said so.

    Attributes
    ----------
    down : str
        Name of A (rank, inputs): in an adapter of a convolution (rank, inputs, *kernel), seen as (rank, the rest).
    up : str
        Name of B (outputs, rank), followed by ones in an adapter of a convolution.
    scaling : Fraction or float
        Exact alpha / rank; a float64 with rsLoRA.
    kind : str
        ``linear``, ``conv`` or ``embedding``.
    transpose : bool
        Whether the weight is stored as (inputs, outputs), as embeddings are and the ``Conv1D`` of GPT-2.
    shape : tuple of int
        Of the weight.
    """

    down: str
    up: str
    scaling: Fraction | float
    kind: str
    transpose: bool
    shape: tuple[int, ...]


class BiasChange(NamedTuple):
    """A bias that changes by ``scaling`` times the tensor `name`, the bias of B."""

    name: str
    scaling: Fraction | float


@dataclass
class AdapterTensors:
    """What an adapter holds, by the names of the weights in the model that was adapted.

    Attributes
    ----------
    factors : dict of str to LoraFactors
    biases : dict of str to BiasChange
    whole : dict of str to str
        Tensors that were trained whole (``modules_to_save``, biases) or saved with the adapter.
    originals : set of str
        Those of `whole` that were not trained: weights that factors come on top of, and resized embeddings.
    """

    factors: dict[str, LoraFactors] = field(default_factory=dict)
    biases: dict[str, BiasChange] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    originals: set[str] = field(default_factory=set)


def sort_tensors(tensors: Mapping[str, TensorInfo], configuration: LoraConfiguration) -> AdapterTensors:
    """Tell what each tensor of an adapter is.

    Raises
    ------
    CheckpointError
        If there is one that is none of these, or factors are without their counterpart.
    """
    sorted_tensors = AdapterTensors()
    sides: dict[tuple[str, bool], dict[str, str]] = {}
    biases: dict[str, str] = {}
    for name in tensors:
        if ".original_module." in name or _OF_TRAINING.search(name):
            continue
        base_name = _base_name(name)
        if parts := _FACTOR.fullmatch(base_name):
            is_embedding = parts["side"] is None
            sides.setdefault((parts["module"], is_embedding), {})[parts["side"] or parts["embedding"]] = name
        elif parts := _BIAS.fullmatch(base_name):
            biases[parts["module"]] = name
        elif _OTHER_PARTS.search(base_name):
            raise CheckpointError(
                f"The adapter holds '{name}', which cannot be kept as plain LoRA factors.", hint=MERGE
            )
        # With bias="all" a saved module's bias is there twice; the copy that PEFT loads is the one without a mark.
        elif base_name not in sorted_tensors.whole or not _SAVED_COPY.search(name):
            sorted_tensors.whole[base_name] = name
            if _is_original(base_name, configuration):
                sorted_tensors.originals.add(base_name)
    attentions = {module for module, _ in sides if _has_attention_output(module, sides)}
    for (module, is_embedding), pair in sides.items():
        parameter = "in_proj_weight" if module in attentions else "weight"
        weight = f"{module}.{parameter}"
        if len(pair) < 2 or weight in sorted_tensors.factors:
            raise CheckpointError(
                f"The adapter of '{module}' does not have one A and one B.", hint="Save it again with PEFT."
            )
        factors = _factors(module, pair, tensors, configuration, is_embedding=is_embedding)
        attention = module.removesuffix(".out_proj")
        if attention in attentions and attention != module:
            # torch's attention does not call this layer, so PEFT merges the factors into its weight before every pass,
            # and does so twice (peft 0.21.2, MultiheadAttention.merge): it was trained like that.
            factors = _scaled(factors, 2 * configuration.scaling(attention, tensors[pair["A"]].shape[0]))
        sorted_tensors.factors[weight] = factors
        if module in biases:
            name = biases.pop(module)
            sorted_tensors.biases[weight.removesuffix("weight") + "bias"] = BiasChange(name, factors.scaling)
    if not sorted_tensors.factors:
        raise CheckpointError("The adapter holds no LoRA factors.", hint="Save it again with PEFT.")
    if biases:
        raise CheckpointError(
            f"The adapter of '{next(iter(biases))}' does not have one A and one B.", hint="Save it again with PEFT."
        )
    return sorted_tensors


def _factors(
    module: str,
    pair: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    configuration: LoraConfiguration,
    *,
    is_embedding: bool,
) -> LoraFactors:
    down, up = tensors[pair["A"]], tensors[pair["B"]]
    kind = "embedding" if is_embedding else "linear" if len(down.shape) == 2 else "conv"
    _check_shapes(module, kind, down.shape, up.shape)
    transpose = is_embedding or (kind == "linear" and configuration.is_transposed)
    shape = (up.shape[0], *down.shape[1:])
    return LoraFactors(
        down=pair["A"],
        up=pair["B"],
        scaling=configuration.scaling(module, down.shape[0]),
        kind=kind,
        transpose=transpose,
        shape=shape[::-1] if transpose else shape,
    )


def _scaled(factors: LoraFactors, scaling: Fraction | float) -> LoraFactors:
    return LoraFactors(factors.down, factors.up, scaling, factors.kind, factors.transpose, factors.shape)


def _check_shapes(module: str, kind: str, down: tuple[int, ...], up: tuple[int, ...]) -> None:
    if len(down) < 2 or len(up) != len(down) or math.prod(up[2:]) != 1 or up[1] != down[0] or not down[0]:
        is_grouped = kind == "conv" and up[1:2] != down[:1]
        reason = "a grouped convolution, which PEFT cannot merge" if is_grouped else "factors of an unknown form"
        raise CheckpointError(f"The adapter of '{module}' is {reason}: {list(down)} and {list(up)}.", hint=KEEP)


def _has_attention_output(module: str, sides: Mapping[tuple[str, bool], Mapping[str, str]]) -> bool:
    """Return whether a module is torch's ``MultiheadAttention``: the layer that PEFT adapts inside of it tells."""
    output = sides.get((f"{module}.out_proj", False), {})
    return any(_ATTENTION_OUTPUT in name for name in output.values())


def _is_original(base_name: str, configuration: LoraConfiguration) -> bool:
    module, _, parameter = base_name.rpartition(".")
    return parameter == "weight" and not any(module.endswith(saved) for saved in configuration.saved_modules)


def _base_name(name: str) -> str:
    return _SAVED_COPY.sub("", name.removeprefix("base_model.model.").replace(".base_layer.", "."))
