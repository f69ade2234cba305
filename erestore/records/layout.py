"""How a variant looks outside the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from erestore.records.parse import read_shape, read_text, read_text_map, read_texts, read_typed, reading


@dataclass(frozen=True)
class LayoutTensor:
    """One tensor under the variant's own name: the manifest key that holds its value, its dtype and shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayoutFile:
    """One weight file: POSIX path, own names in order, header metadata.

    A file of a module folder (`module`, a POSIX path) holds its tensors under shorter names than the variant has for them:
    `prefix` is left out. It has a format of its own; other files have the layout's.
    """

    name: str
    tensors: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    module: str = ""
    format: str = ""

    @property
    def prefix(self) -> str:
        """What own names begin with that the names inside the file lack."""
        return module_prefix(self.module)


@dataclass(frozen=True)
class Layout:
    """How a variant looks outside the store: names, dtypes, ties, files; shared by variants that agree.

    Attributes
    ----------
    format : str
        ``safetensors`` or ``torch``: of the weight files outside module folders.
    is_directory : bool
    files : tuple of LayoutFile
    tensors : Mapping[str, LayoutTensor]
        By own name. Tied names share one manifest key.
    ties : tuple of tuple of str
    side_files : Mapping[str, str]
        POSIX path to blob oid.
    structure : str or None
        Blob oid of the JSON skeleton of a torch file that is more than one flat state dict.
    """

    format: str
    is_directory: bool
    files: tuple[LayoutFile, ...]
    tensors: Mapping[str, LayoutTensor]
    ties: tuple[tuple[str, ...], ...] = ()
    side_files: Mapping[str, str] = field(default_factory=dict)
    structure: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return the stored JSON object."""
        modules = {file.module: file.format for file in self.files if file.module}
        record = {
            "format": self.format,
            "is_directory": self.is_directory,
            "files": [[file.name, list(file.tensors), dict(file.metadata)] for file in self.files],
            "tensors": {name: [t.key, t.dtype, list(t.shape)] for name, t in self.tensors.items()},
            "ties": [list(group) for group in self.ties],
            "side_files": dict(self.side_files),
            "structure": self.structure,
        }
        return record | {"modules": modules} if modules else record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        fields = {"format", "is_directory", "files", "tensors", "ties", "side_files", "structure"}
        with reading("layout", record, fields, optional={"modules"}):
            modules = _read_modules(record)
            return cls(
                format=read_text(record["format"]),
                is_directory=read_typed(record["is_directory"], bool),
                files=tuple(
                    _read_file(read_text(name), read_texts(names), read_text_map(metadata), modules)
                    for name, names, metadata in record["files"]
                ),
                tensors={
                    name: LayoutTensor(read_text(key), read_text(dtype), read_shape(shape))
                    for name, (key, dtype, shape) in record["tensors"].items()
                },
                ties=tuple(map(read_texts, record["ties"])),
                side_files=read_text_map(record["side_files"]),
                structure=read_typed(record["structure"], str | None),
            )

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield ``(kind, oid)`` of every object this record needs."""
        for oid in self.side_files.values():
            yield "blob", oid
        if self.structure:
            yield "blob", self.structure


def module_prefix(module: str) -> str:
    """Return what own names of a module folder's tensors begin with; of no folder, nothing."""
    return f"{module}/" if module else ""


class _File(Protocol):
    """A weight file of a checkpoint or of a layout."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Own names."""

    @property
    def module(self) -> str:
        """Folder of a module, or nothing."""


def names_inside(files: Iterable[_File]) -> dict[str, str]:
    """Return the name that every tensor has inside its file, by its own name."""
    return {name: name.removeprefix(module_prefix(file.module)) for file in files for name in file.tensors}


def _read_modules(record: Mapping[str, Any]) -> dict[str, str]:
    modules = read_text_map(record.get("modules", {}))
    files = {_folder(read_text(name)) for name, _, _ in record["files"]}
    if ("modules" in record and not modules) or not set(modules) <= files or "" in modules:
        raise ValueError
    return modules


def _read_file(name: str, tensors: tuple[str, ...], metadata: dict[str, str], modules: Mapping[str, str]) -> LayoutFile:
    folder = _folder(name)
    if folder not in modules:
        return LayoutFile(name, tensors, metadata)
    file = LayoutFile(name, tensors, metadata, folder, modules[folder])
    if not all(tensor.startswith(file.prefix) for tensor in tensors):
        raise ValueError
    return file


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
