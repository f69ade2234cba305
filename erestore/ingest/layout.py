"""The layout of a checkpoint: its own names, files and side files, as a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from erestore.checkpoint.abc import Checkpoint
from erestore.records import Layout, LayoutFile, LayoutTensor
from erestore.storage.objects import ObjectStore


class StoredLayout(NamedTuple):
    """A layout, its oid, and the bytes that storing it and its side files added."""

    layout: Layout
    oid: str
    added_bytes: int


def store_layout(objects: ObjectStore, checkpoint: Checkpoint, keys: Mapping[str, str]) -> StoredLayout:
    """Store the layout of a checkpoint, side files first.

    Parameters
    ----------
    objects : ObjectStore
    checkpoint : Checkpoint
    keys : Mapping[str, str]
        Manifest key of every own name; tied names are given the key of the first.
    """
    added = 0
    side_files = {}
    for name, path in checkpoint.side_files.items():
        stored = objects.put_blob_file(path)
        side_files[name] = stored.oid
        added += stored.added_bytes
    structure = None
    if checkpoint.structure is not None:
        stored = objects.put_blob(json.dumps(checkpoint.structure, separators=(",", ":")).encode())
        structure, added = stored.oid, added + stored.added_bytes
    layout = layout_of(checkpoint, keys, side_files, structure)
    stored = objects.put_record("layout", layout.to_record())
    return StoredLayout(layout, stored.oid, added + stored.added_bytes)


def layout_of(
    checkpoint: Checkpoint, keys: Mapping[str, str], side_files: Mapping[str, str], structure: str | None
) -> Layout:
    """Return the layout of a checkpoint, given the oids of its side files and of the skeletons of its torch files."""
    first = {name: group[0] for group in checkpoint.ties for name in group}
    return Layout(
        format=checkpoint.format,
        is_directory=checkpoint.is_directory,
        files=tuple(
            LayoutFile(file.name, file.tensors, dict(file.metadata), file.module, file.format)
            for file in checkpoint.files
        ),
        tensors={
            name: LayoutTensor(keys[first.get(name, name)], info.dtype, info.shape)
            for name, info in checkpoint.tensors.items()
        },
        ties=checkpoint.ties,
        side_files=dict(side_files),
        structure=structure,
    )
