"""Choosing among weight files whose names no library looks for: shards without an index, variants, numbered saves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from erestore.checkpoint.recognition import TORCH_SUFFIXES, refuse_pointer
from erestore.checkpoint.safetensors_file import SafetensorsFile
from erestore.checkpoint.sharding import is_rank_file
from erestore.checkpoint.snapshots import fetch_hint
from erestore.errors import CheckpointError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<rest>\..+)")
_TRAINING = ("training_args.bin", "optimizer.", "scheduler.", "scaler.", "rng_state", "random_states")


def choose_safetensors(root: Path, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the files that make up the model together, and those that hold it once more, with the reason.

    Of files with tensors of the same names, the one whose name is part of all the others' is the model: ``unet`` beside
    ``unet.fp16`` or ``unet_ema``, ``adapters`` beside ``0000100_adapters``.

    Raises
    ------
    CheckpointError
        If a shard is missing, or several files hold a tensor of the same name and none of them stands out.
    """
    tensors: dict[str, set[str]] = {}
    rank_files: list[str] = []
    for name in names:
        refuse_pointer(root / name)
        file = SafetensorsFile(root / name)
        file.close()
        tensors[name] = set(file.tensors)
        rank_files += [name] if is_rank_file(file) else []
    candidates = [name for name in names if name not in rank_files]
    if not candidates:
        return tuple(names), {}
    _require_all_shards(root, candidates)
    files: list[str] = []
    left_out = dict.fromkeys(rank_files, f"'{candidates[0]}' holds the weights")
    for name in sorted(candidates, key=lambda name: (len(_stem(name)), name)):
        twin = next((file for file in files if tensors[file] & tensors[name]), None)
        if twin is None:
            files.append(name)
        elif _stem(twin) in _stem(name) and not _SHARD.fullmatch(twin):
            left_out[name] = f"'{twin}' holds the weights"
        else:
            raise _ambiguous(twin, name, tensors)
    return tuple(sorted(files)), left_out


def choose_torch(root: Path, names: Sequence[str]) -> str | None:
    """Return the only torch file among `names` that is not a training run's state; None if there is none.

    Raises
    ------
    CheckpointError
        If there are several.
    """
    files = [name for name in names if name.endswith(TORCH_SUFFIXES) and not name.startswith(_TRAINING)]
    if len(files) > 1:
        raise CheckpointError(
            f"'{root.name}' holds {len(files)} weight files ({', '.join(files[:3])}); any may be meant.",
            hint="Give the path of the file.",
        )
    return files[0] if files else None


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")


def _require_all_shards(root: Path, names: Sequence[str]) -> None:
    for name in names:
        if shard := _SHARD.fullmatch(name):
            stem, number, count, rest = shard.group("stem", "number", "count", "rest")
            for other in range(1, int(count) + 1):
                file = f"{stem}-{other:0{len(number)}d}-of-{count}{rest}"
                if file not in names:
                    raise CheckpointError(
                        f"'{name}' is one of {int(count)} shards, of which '{file}' is missing.",
                        hint=f"{fetch_hint(root) or 'Copy or download it again'}.",
                    )


def _ambiguous(one: str, two: str, tensors: Mapping[str, set[str]]) -> CheckpointError:
    name = min(tensors[one] & tensors[two])
    return CheckpointError(
        f"The tensor '{name}' is both in '{one}' and in '{two}'.",
        hint="Remove the file that does not belong to the model, or commit one file by its path.",
    )
