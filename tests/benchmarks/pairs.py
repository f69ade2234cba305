"""Pairs of base and fine-tune that fidelity is measured on: weights alone, as safetensors under their own names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import families

PREFIX = re.compile(r"^bert\.")
"""In the names of some checkpoints and not of others of the same family."""


@dataclass(frozen=True)
class Source:
    """Where a pair is from.

    Attributes
    ----------
    family : callable
        One of :mod:`families`; skips where the models cannot be had.
    base, tuned : str
    """

    family: Callable[[], dict[str, Path]]
    base: str
    tuned: str


SOURCES = {
    "rxnfp-ft": Source(families.rxnfp, "bert_pretrained", "bert_ft"),
    "rxnfp-10k": Source(families.rxnfp, "bert_pretrained", "bert_ft_10k_25s"),
    "minilm-movie-short": Source(families.minilm_tuned, "base", "movie"),
    "chgnet-r2scan": Source(families.chgnet, "0.3.0", "r2scan"),
    "glyphive-courier": Source(families.glyphive, "ocrb", "courier"),
    "glyphive-dejavu": Source(families.glyphive, "ocrb", "dejavu"),
    "glyphive-libmono": Source(families.glyphive, "ocrb", "libmono"),
    "silero-v6": Source(families.silero, "v5", "v6"),
}
"""By the name of the pair."""


@dataclass(frozen=True)
class Pair:
    """A base and its fine-tune.

    Attributes
    ----------
    name : str
    base, tuned : Path
        Safetensors files.
    """

    name: str
    base: Path
    tuned: Path

    @cached_property
    def base_weights(self) -> dict[str, Tensor]:
        """The base by the names that both use."""
        return common_names(load_file(self.base))

    @cached_property
    def tuned_weights(self) -> dict[str, Tensor]:
        """The fine-tune by the names that both use."""
        return common_names(load_file(self.tuned))

    @property
    def new_bytes(self) -> int:
        """Bytes of the floating tensors that the base lacks, raw."""
        return sum(
            own.numel() * own.element_size()
            for name, own in self.tuned_weights.items()
            if own.is_floating_point() and (name not in self.base_weights or own.shape != self.base_weights[name].shape)
        )


def common_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix that only some checkpoints have."""
    return {PREFIX.sub("", name): tensor for name, tensor in weights.items()}


def load_pair(name: str, cache: Path) -> Pair:
    """Return a pair, its files made in `cache` unless they are there."""
    source = SOURCES[name]
    folder = cache / "weights" / name
    pair = Pair(name, folder / "base.safetensors", folder / "tuned.safetensors")
    if not pair.tuned.exists():
        paths = source.family()
        folder.mkdir(parents=True, exist_ok=True)
        for path, target in ((paths[source.base], pair.base), (paths[source.tuned], pair.tuned)):
            save_file(read_weights(path), target)
    return pair


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint and nothing else of it."""
    if path.is_dir():
        path = next(file for file in path.iterdir() if file.name in ("model.safetensors", "pytorch_model.bin"))
    if path.suffix == ".safetensors":
        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("model", found)
    found = found.get("state_dict", found)
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}
