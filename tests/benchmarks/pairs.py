"""Pairs of base and fine-tune that fidelity is measured on: weights alone, as safetensors under their own names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
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
    about : str
        What it is, in a few words.
    family : callable
        One of :mod:`families`; skips where the models cannot be had.
    base, tuned : str
        Keys of what `family` returns.
    task : str
        What the fine-tune can be tested on, a key of :data:`labelled_texts.TASKS`; empty if nothing.
    control : bool
        Whether the two are no fine-tunes of each other, so that their figures are kept out of summaries.
    """

    about: str
    family: Callable[[], dict[str, Path]]
    base: str
    tuned: str
    task: str = ""
    control: bool = False


def _tuned(about: str, task: str, **recipe: float) -> Source:
    return Source(about, partial(families.minilm_tuned, task=task, **recipe), "base", task, task)


SOURCES = {
    "rxnfp-ft": Source("BERT, 6.7 M, tuned to classify reactions", families.rxnfp, "bert_pretrained", "bert_ft"),
    "rxnfp-10k": Source(
        "the same base, tuned on 10,000 reactions", families.rxnfp, "bert_pretrained", "bert_ft_10k_25s"
    ),
    "minilm-section": _tuned("MiniLM, 22.7 M: 12 sections of Debian, 3 epochs", "section", steps=800),
    "minilm-fortunes": _tuned("MiniLM: 32 topics of fortune cookies, 3 epochs", "fortunes", steps=1000),
    "minilm-movie": _tuned("MiniLM: film reviews, 5 epochs, weight decay 0.1", "movie", steps=1200, weight_decay=0.1),
    "minilm-movie-short": _tuned("MiniLM: film reviews, 24 steps", "movie", steps=24),
    "chgnet-r2scan": Source("graph network, 0.4 M", families.chgnet, "0.3.0", "r2scan"),
    "glyphive-courier": Source("recogniser of text, LSTM, 1.5 M, float64", families.glyphive, "ocrb", "courier"),
    "glyphive-dejavu": Source("a sibling of it", families.glyphive, "ocrb", "dejavu"),
    "glyphive-libmono": Source("a sibling of it", families.glyphive, "ocrb", "libmono"),
    "silero-v6": Source(
        "control: not a fine-tune, the same shapes trained again", families.silero, "v5", "v6", control=True
    ),
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
    original : Path
        The fine-tune as its own library reads it.
    """

    name: str
    base: Path
    tuned: Path
    original: Path

    @cached_property
    def base_weights(self) -> dict[str, Tensor]:
        """The base by the names that both use."""
        return common_names(load_file(self.base))

    @cached_property
    def tuned_weights(self) -> dict[str, Tensor]:
        """The fine-tune by the names that both use."""
        return common_names(load_file(self.tuned))

    @cached_property
    def new_bytes(self) -> int:
        """Bytes of the floating tensors that the base lacks, raw."""
        base = self.base_weights
        return sum(
            own.numel() * own.element_size()
            for name, own in self.tuned_weights.items()
            if own.is_floating_point() and (name not in base or own.shape != base[name].shape)
        )


def common_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix that only some checkpoints have."""
    return {PREFIX.sub("", name): tensor for name, tensor in weights.items()}


def load_pair(name: str, cache: Path) -> Pair:
    """Return a pair, its files made in `cache` unless they are there."""
    source = SOURCES[name]
    paths, folder = source.family(), cache / "weights" / name
    pair = Pair(name, folder / "base.safetensors", folder / "tuned.safetensors", paths[source.tuned])
    if not pair.tuned.exists():
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
