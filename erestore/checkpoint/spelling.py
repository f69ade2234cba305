"""Spellings of one tensor's name: wrappers around modules, legacy parameter names, and modules that moved.

A spelling maps the names of one checkpoint to names that are compared with those of another, spelled alike. It is never
written anywhere: what a checkout writes are the checkpoint's own names. Two names of one checkpoint that would be
spelled alike keep their own, since either may be meant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

Spelling = Callable[[Iterable[str]], Mapping[str, str]]
"""Given the names of a checkpoint, returns how each is spelled."""

WRAPPERS = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_fpw_module",  # FSDP before torch 2.0
    "_checkpoint_wrapped_module",  # activation checkpointing of torch.distributed
    "_forward_module",  # Lightning Fabric
    "module",  # DataParallel, DDP, DeepSpeed
    "base_layer",  # PEFT
    "original_module",
    "modules_to_save.default",
)
"""Components of a name that are modules around the one that the rest of the name belongs to."""

_WRAPPED = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(map(re.escape, WRAPPERS))})\.")

_LEGACY = {
    "gamma": "weight",  # LayerNorm, as converted from TensorFlow
    "beta": "bias",
    "weight_g": "parametrizations.weight.original0",  # torch.nn.utils.weight_norm
    "weight_v": "parametrizations.weight.original1",
}
"""Parameters inside of modules that have another name today."""

_MOVED = (
    # Models of images and text before transformers 4.52, against the names of their modules since.
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^(vision_tower|vision_model|image_tower|video_tower|multi_modal_projector|visual)\."), r"model.\1."),
)


def unwrapped(name: str) -> str:
    """Return a name without wrappers, and with today's name of the parameter."""
    name = _WRAPPED.sub("", name)
    module, dot, parameter = name.rpartition(".")
    return f"{module}.{_LEGACY[parameter]}" if dot and parameter in _LEGACY else name


def wrappers_of(name: str) -> set[str]:
    """Return the wrappers in a name."""
    return {match[0].removesuffix(".") for match in _WRAPPED.finditer(name)}


def moved(name: str) -> str:
    """Return a name without wrappers, as transformers' models of images and text have called it since 4.52."""
    name = unwrapped(name)
    for pattern, replacement in _MOVED:
        name = pattern.sub(replacement, name)
    return name


def spell(names: Iterable[str], spelling: Spelling) -> dict[str, str]:
    """Return the names of a checkpoint by their spellings; names that would be spelled alike are spelled as they are."""
    names = list(names)
    return by_spelling(names, spelling(names))


def by_spelling(names: Iterable[str], texts: Mapping[str, str]) -> dict[str, str]:
    """Return names by their spellings, which are known; alike ones as above."""
    spelled = {name: texts[name] for name in names}
    count = Counter(spelled.values())
    return {(text if count[text] == 1 else name): name for name, text in spelled.items()}


def name_by_name(function: Callable[[str], str]) -> Spelling:
    """Return a spelling that looks at one name at a time."""
    return lambda names: {name: function(name) for name in names}
