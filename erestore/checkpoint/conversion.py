"""Turning a layout of one format into the other: file names, index and ties; no tensor is touched."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from erestore.checkpoint.dtypes import tensor_bytes
from erestore.checkpoint.weights import SAFETENSORS_INDEX, TORCH_INDEX
from erestore.errors import UsageError
from erestore.records import Layout, LayoutFile, LayoutTensor

FORMATS = ("safetensors", "torch")

_SUFFIX = re.compile(r"\.(?:safetensors|bin|pt|pth|ckpt|pth\.tar|tar)$")


class Converted(NamedTuple):
    """A layout, and the content of files that it needs besides its side files."""

    layout: Layout
    written: Mapping[str, bytes]


def convert(layout: Layout, format: str | None) -> Converted:  # noqa: A002 - the option's name
    """Return the layout that writes the same tensors in another format.

    A safetensors file cannot hold one tensor under two names: of tied names the first is kept, and the metadata says
    what the others were, as ``safetensors.torch.save_model`` writes it. What a torch file holds besides tensors has no
    place in a safetensors file.

    Parameters
    ----------
    layout : Layout
    format : str or None
        ``safetensors`` or ``torch``; None, or the layout's own, changes nothing.

    Raises
    ------
    UsageError
        If there is no such format.
    """
    if format is None or format == layout.format:
        return Converted(layout, {})
    if format not in FORMATS:
        raise UsageError(f"There is no checkpoint format '{format}'.", hint=f"Choose one of {', '.join(FORMATS)}.")
    kept_name = {name: group[0] for group in layout.ties for name in group[1:]} if format == "safetensors" else {}
    names = _rename([file.name for file in layout.files], format)
    files = tuple(
        LayoutFile(
            names[file.name],
            tuple(name for name in file.tensors if name not in kept_name),
            _metadata(file, kept_name) if format == "safetensors" else {},
        )
        for file in layout.files
    )
    indexes = (SAFETENSORS_INDEX, TORCH_INDEX)
    new_index = indexes[FORMATS.index(format)]
    changed = dataclasses.replace(
        layout,
        format=format,
        files=files,
        tensors={name: tensor for name, tensor in layout.tensors.items() if name not in kept_name},
        ties=() if format == "safetensors" else layout.ties,
        side_files={name: oid for name, oid in layout.side_files.items() if name not in indexes},
        structure=None,
    )
    return Converted(changed, {new_index: build_index(files, layout.tensors)} if len(files) > 1 else {})


def build_index(files: tuple[LayoutFile, ...], tensors: Mapping[str, LayoutTensor]) -> bytes:
    """Return the index of a sharded checkpoint, as transformers reads it."""
    weight_map = {name: file.name for file in files for name in file.tensors}
    total = sum(tensor_bytes(tensors[name].dtype, tensors[name].shape) for name in weight_map)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


def _metadata(file: LayoutFile, kept_name: Mapping[str, str]) -> dict[str, str]:
    return {**{name: kept_name[name] for name in file.tensors if name in kept_name}, "format": "pt"}


def _rename(names: list[str], format: str) -> dict[str, str]:  # noqa: A002 - as above
    stem_from, stem_to, suffix = (
        ("pytorch_model", "model", ".safetensors") if format == "safetensors" else ("model", "pytorch_model", ".bin")
    )
    standard = re.compile(rf"{stem_from}(-\d+-of-\d+)?$")
    stems = {name: _SUFFIX.sub("", name) for name in names}
    if len(set(stems.values())) < len(stems):
        return {name: name + suffix for name in names}
    return {name: standard.sub(rf"{stem_to}\1", stem) + suffix for name, stem in stems.items()}
