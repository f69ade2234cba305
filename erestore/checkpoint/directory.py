"""What a checkpoint's directory holds besides its weights: files to keep, and files left out with the reason."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from erestore.checkpoint.marker import NAME as MARKER
from erestore.checkpoint.side_names import check_side_names
from erestore.checkpoint.snapshots import blobs_of
from erestore.errors import CheckpointError

_TRAINING_STATE = re.compile(
    r"(?:optimizer|scheduler|scaler)\.(?:pt|bin)|(?:rng_state|random_states)\w*\.(?:pth|pkl)|(?:global_step|checkpoint-)\d+/"
)
_OTHER_FRAMEWORK = re.compile(
    r"(?:tf_model|flax_model|rust_model)\.\S+|[^/]+\.(?:gguf|onnx|onnx_data|tflite|mlmodel)|(?:onnx|openvino|coreml)/"
)


class SideFiles(NamedTuple):
    """Files to keep and files left out (with the reason), by POSIX path."""

    kept: dict[str, Path]
    left_out: dict[str, str]


def list_side_files(root: Path, weights: Mapping[str, str]) -> SideFiles:
    """List everything in a checkpoint's directory but its weights.

    Parameters
    ----------
    root : Path
    weights : Mapping[str, str]
        Files that are weights, or another copy of them: name and reason to leave it out (empty for the weights read).

    Raises
    ------
    CheckpointError
        If a name cannot be kept, or a link leads out of the directory: committing would publish a file that is not part
        of the checkpoint. (Snapshots in the Hugging Face cache are links into its ``blobs``, which is fine.)
    """
    paths: dict[str, Path] = {}
    left_out = {name: reason for name, reason in weights.items() if reason}
    allowed = _allowed_targets(root)
    for name, path in _walk(root, ""):
        if name in weights or name == MARKER:
            continue
        if not path.name.startswith(".") and not path.exists():
            raise CheckpointError(f"'{name}' is a link to nothing.", hint="Remove it, or put its file in place.")
        if reason := _reason_to_leave_out(name, path):
            left_out[name] = reason
            continue
        if path.is_symlink() and not any(path.resolve().is_relative_to(folder) for folder in allowed):
            raise CheckpointError(
                f"'{name}' is a link to a file outside the checkpoint.", hint="Replace it by a copy, or remove it."
            )
        paths[name] = path
    check_side_names([*paths, *(name for name, reason in weights.items() if not reason)])
    return SideFiles(paths, left_out)


def _walk(root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """Yield files, and with a slash at the end those directories that are left out as a whole."""
    for path in sorted(root.iterdir(), key=lambda path: path.name):
        name = prefix + path.name
        if path.is_dir():
            if _reason_to_leave_out(name + "/", path):
                yield name + "/", path
            else:
                yield from _walk(path, name + "/")
        else:
            yield name, path


def _reason_to_leave_out(name: str, path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if path.name == "__pycache__":
        return "compiled Python"
    if _TRAINING_STATE.fullmatch(name):
        return "training state"
    if name.endswith(".distcp"):
        return (
            "part of a checkpoint of torch.distributed.checkpoint; "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch` makes one file of its folder, to be committed"
        )
    if _OTHER_FRAMEWORK.fullmatch(name):
        return "weights for another framework"
    if name.endswith("/"):
        return "a link to a directory" if path.is_symlink() else ""
    return "" if stat.S_ISREG(path.stat().st_mode) else "not a regular file"


def _allowed_targets(root: Path) -> list[Path]:
    blobs = blobs_of(root)
    return [root.resolve(), *([blobs] if blobs else [])]
