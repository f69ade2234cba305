"""``import``: a checkpoint as a base, whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from erestore.checkpoint.default_name import name_of
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import TargetExistsError
from erestore.ingest.base_writer import base_commit, import_checkpoint
from erestore.operation import Operation
from erestore.progress import Progress, silent
from erestore.storage.leases import Lease
from erestore.storage.refs import check_name
from erestore.store import Store


@dataclass(frozen=True)
class ImportResult:
    """What ``import`` did; the fields are those of its JSON. `left_out` are files that were not kept, with reasons."""

    commit: str
    ref: str
    stored_bytes: int
    original_bytes: int
    tensors: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def import_base(
    store: Store,
    path: str | Path,
    *,
    name: str | None = None,
    message: str = "",
    operation: Operation | None = None,
    progress: Progress = silent,
) -> ImportResult:
    """Store the checkpoint at `path` as a base called `name`.

    Parameters
    ----------
    store : Store
    path : str or Path
        A Hugging Face directory or one file of weights.
    name : str, optional
        Branch that will point to it; by default the name of the directory or file.
    message : str
    operation : Operation, optional
        The operation this is part of.
    progress : Progress

    Returns
    -------
    ImportResult

    Raises
    ------
    TargetExistsError
        If there is such a name already.
    CheckpointError
        If `path` cannot be read.
    """
    name = name or name_of(path)
    operation = operation or store.begin()
    entry = store.refs.read(check_name(name))
    if entry is not None and entry.oid is not None:
        raise TargetExistsError(f"There is a '{name}' already.", hint="Give another --name, or delete it first.")
    with open_checkpoint(Path(path)) as checkpoint, Lease(store.storage, "writer", operation.writer) as lease:
        imported = import_checkpoint(store.objects, checkpoint, store.bases(), progress)
        commit = base_commit(imported, checkpoint, operation.author, operation.time, message)
        lease.confirm()
        recorded = store.record(commit, name, operation, expected=entry.number if entry else 0)
        tensors = len(checkpoint.tensors)
        left_out = dict(checkpoint.left_out)
        return ImportResult(
            recorded.oid, name, recorded.stored_bytes, commit.original_bytes, tensors, left_out, checkpoint.notes
        )
