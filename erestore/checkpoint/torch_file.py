"""One file written by ``torch.save``, read without ever running code of its own."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import describe, tensor_bytes
from erestore.checkpoint.skeleton import DTENSOR, GATHER, dismantle
from erestore.errors import CheckpointError

if TYPE_CHECKING:
    import torch

ZIP_MAGIC = b"PK\x03\x04"

_NEEDS_CODE = re.compile(
    r"(?:GLOBAL|[Uu]nsupported class|can only build .*? but got|allowlisted via .*? but got) (?:<class ')?([\w.]+)",
    re.DOTALL,
)
_NEW_PROTOCOL = re.compile(r"Unsupported operand 1(?:4[0-9]|5[01])\b")
"""Opcodes that came with protocols 4 and 5 (SHORT_BINUNICODE to READONLY_BUFFER); the weights-only reader knows 2."""
_AGAIN = "Save it again where it was made: model.save_pretrained(directory) or torch.save(model.state_dict(), path)."


class TorchFile:
    """A torch file, opened for reading.

    Files of today's zip format are memory-mapped, so that only what is read takes memory. The format before it
    (torch < 1.6) cannot be mapped and is loaded whole.

    Attributes
    ----------
    tensors : Mapping[str, TensorInfo]
        By name, in file order; names as :func:`erestore.checkpoint.skeleton.dismantle` gives them.
    ties : tuple of tuple of str
        Names of one and the same memory, offset, shape and strides. Other overlapping views are separate tensors.
    structure : object or None
        The skeleton, if the file is more than a plain ``dict`` of tensors.
    """

    format = "torch"
    module = ""
    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors, self.structure = dismantle(_load(path))
        if not all(_is_unicode(name) for name in self._tensors):
            raise _damaged(path)
        self.tensors = {name: TensorInfo(name, *describe(tensor, name)) for name, tensor in self._tensors.items()}
        self.ties = _ties(self._tensors)
        self._refuse_expansion()

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, contiguous; it may share the file's mapped memory, so it must not be written to."""
        return self._tensors[name].detach().resolve_conj().resolve_neg().contiguous()

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows of one tensor of at least two dimensions, as :meth:`read` returns the whole."""
        return self._tensors[name].detach()[start:stop].resolve_conj().resolve_neg().contiguous()

    def close(self) -> None:
        """Release the tensors and, with the last of them, the map."""
        self._tensors = {}

    def _refuse_expansion(self) -> None:
        """Refuse a view that repeats a few numbers to more than any memory holds."""
        size = max(self.path.stat().st_size, 1 << 20)
        for name, info in self.tensors.items():
            if tensor_bytes(info.dtype, info.shape) > size:
                raise CheckpointError(
                    f"The tensor '{name}' of '{self.path.name}' is larger than the whole file.",
                    hint="Save it with .clone(), or leave it out.",
                )


def holds_torch_archive(path: Path) -> bool:
    """Return whether a zip file is one that torch wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False


def _load(path: Path) -> Any:
    import torch

    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
    if is_zip:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about typed storages inside torch itself
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CheckpointError:
        raise
    except Exception as error:  # a hostile pickle can make the unpickler raise anything
        raise _explain(path, error) from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _damaged(path) from error
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(
            f"'{path.name}' is a TorchScript program, not a state dict.",
            hint="Save its weights: torch.save(torch.jit.load(path).state_dict(), other_path).",
        )
    # torch never compresses; mapped as they stand, compressed entries would be read as weights.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"'{path.name}' holds compressed entries, which torch does not write.", hint=_AGAIN)


def _explain(path: Path, error: Exception) -> CheckpointError:
    reason = str(error)
    if "to load DTensors" in reason:
        return CheckpointError(f"'{path.name}' holds DTensors, {DTENSOR}.", hint=GATHER)
    if "to load nested" in reason:
        return CheckpointError(
            f"'{path.name}' holds nested tensors, which erestore does not keep.",
            hint="Save their parts as tensors of their own: tensor.unbind().",
        )
    if _NEW_PROTOCOL.search(reason):
        return CheckpointError(
            f"'{path.name}' was saved with a pickle protocol later than 3, which torch reads only by running code.",
            hint="If you trust it, save it with protocol 2: "
            f"torch.save(torch.load('{path.name}', weights_only=False), 'other.pt').",
        )
    if match := _NEEDS_CODE.search(reason):
        return CheckpointError(
            f"'{path.name}' needs to run code ({match.group(1).rstrip('.')}) to be read, which erestore never does.",
            hint=_AGAIN,
        )
    return _damaged(path)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"'{path.name}' is damaged or not a torch file.", hint="Copy or download it again.")


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no record could hold
        return False
    return True


def _ties(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and not tensor.is_conj() and not tensor.is_neg():
            memory = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
            groups.setdefault((*memory, tensor.shape, tensor.stride(), tensor.dtype), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
