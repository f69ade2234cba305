"""How a variant looks outside the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from erestore.records.reading import read_shape, read_text, read_text_map, read_texts, read_typed, reading


@dataclass(frozen=True)
class LayoutTensor:
    """One tensor under the variant's own name: the manifest key that holds its value, its dtype and shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LayoutFile:
    """One weight file: POSIX path, own names in order, header metadata."""

    name: str
    tensors: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How a variant looks outside the store: names, dtypes, ties, files; shared by variants that agree.

    Attributes
    ----------
    format : str
        ``safetensors`` or ``torch``.
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
        return {
            "format": self.format,
            "is_directory": self.is_directory,
            "files": [[file.name, list(file.tensors), dict(file.metadata)] for file in self.files],
            "tensors": {name: [t.key, t.dtype, list(t.shape)] for name, t in self.tensors.items()},
            "ties": [list(group) for group in self.ties],
            "side_files": dict(self.side_files),
            "structure": self.structure,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a stored JSON object."""
        fields = {"format", "is_directory", "files", "tensors", "ties", "side_files", "structure"}
        with reading("layout", record, fields):
            return cls(
                format=read_text(record["format"]),
                is_directory=read_typed(record["is_directory"], bool),
                files=tuple(
                    LayoutFile(read_text(name), read_texts(names), read_text_map(metadata))
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
