"""Whether a checkpoint on disk is what a store holds, and so whether it may be replaced without losing anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erestore.arrays import Array, as_array, raw_bytes, widen
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import is_floating
from erestore.checkpoint.marker import Marker, read_marker
from erestore.checkpoint.open import open_checkpoint
from erestore.commit_graph import by_time
from erestore.errors import CorruptionError, ErestoreError, NotFoundError, UsageError
from erestore.history.revision import Revision, open_revision
from erestore.ingest.base_writer import original_bytes
from erestore.ingest.fingerprint import original_digest
from erestore.progress import Progress, silent
from erestore.store import Store
from erestore.variant.prefix import Prefix
from erestore.variant.variant import Variant

WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx"}
)
"""Files that are taken for weights where a folder cannot be opened."""
HARMLESS = ("hidden", "compiled Python")
"""Reasons to leave files out of a commit that make them nobody's loss."""


@dataclass(frozen=True)
class TensorDifference:
    """One tensor that is not what the store holds.

    Attributes
    ----------
    name : str
    reason : str
        ``missing`` on disk, ``added`` there, ``dtype``, ``shape`` or ``values``.
    squared_error : float or None
        Squared norm of the difference of floating values: 0 where only the signs of zeros or the bits of NaN differ, NaN where
        just one side has NaN. None for all else.
    on_disk, stored : str or None
        Both dtypes or both shapes, where these differ.
    """

    name: str
    reason: str
    squared_error: float | None = None
    on_disk: str | None = None
    stored: str | None = None


def differences(checkpoint: Checkpoint, variant: Variant, progress: Progress = silent) -> Iterator[TensorDifference]:
    """Yield the tensors of a checkpoint that differ from those of a variant, by the variant's own names.

    Of tied names a file may hold one or all.
    """
    layout = variant.layout
    stored_keys = {layout.tensors[name].key for name in layout.tensors.keys() & checkpoint.tensors.keys()}
    for name in checkpoint.tensors.keys() - layout.tensors.keys():
        yield TensorDifference(name, "added")
    for number, (name, tensor) in enumerate(layout.tensors.items(), 1):
        info = checkpoint.tensors.get(name)
        if info is None:
            if tensor.key not in stored_keys:
                yield TensorDifference(name, "missing")
        elif info.dtype != tensor.dtype:
            yield TensorDifference(name, "dtype", on_disk=info.dtype, stored=tensor.dtype)
        elif info.shape != tensor.shape:
            yield TensorDifference(name, "shape", on_disk=_size(info.shape), stored=_size(tensor.shape))
        else:
            error = _squared_error(as_array(checkpoint.read(name)), variant.blocks(name))
            if error is not None:
                yield TensorDifference(name, "values", error if is_floating(tensor.dtype) else None)
        progress("comparing", number, len(layout.tensors))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _squared_error(values: Array, blocks: Iterable[Array]) -> float | None:
    """Return the squared norm of a difference, None where all bits are equal."""
    flat, start, total = values.reshape(-1), 0, None
    for block in blocks:
        part = flat[start : start + block.size]
        start += block.size
        if raw_bytes(part) != raw_bytes(block):
            with np.errstate(all="ignore"):
                error = float(np.sum((widen(part) - widen(block.reshape(-1))) ** 2))
            total = error + (total or 0.0)
    return total


def open_marked(store: Store, marker: Marker) -> tuple[Revision, Variant] | None:
    """Return what a marker's folder was checked out from, as it was; None where this store cannot tell any more."""
    if marker.store != store.id:
        return None
    try:
        revision = open_revision(store, marker.commit or marker.revision)
        prefix = None
        if marker.max_rank is not None or marker.max_bytes is not None:
            prefix = Prefix(marker.max_rank, marker.max_bytes)
        return revision, revision.variant(store, lossy=marker.lossy, prefix=prefix)
    except ErestoreError:
        return None


def loss_of_replacing(store: Store, target: Path, revision: Revision) -> str | None:
    """Say what would be lost if a file or folder were replaced: what this store cannot restore bit for bit.

    Parameters
    ----------
    store : Store
    target : Path
    revision : Revision
        What is to replace it: if it is that already, nothing is lost.

    Returns
    -------
    str or None
        To follow "holds"; None where nothing of weight is lost.
    """
    try:
        checkpoint = open_checkpoint(target)
    except NotFoundError:
        return None
    except ErestoreError:
        return _unreadable_weights(target)
    with checkpoint:
        others = sorted(name for name, reason in checkpoint.left_out.items() if reason not in HARMLESS)
        if others:
            return f"files that no commit keeps ({others[0]}{' and more' if len(others) > 1 else ''})"
        if any(_is_equal(checkpoint, variant) for variant in _candidates(store, checkpoint, revision)):
            return None
        if _was_committed_exactly(store, checkpoint):
            return None
    return "weights that the store cannot restore bit for bit"


def _unreadable_weights(target: Path) -> str | None:
    files = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix in WEIGHT_SUFFIXES]
    return f"weights that no commit keeps ({weights[0].name})" if weights else None


def _candidates(store: Store, checkpoint: Checkpoint, revision: Revision) -> Iterator[Variant]:
    """Yield what the store can restore and the checkpoint is likely to be."""
    marker = read_marker(checkpoint.path) if checkpoint.is_directory else None
    if marker is not None and (marked := open_marked(store, marker)) is not None:
        yield marked[1]
    yield revision.variant(store)
    size = original_bytes(checkpoint)
    for oid in store.base_commits().values():
        commit = store.commit_record(oid)
        if commit.original_bytes == size:
            yield Variant(store.objects, store.manifest(commit))


def _is_equal(checkpoint: Checkpoint, variant: Variant) -> bool:
    with suppress(
        CorruptionError, UsageError
    ):  # what does not decode, or is not read in part any more, restores nothing
        return next(differences(checkpoint, variant), None) is None
    return False


def _was_committed_exactly(store: Store, checkpoint: Checkpoint) -> bool:
    """Return whether an exact commit of these files, side files included, can be reached."""
    tips = [entry.oid for entry in store.refs.all().values() if entry.oid is not None]
    size = original_bytes(checkpoint)
    digests = {
        commit.quality.get("original")
        for _, commit in by_time(tips, store.commit_record)
        if commit.quality.get("exact") == "yes" and commit.original_bytes == size
    }
    return bool(digests) and original_digest(checkpoint) in digests
