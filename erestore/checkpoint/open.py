"""Opening whatever checkpoint a path names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.copies import find_copies
from erestore.checkpoint.directory import list_side_files
from erestore.checkpoint.missing import CHECKPOINT_KINDS, no_checkpoint
from erestore.checkpoint.module_folders import find_module_weights, qualified
from erestore.checkpoint.nested_copies import nested_copies
from erestore.checkpoint.peft import TRAINED_BESIDE, PeftCheckpoint
from erestore.checkpoint.peft_configuration import CONFIGURATION
from erestore.checkpoint.recognition import recognise, refuse_pointer
from erestore.checkpoint.safetensors_file import SafetensorsFile
from erestore.checkpoint.sharding import ASSEMBLED, RankFiles, distributed, incomplete, is_rank_file
from erestore.checkpoint.snapshots import fetch_hint
from erestore.checkpoint.torch_file import TorchFile
from erestore.checkpoint.weights import (
    Weights,
    adapter_without_configuration,
    find_adapter,
    find_loose_weights,
    find_model,
    find_weights,
)
from erestore.checkpoint.weights_checkpoint import OpenedCheckpoint, WeightReader
from erestore.errors import AccessError, CheckpointError
from erestore.records import module_prefix


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
        If it is not a checkpoint, is damaged, or holds what erestore does not keep.
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
        raise CheckpointError(f"'{path}' is neither a file nor a directory.", hint=f"Give {CHECKPOINT_KINDS}.")
    raise no_checkpoint(path)


def _open_file(path: Path) -> Checkpoint:
    refuse_pointer(path)
    if path.suffix == ".distcp":
        raise distributed(path, path.parent)
    format_found = recognise(path)
    if format_found is None:
        raise CheckpointError(f"'{path.name}' is not a checkpoint.", hint=f"Give {CHECKPOINT_KINDS}.")
    reader = _open_reader(path, format_found)
    if isinstance(reader, SafetensorsFile) and is_rank_file(reader):
        reader.close()
        raise incomplete(path.name)
    checkpoint = OpenedCheckpoint(path, format_found, {path.name: reader})
    checkpoint.file_notes = tuple(nested_copies(checkpoint))
    return checkpoint


def _open_directory(path: Path) -> Checkpoint:
    model = find_model(path)
    adapter = None if model else find_adapter(path)
    main = model or adapter or find_loose_weights(path)
    folders = ({"": main} if main else {}) | find_module_weights(path, has_model=main is not None)
    readers, weights = _open_folders(path, folders)
    if adapter:
        readers |= _open_trained_beside(path, readers)
        weights |= dict.fromkeys(readers, "")
    if not readers:
        raise _no_weights(path)
    try:
        side = list_side_files(path, weights)
        format_found = next(iter(readers.values())).format
        checkpoint = PeftCheckpoint(path, readers) if adapter else OpenedCheckpoint(path, format_found, readers)
        # A name alone does not tell a copy from an average or an earlier save, so those left out are looked at too.
        named = {name: path / name for name, reason in weights.items() if reason}
        copies, unread = find_copies(side.kept | named, checkpoint)
        checkpoint.set_side_files(
            {name: file for name, file in side.kept.items() if name not in copies}, {**side.left_out, **copies}
        )
        if not adapter:
            checkpoint.file_notes = (*_may_be_copies(side.kept.keys() & set(unread)), *nested_copies(checkpoint))
    except BaseException:
        _close(readers)
        raise
    return checkpoint


def _may_be_copies(names: Collection[str]) -> list[str]:
    """Say which files are kept that may be copies of the weights."""
    if not names:
        return []
    listed = ", ".join(f"'{name}'" for name in sorted(names)[:4]) + (" and more" if len(names) > 4 else "")
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    told = f"which cannot be told without loading {them}"
    return [
        f"{listed} may hold the weights once more, {told}, and {are} kept whole; move {them} out of the folder if so."
    ]


def _open_folders(path: Path, folders: Mapping[str, Weights]) -> tuple[dict[str, WeightReader], dict[str, str]]:
    """Open the weights of the model and of its modules.

    Returns
    -------
    readers : dict of str to WeightReader
    weights : dict of str to str
        Files that are read, with an empty reason, and those that are left out because they hold the same.
    """
    readers: dict[str, WeightReader] = {}
    weights: dict[str, str] = {}
    try:
        for module, files in folders.items():
            opened = _open_module(path, module, files)
            readers |= opened
            if opened:
                prefix = module_prefix(module)
                again = f"'{prefix}{files.files[0]}' holds the weights"
                weights |= {prefix + name: again if module else reason for name, reason in files.left_out.items()}
                weights |= {prefix + name: "" for name in files.files}
    except BaseException:
        _close(readers)
        raise
    return readers, weights


def _open_trained_beside(path: Path, readers: Mapping[str, WeightReader]) -> dict[str, WeightReader]:
    """Open what was trained whole beside an adapter, where its library keeps that in a file of its own."""
    try:
        return {TRAINED_BESIDE: TorchFile(path / TRAINED_BESIDE)} if (path / TRAINED_BESIDE).is_file() else {}
    except BaseException:
        _close(readers)
        raise


def _open_module(path: Path, module: str, weights: Weights) -> dict[str, WeightReader]:
    """Open the weights of a module, or of the model itself; none of a module's pickles that would run code."""
    try:
        readers = _open_readers(path / module, weights)
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


def _open_readers(root: Path, weights: Weights) -> dict[str, WeightReader]:
    readers: dict[str, WeightReader] = {}
    try:
        for name in weights.files:
            refuse_pointer(root / name)
            readers[name] = _open_reader(root / name, weights.format)
        if any(isinstance(reader, SafetensorsFile) and is_rank_file(reader) for reader in readers.values()):
            _close(readers)
            return {ASSEMBLED: RankFiles([root / name for name in weights.files])}
    except BaseException:
        _close(readers)
        raise
    return readers


def _open_reader(path: Path, format_found: str) -> WeightReader:
    return SafetensorsFile(path) if format_found == "safetensors" else TorchFile(path)


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
    if any(path.glob("*.distcp")):
        return distributed(path, path)
    if name := adapter_without_configuration(path):
        return CheckpointError(
            f"'{path}' holds an adapter, '{name}', without its '{CONFIGURATION}'.",
            hint=f"Put '{CONFIGURATION}' beside it, as PEFT saves them.",
        )
    nested = sorted(child.name for child in path.iterdir() if child.is_dir() and _holds_weights(child))
    if nested:
        return CheckpointError(
            f"'{path}' holds no weights itself, but its directories {', '.join(nested[:4])} do.",
            hint="Commit one of them by its path.",
        )
    return CheckpointError(f"'{path}' holds no weights.", hint=f"{fetch_hint(path) or f'Give {CHECKPOINT_KINDS}'}.")


def _holds_weights(directory: Path) -> bool:
    try:
        return find_weights(directory) is not None or adapter_without_configuration(directory) is not None
    except CheckpointError:  # damaged or incomplete, which is said when it is opened
        return True
