"""A checkpoint as a base: whole tensors, raw, each stored once however many bases hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from erestore.arrays import as_array, raw_bytes
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.dtypes import tensor_bytes
from erestore.errors import CheckpointError
from erestore.ingest.layout import store_layout
from erestore.objects.tensors import BASE_ALIGNMENT, TensorWriter, content_digest
from erestore.records import Base, Commit, Manifest, TensorRef, WholeTensor
from erestore.storage.objects import ObjectStore
from erestore.storage.segments import PutResult


def known_tensors(objects: ObjectStore, bases: Iterable[str]) -> dict[str, TensorRef]:
    """Return where tensors that the store already holds are, by their digest."""
    references: dict[str, TensorRef] = {}
    for oid in bases:
        for tensor in Base.from_record(objects.get_record("base", oid)).tensors.values():
            references.setdefault(tensor.digest, tensor.data)
    return references


def store_base(
    objects: ObjectStore, checkpoint: Checkpoint, bases: Iterable[str], progress: Callable[[str, int, int], None]
) -> PutResult:
    """Store every tensor of a checkpoint and the base record; tied names share one tensor.

    Parameters
    ----------
    objects : ObjectStore
    checkpoint : Checkpoint
    bases : iterable of str
        Oids of the bases already in the store.
    progress : callable
    """
    references = known_tensors(objects, bases)
    fresh: dict[str, tuple[int, int]] = {}
    described: dict[str, tuple[str, tuple[int, ...], str]] = {}
    with TensorWriter(objects, align=BASE_ALIGNMENT) as writer:
        for number, (name, info) in enumerate(checkpoint.tensors.items(), 1):
            content = raw_bytes(as_array(checkpoint.read(name)))
            digest = content_digest(info.dtype, info.shape, content)
            described[name] = info.dtype, info.shape, digest
            if digest not in references and digest not in fresh:
                fresh[digest] = writer.add(content, info.dtype)
            progress("importing", number, len(checkpoint.tensors))
        added, oid = 0, ""
        if fresh:
            tensors = writer.finish()
            added, oid = tensors.added_bytes, tensors.oid
    references |= {digest: TensorRef(oid, *position) for digest, position in fresh.items()}
    record = Base(
        {
            name: WholeTensor(dtype, shape, digest, references[digest])
            for name, (dtype, shape, digest) in described.items()
        }
    )
    stored = objects.put_record("base", record.to_record())
    return PutResult(stored.oid, added + stored.added_bytes)


class StoredBase(NamedTuple):
    """A base that was stored: its manifest, how many bytes that added, and the size of the checkpoint's weights."""

    manifest_oid: str
    manifest: Manifest
    added_bytes: int


def import_checkpoint(
    objects: ObjectStore, checkpoint: Checkpoint, bases: Iterable[str], progress: Callable[[str, int, int], None]
) -> StoredBase:
    """Store a checkpoint as a base, with the layout and manifest that make it a variant like any other."""
    if checkpoint.format == "peft":
        raise CheckpointError(
            f"{checkpoint.path} is an adapter. An adapter alone is not a base.",
            hint="Import the model it was trained on, then commit the adapter with --base.",
        )
    base = store_base(objects, checkpoint, bases, progress)
    layout = store_layout(objects, checkpoint, {name: name for name in checkpoint.tensors})
    manifest = Manifest(base=base.oid, terms=(), layout=layout.oid)
    record = objects.put_record("manifest", manifest.to_record())
    return StoredBase(record.oid, manifest, base.added_bytes + layout.added_bytes + record.added_bytes)


def base_commit(imported: StoredBase, checkpoint: Checkpoint, author: str, time: int, message: str) -> Commit:
    """Return the commit that makes an imported base part of the lineage."""
    return Commit(
        manifest=imported.manifest_oid,
        parents=(),
        edge="imported",
        author=author,
        time=time,
        message=message,
        quality={"exact": "yes", "relative_error": "0.0"},
        original_bytes=original_bytes(checkpoint),
        stored_bytes=imported.added_bytes,
    )


def original_bytes(checkpoint: Checkpoint) -> int:
    """Return the size of what was committed: weights as the files hold them (tied tensors once) and side files."""
    followers = {name for group in checkpoint.ties for name in group[1:]}
    weights = sum(
        tensor_bytes(info.dtype, info.shape) for name, info in checkpoint.tensors.items() if name not in followers
    )
    return weights + sum(path.stat().st_size for path in checkpoint.side_files.values())
