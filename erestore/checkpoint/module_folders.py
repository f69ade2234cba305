"""Weights in folders of a checkpoint: the modules that sentence-transformers keeps beside, or in place of, a model.

``modules.json`` lists the folders that the library loads, a Router's configuration the trunks inside its own. Without that
list the library's form of names (``2_Dense``) says what they are, where there is a model at the root. A folder that is
listed nowhere is loaded by nobody; what it holds stays a side file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.side_names import check_side_name
from erestore.checkpoint.weights import Weights, find_weights
from erestore.checkpoint.weights_checkpoint import WeightReader
from erestore.errors import CheckpointError
from erestore.records import module_prefix

if TYPE_CHECKING:
    import torch

MODULES = "modules.json"
"""Where sentence-transformers lists the modules of a model, each with its folder."""

_ROUTER = "router_config.json"
_MODULE = re.compile(r"\d+_[A-Za-z]\w*")
_LOADED = re.compile(r"(?:pytorch_)?model(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
"""What the library, or transformers inside it, finds in a module's folder. Anything else there is not loaded."""


class ModuleFile:
    """A weight file in a module's folder, whose tensors go by the folder and their names: ``2_Dense/linear.weight``."""

    def __init__(self, reader: WeightReader, module: str) -> None:
        prefix = module_prefix(module)
        self.module = module
        self.format = reader.format
        self.metadata, self.structure = reader.metadata, reader.structure
        self.tensors = {
            prefix + name: TensorInfo(prefix + name, info.dtype, info.shape) for name, info in reader.tensors.items()
        }
        self.ties = tuple(tuple(prefix + name for name in group) for group in reader.ties)
        self._reader, self._start = reader, len(prefix)

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor."""
        return self._reader.read(name[self._start :])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Return rows of one tensor."""
        return self._reader.rows(name[self._start :], start, stop)

    def close(self) -> None:
        """Release the file."""
        self._reader.close()


def find_module_weights(root: Path, *, has_model: bool) -> dict[str, Weights]:
    """Find the weights of modules, by the POSIX path of their folder.

    Parameters
    ----------
    root : Path
        A checkpoint's directory.
    has_model : bool
        Whether there are weights at the top level.

    Raises
    ------
    CheckpointError
        If ``modules.json`` is malformed.
    """
    modules = {}
    for module in _folders(root, has_model=has_model):
        if not any(_LOADED.fullmatch(path.name) for path in (root / module).iterdir()):
            continue
        weights = find_weights(root / module)
        if weights and all(_LOADED.fullmatch(name) for name in weights.files):
            modules[module] = weights
    return modules


def _folders(root: Path, *, has_model: bool) -> Iterator[str]:
    """Yield folders that are there; one of a Router is followed by its trunks."""
    if (root / MODULES).is_file():
        listed: Iterator[str] = _listed(root / MODULES)
    else:
        listed = (path.name for path in sorted(root.iterdir()) if has_model and _MODULE.fullmatch(path.name))
    for folder in listed:
        if not (root / folder).is_dir() or (root / folder).is_symlink():
            continue
        yield folder
        trunks = _read_json(root / folder / _ROUTER)
        types = trunks.get("types") if isinstance(trunks, dict) else None
        for trunk in sorted(types) if isinstance(types, dict) else ():
            if (root / folder / trunk).is_dir():
                yield check_side_name(f"{folder}/{trunk}")


def _listed(path: Path) -> Iterator[str]:
    modules = _read_json(path)
    try:
        folders = [PurePosixPath(module["path"]).as_posix() for module in modules]
        yield from dict.fromkeys(check_side_name(folder) for folder in folders if folder != ".")
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"'{MODULES}' is malformed.", hint="Save the model again.") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def qualified(readers: Mapping[str, WeightReader], module: str) -> dict[str, WeightReader]:
    """Return the readers of a module's files, by POSIX path inside the checkpoint."""
    return {module_prefix(module) + name: ModuleFile(reader, module) for name, reader in readers.items()}
