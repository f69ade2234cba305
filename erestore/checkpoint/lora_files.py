"""LoRA files that are not PEFT folders: what they are, and how to get a model or a PEFT adapter out of them.

They are not read yet. Names as sd-scripts, LyCORIS 4.1.3, diffusers 0.42.1 and mlx-lm 0.32.2 write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from erestore.errors import CheckpointError

_PARTS = re.compile(
    r"\.(?:lora|hada|lokr|oft|glora|dora)[._]|\.lora_linear_layer\.|\.alpha$|\.(?:dora_scale|diff|diff_b)$"
)
_DIFFUSERS = (
    "Fuse it with diffusers: pipeline.load_lora_weights(path), pipeline.fuse_lora(), pipeline.unload_lora_weights(), then "
    "save_pretrained of what it adapts (pipeline.unet), and commit that."
)
_FOLDER = (
    "Commit the LoRA adapter's folder, with its adapter_config.json; where there is none, load the file into the model "
    "(PEFT, diffusers), merge it and commit that."
)
_KINDS = (
    (
        re.compile(r"\.(?:hada_w|lokr_w|glora|oft_)"),
        "LyCORIS",
        "Fuse the LoRA into the base with the tool that made it, and commit the fused model.",
    ),
    (re.compile(r"\.lora_(?:down|up)\.weight$"), "kohya's sd-scripts", _DIFFUSERS),
    (re.compile(r"\.lora(?:_linear_layer)?\.(?:down|up)\.weight$"), "diffusers", _DIFFUSERS),
    (
        re.compile(r"\.lora_[ab]$"),
        "mlx-lm",
        "Fuse the LoRA: `mlx_lm.fuse --model BASE --adapter-path FOLDER --save-path fused`, then commit fused.",
    ),
    (re.compile(r"\.lora_(?:embedding_)?[AB]\b"), "PEFT", _FOLDER),
)
_SMALLEST_SHARE = 0.9


def lora_refusal(names: Iterable[str]) -> CheckpointError | None:
    """Return the refusal of a LoRA file, by the names of its tensors; None if it is something else."""
    names = list(names)
    if sum(_PARTS.search(name) is not None for name in names) < _SMALLEST_SHARE * len(names):
        return None
    for pattern, writer, hint in _KINDS:
        if any(pattern.search(name) for name in names):
            return CheckpointError(
                f"This is a LoRA in the format of {writer}: factors and not weights, which cannot be read yet.",
                hint=hint,
            )
    return None
