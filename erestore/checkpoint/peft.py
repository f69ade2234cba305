"""A LoRA adapter of PEFT: factors and replacements by the names of the base's tensors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.naming import Match, Typed, match_names
from erestore.checkpoint.opened import OpenedCheckpoint, WeightReader
from erestore.checkpoint.peft_configuration import CONFIGURATION, MERGE_FIRST, LoraConfiguration, read_configuration
from erestore.errors import CheckpointError

_SAVED_COPY = re.compile(r"modules_to_save\.(?:default\.)?")
_FACTOR = re.compile(r"(?P<module>.+)\.(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
_TRAINING_PARTS = re.compile(r"(?:^|\.)(?:lora_|ia3_|hada_|boft_|oft_|vera_)|_magnitude_|prompt_|adalora")


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


@dataclass(frozen=True)
class AdapterMatch:
    """An adapter on a base.

    Attributes
    ----------
    factors : Mapping[str, LoraFactors]
        By base key; `transpose` and `shape` as the base has it.
    replacements : Mapping[str, str]
        Base key to the adapter's tensor that replaces it. Where factors have the same key, they are added to this.
    additions : Mapping[str, str]
        By the adapter's name for it, saved tensors that the base has no counterpart for (a new head).
    """

    factors: Mapping[str, LoraFactors]
    replacements: Mapping[str, str]
    additions: Mapping[str, str]


class PeftCheckpoint(OpenedCheckpoint):
    """A LoRA adapter, opened for reading.

    Attributes
    ----------
    adapters : Mapping[str, LoraFactors]
        By the name of the weight in the model that was adapted.
    replacements : Mapping[str, str]
        Likewise, names of whole tensors that were trained (``modules_to_save``, biases) or saved with it (embeddings).

    Raises
    ------
    CheckpointError
        If the adapter is more than plain LoRA factors, naming what.
    """

    def __init__(self, path: Path, readers: Mapping[str, WeightReader]) -> None:
        super().__init__(path, "peft", readers)
        configuration = read_configuration(path / CONFIGURATION)
        self.adapters = _factors(self.tensors, configuration)
        self.replacements = _replacements(self.tensors)

    def match(self, base: Mapping[str, Typed]) -> AdapterMatch:
        """Find the base's tensors that the adapter changes.

        Whether a weight is stored as (inputs, outputs) is not reliably in the configuration: where its shape does not
        tell, the base's neighbouring weights and their biases do.

        Raises
        ------
        CheckpointError
            If the base lacks an adapted weight, or has it in another shape.
        """
        targets = {name: _upright(name, "F32", factors.shape) for name, factors in self.adapters.items()}
        found = match_names(targets, {key: _upright(key, info.dtype, tuple(info.shape)) for key, info in base.items()})
        return AdapterMatch(
            dict(self._oriented(name, found, base) for name in self.adapters),
            *self._placed(found, base),
        )

    def _oriented(self, name: str, found: Match, base: Mapping[str, Typed]) -> tuple[str, LoraFactors]:
        factors = self.adapters[name]
        key = found.keys.get(name)
        shape = tuple(base[key].shape) if key is not None else ()
        if key is None or shape not in (factors.shape, factors.shape[::-1] if factors.kind == "linear" else ()):
            raise CheckpointError(
                f"The adapter changes '{name}', for which the base has no tensor of the shape {list(factors.shape)}.",
                hint="Choose the base that the adapter was trained on.",
            )
        if factors.kind != "linear":
            return key, factors
        if shape[0] == shape[1]:
            transpose = _is_transposed(key, base, default=factors.transpose)
        else:
            transpose = factors.transpose if shape == factors.shape else not factors.transpose
        return key, dataclasses.replace(factors, transpose=transpose, shape=shape)

    def _placed(self, found: Match, base: Mapping[str, Typed]) -> tuple[dict[str, str], dict[str, str]]:
        """Sort whole tensors into replacements and additions, under the prefixes that the factors were found by."""
        replacements, additions = {}, {}
        for name, tensor in self.replacements.items():
            keys = [key for pair in found.prefixes if (key := pair.rename(name)) is not None]
            key = next((key for key in [name, *keys] if key in base), None)
            if key is None:
                additions[name] = tensor
            else:
                replacements[key] = tensor
        return replacements, additions


def _factors(tensors: Mapping[str, TensorInfo], configuration: LoraConfiguration) -> dict[str, LoraFactors]:
    sides: dict[tuple[str, bool], dict[str, str]] = {}
    for name in tensors:
        if parts := _FACTOR.fullmatch(_base_name(name)):
            is_embedding = parts["side"] is None
            sides.setdefault((parts["module"], is_embedding), {})[parts["side"] or parts["embedding"]] = name
    found: dict[str, LoraFactors] = {}
    for (module, is_embedding), pair in sides.items():
        if len(pair) < 2 or module + ".weight" in found:
            raise CheckpointError(f"The adapter of '{module}' does not have one A and one B.", hint=MERGE_FIRST)
        down, up = tensors[pair["A"]], tensors[pair["B"]]
        kind = "embedding" if is_embedding else "linear" if len(down.shape) == 2 else "conv"
        _check_shapes(module, kind, down.shape, up.shape)
        transpose = is_embedding or (kind == "linear" and configuration.is_transposed)
        shape = (up.shape[0], *down.shape[1:])
        found[module + ".weight"] = LoraFactors(
            down=pair["A"],
            up=pair["B"],
            scaling=configuration.scaling(module, down.shape[0]),
            kind=kind,
            transpose=transpose,
            shape=shape[::-1] if transpose else shape,
        )
    if not found:
        raise CheckpointError("The adapter holds no LoRA factors.", hint="Save it again with PEFT.")
    return found


def _check_shapes(module: str, kind: str, down: tuple[int, ...], up: tuple[int, ...]) -> None:
    if len(down) < 2 or len(up) != len(down) or math.prod(up[2:]) != 1 or up[1] != down[0] or not down[0]:
        reason = "a grouped convolution" if kind == "conv" and up[1:2] != down[:1] else "factors of an unknown form"
        raise CheckpointError(f"The adapter of '{module}' is {reason}: {list(down)} and {list(up)}.", hint=MERGE_FIRST)


def _replacements(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in tensors:
        base_name = _base_name(name)
        if _FACTOR.fullmatch(base_name) or ".original_module." in name:
            continue
        if _TRAINING_PARTS.search(base_name):
            raise CheckpointError(
                f"The adapter holds '{name}', which cannot be kept as plain LoRA factors.", hint=MERGE_FIRST
            )
        # With bias="all" a saved module's bias is there twice; the copy that PEFT loads is the one without a mark.
        if base_name not in found or not _SAVED_COPY.search(name):
            found[base_name] = name
    return found


def _base_name(name: str) -> str:
    return _SAVED_COPY.sub("", name.removeprefix("base_model.model.").replace(".base_layer.", "."))


def _upright(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """Describe a tensor such that a matrix and its transpose look the same."""
    return TensorInfo(name, dtype, tuple(sorted(shape)) if len(shape) == 2 else shape)


def _is_transposed(key: str, base: Mapping[str, Typed], *, default: bool) -> bool:
    """Tell how a square weight is stored, by the nearest weight that is not square and has a bias."""
    nearest, best = default, -1
    for name, info in base.items():
        bias = base.get(name.removesuffix("weight") + "bias") if name.endswith(".weight") else None
        shape = tuple(info.shape)
        if bias is None or len(shape) != 2 or shape[0] == shape[1] or tuple(bias.shape) not in (shape[:1], shape[1:]):
            continue
        closeness = _common_parts(key, name)
        if closeness > best:
            nearest, best = tuple(bias.shape) == shape[1:], closeness
    return nearest


def _common_parts(one: str, two: str) -> int:
    common = 0
    for a, b in zip(one.split("."), two.split("."), strict=False):
        if a != b:
            break
        common += 1
    return common
