"""A LoRA adapter of PEFT: factors and whole tensors by the names of the base's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.names import Typed, match_names
from erestore.checkpoint.peft_configuration import CONFIGURATION, read_configuration
from erestore.checkpoint.peft_kinds import KEEP
from erestore.checkpoint.peft_names import AdapterNames, Spellings
from erestore.checkpoint.peft_tensors import AdapterTensors, BiasChange, LoraFactors, sort_tensors
from erestore.checkpoint.quantised_weights import QuantisedWeight, find_quantised
from erestore.checkpoint.recognition import recognise
from erestore.checkpoint.weights_checkpoint import OpenedCheckpoint, WeightReader
from erestore.errors import CheckpointError

TRAINED_BESIDE = "non_lora_trainables.bin"
"""Where LLaVA keeps what it trains whole, with an adapter's names."""
_NO_WEIGHTS = ("training_args.bin",)


@dataclass(frozen=True)
class AdapterMatch:
    """An adapter on a base.

    Attributes
    ----------
    factors : Mapping[str, LoraFactors]
        By base key; `transpose` as the base has it. `shape` has more rows than the base's where a vocabulary has grown.
    biases : Mapping[str, BiasChange]
        By base key.
    replacements : Mapping[str, str]
        Base key to the adapter's tensor that replaces it. Where factors have the same key, they are added to this.
    originals : frozenset of str
        Keys of `replacements` that were not trained, but saved with the factors on top of them or with a resized vocabulary.
    additions : Mapping[str, str]
        By the adapter's name for it, saved tensors that the base has no counterpart for (a new head).
    """

    factors: Mapping[str, LoraFactors]
    biases: Mapping[str, BiasChange]
    replacements: Mapping[str, str]
    originals: frozenset[str]
    additions: Mapping[str, str]


class PeftCheckpoint(OpenedCheckpoint):
    """A LoRA adapter, opened for reading.

    Attributes
    ----------
    parts : AdapterTensors
        What its tensors are, by the names of the weights in the model that was adapted.

    Raises
    ------
    CheckpointError
        If the adapter is more than plain LoRA factors, naming what.
    """

    parts: AdapterTensors

    def __init__(self, path: Path, readers: Mapping[str, WeightReader]) -> None:
        super().__init__(path, "peft", readers)
        configuration = read_configuration(path / CONFIGURATION)
        self.parts = sort_tensors(self.tensors, configuration)
        self._configuration = configuration

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What of the adapter, and of the files beside it, was left out of account or is not where one looks for it."""
        notes = [*super().notes, *self._configuration.notes]
        if self.parts.biases and not self._configuration.has_bias:
            notes.append(
                f"Biases of B are added to the base's biases; PEFT leaves them out, since '{CONFIGURATION}' lacks lora_bias."
            )
        if any(file.name == TRAINED_BESIDE for file in self.files):
            notes.append(f"What was trained beside the adapter ('{TRAINED_BESIDE}') is part of the variant.")
        notes += [
            f"'{name}' beside the adapter is kept as a file; its weights are not applied."
            for name, path in self.side_files.items()
            if "/" not in name and path.name not in _NO_WEIGHTS and recognise(path) is not None
        ]
        return tuple(notes)

    def match(self, base: Mapping[str, Typed], spellings: Spellings = lambda: None) -> AdapterMatch:
        """Find the base's tensors that the adapter changes.

        Whether a weight is stored as (inputs, outputs) is not reliably in the configuration: where its shape does not
        tell, the base's neighbouring weights and their biases do.

        Parameters
        ----------
        base : Mapping[str, Typed]
        spellings : Spellings
            Asked only where names as they are do not agree.

        Raises
        ------
        CheckpointError
            If the base lacks an adapted weight, or has it in another shape.
        """
        targets = {name: _upright(name, "F32", factors.shape) for name, factors in self.parts.factors.items()}
        matched = match_names(
            targets, {key: _upright(key, info.dtype, tuple(info.shape)) for key, info in base.items()}
        )
        names = AdapterNames(base, matched, spellings)
        quantised = find_quantised(base)
        keys = {name: key for name in self.parts.whole if (key := names.key(name)) is not None}
        additions = {name: tensor for name, tensor in self.parts.whole.items() if name not in keys}
        for name in additions:
            names.require_new(name)
        return AdapterMatch(
            factors=dict(self._oriented(name, names, quantised) for name in self.parts.factors),
            biases={_bias_key(name, names): change for name, change in self.parts.biases.items()},
            replacements={key: self.parts.whole[name] for name, key in keys.items()},
            originals=frozenset(keys[name] for name in self.parts.originals if name in keys),
            additions=additions,
        )

    def _oriented(
        self, name: str, names: AdapterNames, quantised: Sequence[QuantisedWeight]
    ) -> tuple[str, LoraFactors]:
        factors = self.parts.factors[name]
        key = names.key(name)
        shape = tuple(names.base[key].shape) if key is not None else ()
        shapes = [factors.shape, factors.shape[::-1]] if factors.kind == "linear" else [factors.shape]
        fitting = [form for form in shapes if form == shape] or [form for form in shapes if _has_grown(form, shape)]
        weight = next(
            (entry for entry in quantised if key == entry.codes or (key is None and _is_tail(name, entry.name))),
            None,
        )
        if weight is not None:
            raise CheckpointError(
                f"The adapter changes '{name}', which the base holds in {weight.form} codes: what it adds to the weights that "
                "these stand for has no codes.",
                hint="Name the model that the base was quantised from with --base: the residual is over its weights then.",
            )
        if key is None or not fitting:
            raise CheckpointError(
                f"The adapter changes '{name}', for which the base has no tensor of the shape {list(factors.shape)}.",
                hint="Choose the base that the adapter was trained on; what its head is tied to is known by its config.json.",
            )
        if factors.kind != "linear":
            return key, factors
        if len(set(fitting)) == 1 and fitting[0][0] == fitting[0][1]:
            transpose = _is_transposed(key, names.base, default=factors.transpose)
        else:
            transpose = factors.transpose if fitting[0] == factors.shape else not factors.transpose
        return key, dataclasses.replace(factors, transpose=transpose, shape=fitting[0])


def _has_grown(grown: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether a shape is another with rows added to it, as a vocabulary gets them."""
    return len(grown) == len(shape) == 2 and grown[1:] == shape[1:] and grown[0] > shape[0]


def _bias_key(name: str, names: AdapterNames) -> str:
    key = names.key(name)
    if key is None:
        raise CheckpointError(
            f"The adapter changes '{name}', a bias that the base's layer does not have, nor its architecture.",
            hint=KEEP,
        )
    return key


def _upright(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """Describe a tensor such that a matrix and its transpose look the same, and a vocabulary is its rows."""
    return TensorInfo(name, dtype, tuple(sorted(shape, reverse=True)) if len(shape) == 2 else shape)


def _is_tail(one: str, two: str) -> bool:
    """Return whether one of two names is the other, perhaps under a prefix."""
    return f".{one}".endswith(f".{two}") or f".{two}".endswith(f".{one}")


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
