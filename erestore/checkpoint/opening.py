"""Opening whatever checkpoint a path names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.directory import list_side_files
from erestore.checkpoint.module_folders import find_module_weights, qualified
from erestore.checkpoint.opened import OpenedCheckpoint, WeightReader
from erestore.checkpoint.peft import PeftCheckpoint
from erestore.checkpoint.safetensors_file import SafetensorsFile
from erestore.checkpoint.torch_file import TorchFile
from erestore.checkpoint.weights import Weights, find_adapter, find_weights, recognise, refuse_pointer
from erestore.errors import AccessError, CheckpointError, NotFoundError
from erestore.records import module_prefix

_LOOKED_FOR = "a Hugging Face directory, a .safetensors file, a file of torch.save, or a PEFT adapter"


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a checkpoint for reading, tensor by tensor.

    Parameters
    ----------
    path : Path or str
        A Hugging Face directory (safetensors or torch, single or sharded), a directory with one torch file, a
        directory with a PEFT LoRA adapter, a bare safetensors file, or a bare file of ``torch.save``.

    Returns
    -------
    Checkpoint
        To be closed by the caller; a context manager.

    Raises
    ------
    NotFoundError
        If there is nothing at `path`.
    CheckpointError
        If it is no checkpoint, is damaged, or holds what erestore does not keep.
    AccessError
        If it may not be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _open_directory(path)
        if path.is_file():
            return _open_file(path)
    except OSError as error:
        raise AccessError(f"'{error.filename or path}' cannot be read: {error.strerror}.") from error
    if path.exists():
        raise CheckpointError(f"'{path}' is neither a file nor a directory.", hint=f"Give {_LOOKED_FOR}.")
    raise NotFoundError(f"There is no checkpoint at '{path}'.", hint=f"Give {_LOOKED_FOR}.")


def _open_file(path: Path) -> Checkpoint:
    refuse_pointer(path)
    format_found = recognise(path)
    if format_found is None:
        raise CheckpointError(f"'{path.name}' is not a checkpoint.", hint=f"Give {_LOOKED_FOR}.")
    return OpenedCheckpoint(path, format_found, _open_readers(path.parent, format_found, [path.name]))


def _open_directory(path: Path) -> Checkpoint:
    weights = find_weights(path)
    adapter = None if weights else find_adapter(path)
    chosen = weights or adapter
    folders = ({"": chosen} if chosen else {}) | find_module_weights(path, has_model=chosen is not None)
    readers, left_out = _open_folders(path, folders)
    if not readers:
        raise _no_weights(path)
    try:
        side = list_side_files(path, dict.fromkeys(readers, "") | left_out)
        if adapter:
            return PeftCheckpoint(path, readers, side_files=side.kept, left_out=side.left_out)
        format_found = next(iter(readers.values())).format
        return OpenedCheckpoint(path, format_found, readers, side_files=side.kept, left_out=side.left_out)
    except BaseException:
        _close(readers)
        raise


def _open_folders(path: Path, folders: Mapping[str, Weights]) -> tuple[dict[str, WeightReader], dict[str, str]]:
    """Open the weights of the model and of its modules; name other copies of them, with the reason to leave them out."""
    readers: dict[str, WeightReader] = {}
    left_out: dict[str, str] = {}
    try:
        for module, weights in folders.items():
            opened = _open_module(path, module, weights)
            readers |= opened
            if opened:
                reason = f"'{next(iter(opened))}' holds the weights"
                left_out |= dict.fromkeys((module_prefix(module) + name for name in weights.others), reason)
    except BaseException:
        _close(readers)
        raise
    return readers, left_out


def _open_module(path: Path, module: str, weights: Weights) -> dict[str, WeightReader]:
    """Open the weights of a module, or of the model itself; none of a module's pickles that would run code."""
    try:
        readers = _open_readers(path / module, weights.format, weights.files)
    except CheckpointError:
        if module and weights.format == "torch":
            return {}
        raise
    try:
        _check_index(weights.file_of, readers)
    except BaseException:
        _close(readers)
        raise
    return qualified(readers, module) if module else readers


def _open_readers(root: Path, format_found: str, names: Sequence[str]) -> dict[str, WeightReader]:
    readers: dict[str, WeightReader] = {}
    try:
        for name in names:
            refuse_pointer(root / name)
            readers[name] = SafetensorsFile(root / name) if format_found == "safetensors" else TorchFile(root / name)
    except BaseException:
        _close(readers)
        raise
    return readers


def _close(readers: Mapping[str, WeightReader]) -> None:
    for reader in readers.values():
        reader.close()


def _check_index(file_of: Mapping[str, str], readers: Mapping[str, WeightReader]) -> None:
    for name, file in file_of.items():
        if name not in readers[file].tensors:
            raise CheckpointError(
                f"The index says that '{name}' is in '{file}', but it is not.",
                hint="Copy or download the checkpoint again.",
            )


def _no_weights(path: Path) -> CheckpointError:
    nested = sorted(child.name for child in path.iterdir() if child.is_dir() and find_weights(child))
    if nested:
        return CheckpointError(
            f"'{path}' holds no weights itself, but its directories {', '.join(nested[:4])} do.",
            hint="Commit one of them by its path.",
        )
    return CheckpointError(f"'{path}' holds no weights.", hint=f"Give {_LOOKED_FOR}.")
