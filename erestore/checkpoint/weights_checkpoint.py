"""A checkpoint made of weight files, each read by its format's reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from erestore.checkpoint.abc import Checkpoint, TensorInfo, WeightFile
from erestore.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class WeightReader(Protocol):
    """What the reader of one weight file offers; attributes as in :class:`erestore.checkpoint.abc.Checkpoint`."""

    @property
    def format(self) -> str:
        """``safetensors`` or ``torch``."""

    @property
    def module(self) -> str:
        """Folder of the module whose weights it reads; empty for the model's own."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free-form metadata of the header."""

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names that share memory."""

    @property
    def structure(self) -> Any:
        """Skeleton, or None."""

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor."""

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows of one tensor."""

    def close(self) -> None:
        """Release the file."""


class OpenedCheckpoint(Checkpoint):
    """A checkpoint made of weight files.

    Parameters
    ----------
    path : Path
    format : str
    readers : Mapping[str, WeightReader]
        By POSIX path inside the checkpoint. They are closed with the checkpoint.

    Raises
    ------
    CheckpointError
        If two files hold a tensor of the same name.
    """

    def __init__(
        self,
        path: Path,
        format: str,  # noqa: A002 - the contract's word
        readers: Mapping[str, WeightReader],
    ) -> None:
        self.path = path
        self.is_directory = False
        self.format = format
        self.side_files: Mapping[str, Path] = {}
        self.left_out: Mapping[str, str] = {}
        self.file_notes: tuple[str, ...] = ()
        self._readers = readers
        self.files = tuple(_weight_file(name, reader) for name, reader in readers.items())
        self.ties = tuple(group for reader in readers.values() for group in reader.ties)
        self.structure = {name: reader.structure for name, reader in readers.items() if reader.structure} or None
        self.tensors = {name: info for reader in readers.values() for name, info in reader.tensors.items()}
        self._holders = {name: file for file, reader in readers.items() for name in reader.tensors}
        self._refuse_duplicates()

    @property
    def notes(self) -> tuple[str, ...]:
        """See :attr:`Checkpoint.notes`."""
        return self.file_notes

    def set_side_files(self, side_files: Mapping[str, Path], left_out: Mapping[str, str]) -> None:
        """Make this the checkpoint of a whole directory, with its other files; a bare file has none."""
        self.is_directory, self.side_files, self.left_out = True, side_files, left_out

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor: on the CPU, contiguous, bits untouched; see the contract."""
        return self._readers[self._holders[name]].read(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows of one tensor; see the contract."""
        return self._readers[self._holders[name]].rows(name, start, stop)

    def close(self) -> None:
        """Release files and maps."""
        for reader in self._readers.values():
            reader.close()

    def _refuse_duplicates(self) -> None:
        for file in self.files:
            for name in file.tensors:
                if self._holders[name] != file.name:
                    raise CheckpointError(
                        f"The tensor '{name}' is both in '{file.name}' and in '{self._holders[name]}'.",
                        hint="Remove the file that does not belong to the model, or commit one file by its path.",
                    )


def _weight_file(name: str, reader: WeightReader) -> WeightFile:
    format_found = reader.format if reader.module else ""
    return WeightFile(name, tuple(reader.tensors), reader.metadata, reader.module, format_found)
