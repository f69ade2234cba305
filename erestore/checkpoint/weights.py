"""Which files of a directory are the model: what the library that loads it takes, and why the others are left out.

The order of each library, with the versions it was read in, is docs/reference/which-file.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from erestore.checkpoint.loose_files import choose_safetensors, choose_torch
from erestore.checkpoint.peft_configuration import CONFIGURATION
from erestore.checkpoint.recognition import recognise
from erestore.checkpoint.side_names import check_side_name
from erestore.checkpoint.snapshots import fetch_hint
from erestore.errors import CheckpointError

SAFETENSORS_INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"

TRANSFORMERS = ("model.safetensors", SAFETENSORS_INDEX, "pytorch_model.bin", TORCH_INDEX)
DIFFUSERS = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
OPEN_CLIP = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
TIMM = ("pytorch_model.pth", "model.pth")
"""What each library looks for, the first that is there being taken; all without a variant such as ``fp16``."""

ADAPTER = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
_COPIES = re.compile(
    r"(?:(?:diffusion_|open_clip_)?(?:pytorch_)?model(?:[.-][\w.-]+)?|consolidated[\w.-]*)\.(?:safetensors|bin|pth)"
    r"(?:\.index(?:\.\w+)?\.json)?"
)
"""Names under which these libraries keep the same model once more: variants, shards, other formats, indexes."""


class Weights(NamedTuple):
    """The weight files of a directory.

    Attributes
    ----------
    format : str
        ``safetensors`` or ``torch``.
    files : tuple of str
    file_of : Mapping[str, str]
        File of each tensor, where an index says so.
    left_out : Mapping[str, str]
        Files that are weights as well but not what is loaded, and why they are left out.
    """

    format: str
    files: tuple[str, ...]
    file_of: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}


def find_model(root: Path) -> Weights | None:
    """Find the weights that a library finds by their name, at the top level of a directory; None if there are none.

    Raises
    ------
    CheckpointError
        If an index is malformed or names a file that is not there.
    """
    names = _names(root)
    for name in (*_named_by_configuration(root), *_order(root)):
        if name not in names:
            continue
        index = _read_index(root, name, names) if name.endswith(".json") else {}
        files = tuple(sorted(set(index.values()))) or (name,)
        reason = f"'{files[0]}' holds the weights"
        copies = {other: reason for other in names if _COPIES.fullmatch(other) and other not in (name, *files)}
        return Weights(_format(files[0]), files, index, copies | _adapter_beside(names, files[0]))
    return None


def find_adapter(root: Path) -> Weights | None:
    """Find the weights of a PEFT adapter; None if the directory is not one."""
    names = [name for name in ADAPTER[:2] if (root / name).is_file()]
    if not names or not (root / CONFIGURATION).is_file():
        return None
    return Weights(_format(names[0]), tuple(names[:1]), {}, dict.fromkeys(names[1:], f"'{names[0]}' holds the weights"))


def adapter_without_configuration(root: Path) -> str | None:
    """Return the name of an adapter's weights in a directory that lacks its configuration."""
    if (root / CONFIGURATION).is_file():
        return None
    return next((name for name in ADAPTER if (root / name).is_file()), None)


def find_loose_weights(root: Path) -> Weights | None:
    """Find weights under any name: all safetensors files together, or the only torch file; None if there are none.

    Raises
    ------
    CheckpointError
        If shards are missing, or any of several files may be meant.
    """
    names = _names(root)
    if safetensors := [name for name in names if name.endswith(".safetensors") and name not in ADAPTER]:
        files, left_out = choose_safetensors(root, safetensors)
        return Weights("safetensors", files, left_out=left_out)
    file = choose_torch(root, [name for name in names if name not in ADAPTER and recognise(root / name) == "torch"])
    return Weights("torch", (file,)) if file else None


def find_weights(root: Path) -> Weights | None:
    """Find whatever weights there are at the top level of a directory, an adapter's included; None if there are none."""
    return find_model(root) or find_adapter(root) or find_loose_weights(root)


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_file() and not path.name.startswith("."))


def _format(name: str) -> str:
    return "safetensors" if name.endswith(".safetensors") else "torch"


def _order(root: Path) -> tuple[str, ...]:
    """Return names in the order of the library that the directory's configuration is for, then those of the others."""
    configuration = _configuration(root)
    if "_class_name" in configuration or "_diffusers_version" in configuration:
        return (*DIFFUSERS, *TRANSFORMERS, *OPEN_CLIP, *TIMM)
    if not configuration and (root / "open_clip_config.json").is_file():
        return (*OPEN_CLIP, *TRANSFORMERS, *TIMM)
    return (*TRANSFORMERS, *DIFFUSERS, *OPEN_CLIP, *TIMM)


def _named_by_configuration(root: Path) -> Sequence[str]:
    """Return the file that transformers 5 loads instead of any other, where config.json names one."""
    name = _configuration(root).get("transformers_weights")
    return [name] if isinstance(name, str) and name.endswith((".safetensors", ".safetensors.index.json")) else []


def _configuration(root: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((root / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _adapter_beside(names: Sequence[str], weights: str) -> dict[str, str]:
    """Leave out an adapter beside a whole model: loading the directory would add it to the weights."""
    if CONFIGURATION not in names:
        return {}
    reason = (
        f"from_pretrained adds this adapter to '{weights}'; where it is not merged into that already, "
        "move it to a folder of its own and commit that"
    )
    return {name: reason for name in (CONFIGURATION, *ADAPTER) if name in names}


def _read_index(root: Path, name: str, names: Sequence[str]) -> dict[str, str]:
    try:
        index = json.loads((root / name).read_bytes())["weight_map"]
        files = {check_side_name(file) for file in index.values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{name}' is not a sound index.", hint="Copy or download it again.") from error
    if not files:
        raise CheckpointError(f"'{name}' lists no tensors.", hint="Copy or download it again.")
    for file in sorted(files):
        if not (root / file).is_file():
            others = [other for other in names if _COPIES.fullmatch(other) and not other.endswith(".json")]
            rest = sorted(set(others) - files)
            way_out = f"; or remove '{name}' if '{rest[0]}' is the model" if rest else ""
            raise CheckpointError(
                f"'{name}' names '{file}', which is missing.",
                hint=f"{fetch_hint(root) or 'Copy or download it again'}{way_out}.",
            )
    return dict(index)
