"""Finding the weights: which files of a directory hold them, and in which format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from erestore.checkpoint.peft_configuration import CONFIGURATION
from erestore.checkpoint.side_names import check_side_name
from erestore.checkpoint.torch_file import ZIP_MAGIC, holds_torch_archive
from erestore.errors import CheckpointError

SAFETENSORS_INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"

_TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar", ".tar")
_PICKLE_MAGIC = b"\x80"
_LFS_MAGIC = b"version https:"
_NEVER_WEIGHTS = (
    "training_args.bin",
    "optimizer.",
    "scheduler.",
    "scaler.",
    "rng_state",
    "random_states",
    "adapter_model.",
)


class Weights(NamedTuple):
    """The weight files of a directory.

    Attributes
    ----------
    format : str
        ``safetensors`` or ``torch``.
    files : tuple of str
    file_of : Mapping[str, str]
        File of each tensor, where an index says so.
    others : tuple of str
        Second copies of the weights in another format.
    """

    format: str
    files: tuple[str, ...]
    file_of: Mapping[str, str] = {}
    others: tuple[str, ...] = ()


def recognise(path: Path) -> str | None:
    """Tell a file's format by its first bytes: ``safetensors``, ``torch``, or None."""
    start = _start(path)
    if path.suffix == ".safetensors" or (
        start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    ):
        return "safetensors"
    if start.startswith(ZIP_MAGIC):
        return "torch" if holds_torch_archive(path) or path.name.endswith(_TORCH_SUFFIXES) else None
    return "torch" if start.startswith(_PICKLE_MAGIC) else None


def refuse_pointer(path: Path) -> None:
    """Refuse what a clone without Git LFS has in place of a big file."""
    if _start(path).startswith(_LFS_MAGIC):
        raise CheckpointError(
            f"'{path.name}' is a Git LFS pointer, not the weights.", hint="Fetch it with `git lfs pull`."
        )


def find_weights(root: Path) -> Weights | None:
    """Find the weights at the top level of a directory; None if there are none.

    First ``model.safetensors`` or its index, then all safetensors files together, then ``pytorch_model.bin`` or its
    index, then the only torch file.

    Raises
    ------
    CheckpointError
        If an index is malformed or names a file that is not there, or there are several torch files.
    """
    names = sorted(path.name for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    copies = tuple(name for name in names if name.startswith("pytorch_model") and ".bin" in name)
    safetensors = tuple(name for name in names if name.endswith(".safetensors") and not name.startswith(_NEVER_WEIGHTS))
    if found := _preferred(root, names, SAFETENSORS_INDEX, "model.safetensors"):
        consolidated = tuple(name for name in safetensors if name.startswith("consolidated"))
        return Weights("safetensors", *found, others=copies + consolidated)
    if safetensors:
        return Weights("safetensors", safetensors, others=copies)
    if found := _preferred(root, names, TORCH_INDEX, "pytorch_model.bin"):
        return Weights("torch", *found)
    candidates = [
        name
        for name in names
        if name.endswith(_TORCH_SUFFIXES) and not name.startswith(_NEVER_WEIGHTS) and recognise(root / name) == "torch"
    ]
    if len(candidates) > 1:
        raise CheckpointError(
            f"'{root.name}' holds {len(candidates)} weight files ({', '.join(candidates[:3])}); any may be meant.",
            hint="Give the path of the file.",
        )
    return Weights("torch", tuple(candidates)) if candidates else None


def find_adapter(root: Path) -> Weights | None:
    """Find the weights of a PEFT adapter; None if the directory is not one."""
    names = [name for name in ("adapter_model.safetensors", "adapter_model.bin") if (root / name).is_file()]
    if not names or not (root / CONFIGURATION).is_file():
        return None
    return Weights(
        "safetensors" if names[0].endswith(".safetensors") else "torch", tuple(names[:1]), {}, tuple(names[1:])
    )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _preferred(
    root: Path, names: list[str], index_name: str, single: str
) -> tuple[tuple[str, ...], Mapping[str, str]] | None:
    if index_name in names:
        index = _read_index(root / index_name)
        for file in sorted(set(index.values())):
            if not (root / file).is_file():
                raise CheckpointError(
                    f"'{index_name}' names '{file}', which is missing.", hint="Copy or download it again."
                )
        return tuple(sorted(set(index.values()))), index
    return ((single,), {}) if single in names else None


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_bytes())["weight_map"]
        files = {check_side_name(file) for file in index.values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"'{path.name}' is not a sound index.", hint="Copy or download it again.") from error
    if not files:
        raise CheckpointError(f"'{path.name}' lists no tensors.", hint="Copy or download it again.")
    return dict(index)
