"""The layout of an adapted model: its parent's, with new tensors put in and the files that describe them kept true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from erestore.algebra.weight_files import with_tensors
from erestore.checkpoint.abc import Checkpoint
from erestore.checkpoint.conversion import build_index
from erestore.checkpoint.unread_weights import holds_weights, read_start
from erestore.checkpoint.weights import SAFETENSORS_INDEX, TORCH_INDEX
from erestore.errors import CheckpointError
from erestore.ingest.adapter_files import adapted_places, replaced
from erestore.ingest.layout import StoredLayout
from erestore.ingest.tied_heads import untied, vocabulary_sizes, with_vocabulary
from erestore.records import Layout, LayoutFile, LayoutTensor
from erestore.storage.objects import ObjectStore

_CONFIG = "config.json"


class AdaptedTensor(NamedTuple):
    """A tensor of a layout: its manifest key, data type and shape, and whether it shared memory with another until now."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    splits: bool = False


def read_config(objects: ObjectStore, layout: Layout) -> Mapping[str, Any]:
    """Return the content of a variant's ``config.json``; empty if there is none, or it is not a JSON object."""
    oid = layout.side_files.get(_CONFIG)
    try:
        content = json.loads(objects.get_blob(oid)) if oid else {}
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def adapted_layout(
    objects: ObjectStore,
    parent: Layout,
    checkpoint: Checkpoint,
    changed: Mapping[str, AdaptedTensor],
    *,
    is_untied: bool,
) -> StoredLayout:
    """Store the parent's layout with an adapter's tensors and files put in.

    Parameters
    ----------
    objects : ObjectStore
    parent : Layout
    checkpoint : Checkpoint
        The adapter: its side files, and the folders of its modules.
    changed : Mapping[str, AdaptedTensor]
        By own name, tensors that are new or are not what they were.
    is_untied : bool
        Whether the head no longer is the embedding, which ``config.json`` has to say.
    """
    fresh = tuple(name for name in changed if name not in parent.tensors)
    tensors = dict(parent.tensors) | {
        name: LayoutTensor(tensor.key, tensor.dtype, tensor.shape) for name, tensor in changed.items()
    }
    homes = {
        name: LayoutFile(file.name, (), dict(file.metadata), file.module, file.format)
        for file in checkpoint.files
        for name in file.tensors
    }
    files = with_tensors(parent.files, {name: homes.get(name, LayoutFile("", ())) for name in fresh})
    split = {name for name, tensor in changed.items() if tensor.splits}
    layout = replace(
        parent,
        tensors=tensors,
        files=files,
        ties=tuple(group for group in parent.ties if not split & set(group)),
    )
    side_files, added = dict(layout.side_files), 0
    if layout.is_directory:
        weights = {file.name for file in files}
        gone = weights | replaced(checkpoint.side_files, layout.side_files)
        side_files = {name: oid for name, oid in side_files.items() if name not in gone}
        contents = _described(objects, parent, layout, fresh, is_untied=is_untied)
        for name, content in contents.items():
            blob = objects.put_blob(content)
            side_files[name], added = blob.oid, added + blob.added_bytes
        unread = {name for name, path in checkpoint.side_files.items() if holds_weights(name, read_start(path))}
        places = adapted_places(checkpoint.side_files, layout.side_files, weights, unread)
        for name, path in checkpoint.side_files.items():
            blob = objects.put_blob_file(path)
            side_files[places[name]], added = blob.oid, added + blob.added_bytes
    layout = replace(layout, side_files=side_files)
    stored = objects.put_record("layout", layout.to_record())
    return StoredLayout(layout, stored.oid, added + stored.added_bytes)


def _described(
    objects: ObjectStore, parent: Layout, layout: Layout, fresh: tuple[str, ...], *, is_untied: bool
) -> dict[str, bytes]:
    """Return the files that describe the weights and are no longer true: index and configuration."""
    contents = {}
    index = next((name for name in (SAFETENSORS_INDEX, TORCH_INDEX) if name in layout.side_files), None)
    if index is not None and fresh:
        files = tuple(file for file in layout.files if not file.module)
        contents[index] = _extended_index(objects.get_blob(layout.side_files[index]), files, layout.tensors)
    config = read_config(objects, parent)
    changed = untied(config) if is_untied and config else dict(config)
    for name, tensor in parent.tensors.items():
        former, size = tensor.shape, layout.tensors[name].shape
        if len(former) == 2 and former[1:] == size[1:] and former[0] != size[0]:
            if former[0] in vocabulary_sizes(config):
                _require_same_rows(name, former, layout)
            changed = with_vocabulary(changed, former[0], size[0])
    if changed != config:
        contents[_CONFIG] = (json.dumps(changed, indent=2) + "\n").encode()
    return contents


def _require_same_rows(name: str, former: tuple[int, ...], layout: Layout) -> None:
    """Refuse an embedding with another number of rows beside a head that lacks them."""
    rows = layout.tensors[name].shape[0]
    for other, tensor in layout.tensors.items():
        if tensor.shape == former:
            raise CheckpointError(
                f"The adapter gives '{name}' {rows} rows, but holds nothing of '{other}', which has {former[0]} rows.",
                hint="Save both with PEFT: name both in modules_to_save or target_modules.",
            )


def _extended_index(content: bytes, files: tuple[LayoutFile, ...], tensors: Mapping[str, LayoutTensor]) -> bytes:
    """Return an index of the tensors that there are now; what else its metadata says is kept."""
    index = json.loads(build_index(files, tensors))
    try:
        metadata = json.loads(content)["metadata"]
        index["metadata"] = {**metadata, **index["metadata"]}
        index["metadata"].pop("total_parameters", None)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return (json.dumps(index, indent=2) + "\n").encode()
