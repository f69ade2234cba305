"""Turning a layout of one format into the other: file names, index and ties; no tensor is touched."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from erestore.checkpoint.dtypes import tensor_bytes
from erestore.errors import UsageError
from erestore.records import Layout, LayoutFile, LayoutTensor

FORMATS = ("safetensors", "torch")

_SUFFIXES = {"safetensors": ".safetensors", "torch": ".bin"}
_SUFFIX = re.compile(r"\.(?:safetensors|bin|pt|pth|ckpt|pth\.tar|tar)$")
_STEM = re.compile(r"(?P<model>.*?)(?P<variant>\.\w+)?(?P<shard>-\d+-of-\d+)?(?P<late_variant>\.\w+)?")
_INDEX = re.compile(r"[^/]+\.(?:safetensors|bin)\.index(?:\.\w+)?\.json")

_TORCH_STEMS = {"model": "pytorch_model", "open_clip_model": "open_clip_pytorch_model"}
"""How libraries call the file of a format where not the suffix alone tells: transformers and sentence-transformers, open_clip.
diffusers has ``diffusion_pytorch_model`` for both."""
_SHARDED = ("model", "pytorch_model", "diffusion_pytorch_model")
_STEMS = {"torch": _TORCH_STEMS, "safetensors": {torch: stem for stem, torch in _TORCH_STEMS.items()}}


class Converted(NamedTuple):
    """A layout, and the content of files that it needs besides its side files."""

    layout: Layout
    written: Mapping[str, bytes]


def convert(layout: Layout, format: str | None) -> Converted:  # noqa: A002 - the option's name
    """Return the layout that writes the same tensors in another format.

    A safetensors file cannot hold one tensor under two names: of tied names the first is kept, and the metadata says
    what the others were, as ``safetensors.torch.save_model`` writes it. What a torch file holds besides tensors has no
    place in a safetensors file. Files are named, and indexes written, as the library that reads the folder does.

    Parameters
    ----------
    layout : Layout
    format : str or None
        ``safetensors`` or ``torch``; None changes nothing, nor do files that are in it already.

    Raises
    ------
    UsageError
        If there is no such format.
    """
    if format is None:
        return Converted(layout, {})
    if format not in FORMATS:
        raise UsageError(f"There is no checkpoint format '{format}'.", hint=f"Choose one of {', '.join(FORMATS)}.")
    changing = [file for file in layout.files if (file.format or layout.format) != format]
    if not changing:
        return Converted(layout, {})
    to_safetensors = format == "safetensors"
    listed = {name for file in changing for name in file.tensors} if to_safetensors else set()
    kept_name = {name: group[0] for group in layout.ties for name in group[1:] if name in listed}
    unchanged = {file.name for file in layout.files} - {file.name for file in changing}
    names = _rename([file.name for file in changing], format, unchanged)
    converted = {
        file.name: dataclasses.replace(
            file,
            name=names[file.name],
            tensors=tuple(name for name in file.tensors if name not in kept_name),
            metadata=_metadata(file, kept_name) if to_safetensors else {},
            format=format if file.module else "",
        )
        for file in changing
    }
    folders = {file.module for file in changing}
    files = tuple(converted.get(file.name, file) for file in layout.files)
    changed = dataclasses.replace(
        layout,
        format=format,
        files=files,
        tensors={name: tensor for name, tensor in layout.tensors.items() if name not in kept_name},
        ties=tuple(group for group in layout.ties if not listed.intersection(group)),
        side_files={name: oid for name, oid in layout.side_files.items() if not _is_index(name, folders)},
        structure=None,
    )
    return Converted(changed, dict(_indexes(converted.values(), layout.tensors, format)))


def fitting_index(layout: Layout, path: str, content: bytes) -> bytes:
    """Return an index of the layout's files; as it is, unless it lists tensors that a combination has not got there.

    Parameters
    ----------
    layout : Layout
    path : str
        The index's own.
    content : bytes
    """
    folder, _, _ = path.rpartition("/")
    files = [file for file in layout.files if file.prefix == (f"{folder}/" if folder else "")]
    try:
        weight_map = dict(json.loads(content)["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return content
    listed = {
        name.removeprefix(file.prefix): file.name.removeprefix(file.prefix) for file in files for name in file.tensors
    }
    is_of_these = {str(file) for file in weight_map.values()} <= {file.name.removeprefix(file.prefix) for file in files}
    if not is_of_these or weight_map.items() <= listed.items():
        return content
    return build_index(files, layout.tensors)


def is_index(path: str) -> bool:
    """Return whether a file is an index of shards by its name."""
    return _INDEX.fullmatch(path.rpartition("/")[2]) is not None


def build_index(files: Collection[LayoutFile], tensors: Mapping[str, LayoutTensor]) -> bytes:
    """Return the index of a sharded checkpoint, or of a sharded module, as transformers reads it."""
    weight_map = {name: file for file in files for name in file.tensors}
    total = sum(tensor_bytes(tensors[name].dtype, tensors[name].shape) for name in weight_map)
    inside = {name.removeprefix(file.prefix): file.name.removeprefix(file.prefix) for name, file in weight_map.items()}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(inside.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


def _indexes(
    files: Iterable[LayoutFile],
    tensors: Mapping[str, LayoutTensor],
    format: str,  # noqa: A002 - as above
) -> Iterable[tuple[str, bytes]]:
    """Yield the index of every folder that has several files, by its path."""
    folders: dict[str, list[LayoutFile]] = {}
    for file in files:
        folders.setdefault(file.prefix, []).append(file)
    for prefix, members in folders.items():
        if len(members) > 1:
            yield prefix + _index_name([file.name for file in members], format), build_index(members, tensors)


def _index_name(names: Iterable[str], format: str) -> str:  # noqa: A002 - as above
    """Return what the library that reads shards of these names calls their index."""
    parts = {_stem_parts(name.rpartition("/")[2]) for name in names}
    model, variant = parts.pop() if len(parts) == 1 else ("", "")
    if model not in _SHARDED:
        model, variant = _STEMS[format].get("model", "model"), ""
    return f"{model}{_SUFFIXES[format]}.index{variant}.json"


def _stem_parts(name: str) -> tuple[str, str]:
    parts = _STEM.fullmatch(_SUFFIX.sub("", name))
    assert parts is not None
    return parts["model"], parts["variant"] or parts["late_variant"] or ""


def _is_index(name: str, folders: Collection[str]) -> bool:
    folder, _, file = name.rpartition("/")
    return folder in folders and _INDEX.fullmatch(file) is not None


def _metadata(file: LayoutFile, kept_name: Mapping[str, str]) -> dict[str, str]:
    ties = {
        name.removeprefix(file.prefix): kept_name[name].removeprefix(file.prefix)
        for name in file.tensors
        if name in kept_name
    }
    return {**ties, "format": "pt"}


def _rename(names: Iterable[str], format: str, reserved: Collection[str]) -> dict[str, str]:  # noqa: A002 - as above
    renamed = {name: _new_name(name, format) for name in names}
    if len({*renamed.values(), *reserved}) < len(renamed) + len(reserved):
        return {name: name + _SUFFIXES[format] for name in renamed}
    return renamed


def _new_name(path: str, format: str) -> str:  # noqa: A002 - as above
    folder, slash, name = path.rpartition("/")
    stem = _SUFFIX.sub("", name)
    parts = _STEM.fullmatch(stem)
    assert parts is not None
    model = parts["model"]
    return folder + slash + _STEMS[format].get(model, model) + stem[len(model) :] + _SUFFIXES[format]
