"""Second copies of the weights among a checkpoint's other files, recognised by their headers.

A copy has the tensors of the weights under the same names (but for a prefix) in the same shapes; its data type may
differ, and it may be several files. Whether its values are the same is judged by the first of every tensor, so that a
big copy is not read whole.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from erestore.checkpoint.abc import Checkpoint, TensorInfo
from erestore.checkpoint.dtypes import is_floating, tensor_bytes
from erestore.checkpoint.names import match_names
from erestore.checkpoint.recognition import is_zip, recognise
from erestore.checkpoint.safetensors_file import SafetensorsFile
from erestore.checkpoint.sharding import is_rank_file
from erestore.checkpoint.torch_file import TorchFile
from erestore.checkpoint.unread_weights import holds_weights, read_start
from erestore.checkpoint.weights_checkpoint import WeightReader
from erestore.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SMALLEST_SHARE = 0.75
"""Part of the model's elements that a copy has at least: without a head it is a copy still."""

_SMALLEST_SIZE = 1 / 8
"""Of the weights' bytes: four bits an element where the weights have 32."""

_SAMPLED = 4096
"""Elements of a tensor that are compared."""

_META = re.compile(r"(?:.*/)?consolidated[.\d]*\.(?:safetensors|pth)")
"""Meta's and Mistral's own files beside those for transformers: the same model under wholly different names."""


class _Copy(NamedTuple):
    """The tensors of files that are a copy, who reads each, and the model's name for it."""

    tensors: Mapping[str, TensorInfo]
    readers: Mapping[str, WeightReader]
    keys: Mapping[str, str]


class Copies(NamedTuple):
    """Files that hold a checkpoint's weights once more, with the reason to leave them out, and files that may do so."""

    left_out: dict[str, str]
    unread: list[str]


def find_copies(files: Mapping[str, Path], checkpoint: Checkpoint) -> Copies:
    """Find those of a checkpoint's other files that hold its weights once more, or may do so but cannot be opened.

    Parameters
    ----------
    files : Mapping[str, Path]
        By POSIX path inside the checkpoint.
    checkpoint : Checkpoint
    """
    copies: dict[str, str] = {}
    unread: list[str] = []
    main = checkpoint.files[0].name
    smallest = _SMALLEST_SIZE * sum(tensor_bytes(info.dtype, info.shape) for info in _model(checkpoint).values())
    for group in _groups(files):
        if sum(files[name].stat().st_size for name in group) < smallest:
            continue
        if all(_META.fullmatch(name) for name in group):
            copies |= dict.fromkeys(group, f"'{main}' holds the weights")
            continue
        with ExitStack() as stack:
            readers = {name: reader for name in group if (reader := _open(files[name], stack)) is not None}
            unread += (name for name in group if name not in readers and holds_weights(name, read_start(files[name])))
            single = {name: copy for name in readers if (copy := _match({name: readers[name]}, checkpoint))}
            for name, copy in single.items():
                copies[name] = _reason(copy, checkpoint, main, "commit it by its path")
            if not single and (copy := _match(readers, checkpoint)):
                way = "move these files to a folder of their own and commit that"
                copies |= dict.fromkeys(readers, _reason(copy, checkpoint, main, way))
    return Copies(copies, unread)


def _model(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """Return the checkpoint's tensors, of tied ones the first."""
    followers = {name for group in checkpoint.ties for name in group[1:]}
    return {name: info for name, info in checkpoint.tensors.items() if name not in followers}


def _groups(files: Mapping[str, Path]) -> Iterator[list[str]]:
    """Yield names of one folder that differ by numbers only: shards, ranks, numbered saves."""

    def pattern(name: str) -> tuple[str, str]:
        path = PurePosixPath(name)
        return path.parent.as_posix(), re.sub(r"\d+", "#", path.name)

    for _, group in itertools.groupby(sorted(files, key=pattern), key=pattern):
        yield list(group)


def _open(path: Path, stack: ExitStack) -> WeightReader | None:
    """Open a file of weights; None for any other, and for what would have to be loaded whole to be looked at."""
    reader: WeightReader | None = None
    with suppress(CheckpointError):
        if (kind := recognise(path)) == "safetensors":
            reader = SafetensorsFile(path)
        elif kind == "torch" and is_zip(path):
            reader = TorchFile(path)
    if reader is not None:
        stack.callback(reader.close)
    return reader


def _match(readers: Mapping[str, WeightReader], checkpoint: Checkpoint) -> _Copy | None:
    """Match the tensors of files to the model's; None if they are not most of it."""
    tensors = {name: info for reader in readers.values() for name, info in reader.tensors.items()}
    if not tensors:
        return None
    model = _model(checkpoint)
    are_blocks = any(isinstance(reader, SafetensorsFile) and is_rank_file(reader) for reader in readers.values())
    keys = {
        name: key
        for name, key in match_names(tensors, model).keys.items()
        if are_blocks or tensors[name].shape == model[key].shape
    }
    shared = sum(math.prod(model[key].shape) for key in keys.values())
    if shared < SMALLEST_SHARE * sum(math.prod(info.shape) for info in model.values()):
        return None
    holders = {name: reader for reader in readers.values() for name in reader.tensors}
    return _Copy(tensors, holders, {} if are_blocks else keys)


def _reason(copy: _Copy, checkpoint: Checkpoint, main: str, way: str) -> str:
    """Say why a copy is left out; `way` is how to keep what `main` does not hold."""
    keep = f"to keep them, {way}, with --parent"
    if not all(_has_same_values(copy, name, checkpoint) for name in copy.keys):
        return f"the tensors of '{main}' with other values, as an average (EMA) or an earlier save has; {keep}"
    rest = [name for name in copy.tensors if name not in copy.keys] if copy.keys else []
    if sum(math.prod(copy.tensors[name].shape) for name in rest) > (1 - SMALLEST_SHARE) * sum(
        math.prod(info.shape) for info in copy.tensors.values()
    ):
        return f"'{main}' holds the same weights; other tensors, such as '{rest[0]}', are left out with them; {keep}"
    return f"'{main}' holds the weights"


def _has_same_values(copy: _Copy, name: str, checkpoint: Checkpoint) -> bool:
    """Return whether a tensor's first values are the model's, in the data type that tells less apart."""
    import torch

    info, model = copy.tensors[name], checkpoint.tensors[copy.keys[name]]
    one, two = _first(copy.readers[name], info), _first(checkpoint, model)
    if info.dtype == model.dtype:
        return bool(torch.equal(one.reshape(-1).view(torch.uint8), two.reshape(-1).view(torch.uint8)))
    if not (is_floating(info.dtype) and is_floating(model.dtype)) or "F4" in (info.dtype, model.dtype):
        return True
    return any(
        bool(torch.allclose(fine.to(coarse.dtype).double(), coarse.double(), rtol=0, atol=0, equal_nan=True))
        for fine, coarse in ((one, two), (two, one))
    )


def _first(reader: WeightReader | Checkpoint, info: TensorInfo) -> torch.Tensor:
    if len(info.shape) < 2:
        return reader.read(info.name)[:_SAMPLED] if info.shape else reader.read(info.name)
    width = max(1, math.prod(info.shape[1:]))
    return reader.rows(info.name, 0, max(1, _SAMPLED // width)).contiguous()
