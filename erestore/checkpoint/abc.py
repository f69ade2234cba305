"""What a user's checkpoint looks like to the rest of erestore, whatever its format.

Tensors are read one at a time; nothing here holds more than one of them. Data types are named as safetensors names
them (``F32``, ``BF16``, ...).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from erestore.checkpoint.quantised_weights import stated_quantisation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorInfo:
    """Name, safetensors data type and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: its POSIX path inside the checkpoint, the names it holds in order, its header's metadata.

    Of a file in a module folder also the folder and its format; its tensors' names begin with the folder, which the names
    inside the file do not (see :class:`erestore.records.LayoutFile`).
    """

    name: str
    tensors: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    module: str = ""
    format: str = ""


class Checkpoint(ABC):
    """A user's checkpoint, opened for reading.

    Attributes
    ----------
    path : Path
        The directory or file that was opened.
    is_directory : bool
        Whether `path` is a directory (else one bare weight file).
    format : str
        ``safetensors``, ``torch`` or ``peft``: how the weights are stored.
    tensors : Mapping[str, TensorInfo]
        Every tensor by its own name, in file order; of tied tensors each name is present.
    ties : tuple of tuple of str
        Groups of two or more names that share one memory, each group in file order.
    files : tuple of WeightFile
    side_files : Mapping[str, Path]
        Every other file to keep, by POSIX path relative to `path`, each name checked against the allow-list grammar.
    left_out : Mapping[str, str]
        Files that are not kept, and why in a few words.
    structure : Any or None
        For ``torch`` files that are more than a plain ``dict`` of tensors: by file name, the JSON skeleton that puts
        the tensors back in place (see :mod:`erestore.checkpoint.skeleton`).
    """

    path: Path
    is_directory: bool
    format: str
    tensors: Mapping[str, TensorInfo]
    ties: tuple[tuple[str, ...], ...]
    files: tuple[WeightFile, ...]
    side_files: Mapping[str, Path]
    left_out: Mapping[str, str]
    structure: Any

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for who commits or imports this, as about files that may not be meant."""
        return ()

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """What its configuration says of how its weights are quantised; empty where it says nothing."""
        return stated_quantisation(self.side_files, lambda name: self.side_files[name].read_bytes())

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Return one tensor: on the CPU, contiguous, bits untouched; not to be written to.

        ``F4`` comes as torch holds it, two elements in one: half the last dimension of its :class:`TensorInfo`.

        Raises
        ------
        CheckpointError
            If the file is truncated or was changed since it was opened.
        """

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start:stop`` of one tensor, of at least two dimensions, as :meth:`read` returns the whole."""
        return self.read(name)[start:stop]

    def rows_from(self, name: str, start: int) -> torch.Tensor:
        """Return the rows of one tensor, of at least one dimension, from `start` on."""
        return self.read(name)[start:]

    @abstractmethod
    def close(self) -> None:
        """Release files and maps."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
