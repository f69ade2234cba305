"""Files of torch's ``HuggingFaceStorageWriter``: one per process, each with a block of every sharded tensor.

Source: torch 2.13, ``torch/distributed/checkpoint/_hf_utils.py``: where a block starts in its whole tensor is in the
header's metadata.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.safetensors_file import SafetensorsFile
from erestore.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_SHARDING = "DCP_SHARDING_INFO"
_WRITTEN_BY = ("DCP_VERSION", _SHARDING)
ASSEMBLED = "model.safetensors"
"""Name of the one file that the files of all processes are stored as; libraries load it."""

_RANK = re.compile(r"shard-(\d+)-")


class ShardBlock(NamedTuple):
    """Part of a tensor: the file that holds it, its first index in every dimension, and its shape."""

    file: SafetensorsFile
    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def stop(self) -> tuple[int, ...]:
        """One past the last index in every dimension."""
        return tuple(start + size for start, size in zip(self.start, self.shape, strict=True))

    def overlaps(self, other: ShardBlock) -> bool:
        """Return whether two blocks share an element."""
        ranges = zip(self.start, self.stop, other.start, other.stop, strict=True)
        return all(max(start, first) < min(stop, last) for start, stop, first, last in ranges)


class RankFiles:
    """The files of all processes as one file of whole tensors; attributes as in a single file's reader.

    Raises
    ------
    CheckpointError
        If there is only one file, or the blocks of a tensor leave holes or overlap.
    """

    format = "safetensors"
    module = ""

    def __init__(self, paths: list[Path]) -> None:
        if len({_rank(path) for path in paths}) < 2:  # the only rank's rows look whole by themselves
            raise incomplete(paths[0].name)
        self._files: list[SafetensorsFile] = []
        try:
            self._files += (SafetensorsFile(path) for path in paths)
            self._blocks = _blocks(self._files)
            self.tensors = {name: _whole(name, blocks) for name, blocks in sorted(self._blocks.items())}
        except BaseException:
            self.close()
            raise
        metadata = self._files[0].metadata
        self.metadata = {key: value for key, value in metadata.items() if key not in _WRITTEN_BY}
        self.ties: tuple[tuple[str, ...], ...] = ()
        self.structure = None

    def read(self, name: str) -> torch.Tensor:
        """Return one whole tensor in fresh memory."""
        blocks = self._blocks[name]
        if len(blocks) == 1:
            return blocks[0].file.read(name)
        return self.rows(name, 0, self.tensors[name].shape[0])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows of one tensor in fresh memory."""
        import torch

        shape = self.tensors[name].shape
        stop = min(stop, shape[0])
        result: torch.Tensor | None = None
        for block in self._blocks[name]:
            first, last = max(start, block.start[0]), min(stop, block.stop[0])
            if first < last:
                part = _rows(block, name, first, last)
                if result is None:
                    result = torch.empty((stop - start, *shape[1:]), dtype=part.dtype)
                columns = tuple(slice(*bounds) for bounds in zip(block.start[1:], block.stop[1:], strict=True))
                result[(slice(first - start, last - start), *columns)] = part
        return self._blocks[name][0].file.read(name)[:0] if result is None else result

    def close(self) -> None:
        """Release the files."""
        for file in self._files:
            file.close()


def is_rank_file(file: SafetensorsFile) -> bool:
    """Return whether a file holds blocks of tensors; the writer describes whole ones in the same way."""
    return _SHARDING in file.metadata and (
        _RANK.match(file.path.name) is not None or any(any(start) for start in _starts(file).values())
    )


def incomplete(name: str) -> CheckpointError:
    """Return the refusal of files that are not all of a model."""
    return CheckpointError(
        f"'{name}' holds one process's part of every tensor (torch.distributed.checkpoint), not a model.",
        hint="Commit the folder once it holds the files of all processes, or save with "
        "HuggingFaceStorageWriter(..., save_distributed=True, enable_consolidation=True).",
    )


def distributed(path: Path, folder: Path) -> CheckpointError:
    """Return the refusal of torch's own distributed checkpoints, which no file of is a model."""
    return CheckpointError(
        f"'{path.name}' is {'a' if path == folder else 'one part of a'} checkpoint of torch.distributed.checkpoint (DCP).",
        hint=f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pt` makes one file of it; "
        "commit that.",
    )


def _rank(path: Path) -> str:
    rank = _RANK.match(path.name)
    return rank[1] if rank else path.name


def _rows(block: ShardBlock, name: str, first: int, last: int) -> torch.Tensor:
    if len(block.shape) > 1:
        return block.file.rows(name, first - block.start[0], last - block.start[0])
    return block.file.read(name)[first - block.start[0] : last - block.start[0]]


def _starts(file: SafetensorsFile) -> dict[str, tuple[int, ...]]:
    """Return where each of a file's blocks starts in its tensor."""
    try:
        sharding = json.loads(file.metadata.get(_SHARDING, "{}"))
        starts = {
            name: tuple(sharding[name]["saved_offsets"]) if name in sharding else (0,) * len(info.shape)
            for name, info in file.tensors.items()
        }
        is_sound = all(
            len(start) == len(file.tensors[name].shape) and all(type(index) is int and index >= 0 for index in start)
            for name, start in starts.items()
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise CheckpointError(
            f"'{file.path.name}' does not say soundly which rows it holds.", hint="Copy or download it again."
        )
    return starts


def _blocks(files: list[SafetensorsFile]) -> dict[str, list[ShardBlock]]:
    blocks: dict[str, list[ShardBlock]] = {}
    for file in files:
        for name, start in _starts(file).items():
            block = ShardBlock(file, start, file.tensors[name].shape)
            # What every process has whole may be in every file.
            if not any(other[1:] == block[1:] for other in blocks.setdefault(name, [])):
                blocks[name].append(block)
    return blocks


def _whole(name: str, blocks: list[ShardBlock]) -> TensorInfo:
    codes = {block.file.tensors[name].dtype for block in blocks}
    shape = tuple(max(stops) for stops in zip(*(block.stop for block in blocks), strict=True))
    elements = sum(math.prod(block.shape) for block in blocks)
    if (
        elements != math.prod(shape)
        or len(codes) > 1
        or any(one.overlaps(other) for one, other in itertools.combinations(blocks, 2))
    ):
        raise incomplete(blocks[0].file.path.name)
    return TensorInfo(name, codes.pop(), shape)
