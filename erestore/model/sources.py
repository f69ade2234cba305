"""Where a base can come from when it is not in the store yet: a path, or the local Hugging Face cache. Never the network."""

from __future__ import annotations

import re
from pathlib import Path

from erestore.errors import NotFoundError

_CACHED = re.compile(r"/models--(?P<id>[\w.-]+)/snapshots/[0-9a-f]{40}/?$")
"""A snapshot in the Hugging Face cache, whose folder is named for a commit."""
_SUFFIXES = (".safetensors", ".pth.tar", ".bin", ".pth", ".pt", ".ckpt")


def find_source(base: str) -> Path:
    """Return the local checkpoint that `base` names.

    Parameters
    ----------
    base : str
        A path, or a model id such as ``roberta-large`` or ``org/name`` whose files a library has downloaded before.

    Raises
    ------
    NotFoundError
        If it is neither; what was looked at is said.
    """
    path = Path(base).expanduser()
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(base, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
            pass
    raise NotFoundError(
        f"There is no base '{base}': no ref of this store, no path, and no model in the local Hugging Face cache.",
        hint="Give a path, or `erestore import PATH --name NAME` first; `erestore branch` lists the refs.",
    )


def name_of(path: str | Path) -> str:
    """Return the name that a checkpoint at `path` gets by default: its directory's, or its file's without suffixes."""
    resolved = Path(path).expanduser()
    if cached := _CACHED.search(resolved.as_posix()):
        return cached["id"].replace("--", "/")
    name = (resolved if resolved.name not in ("", "..") else resolved.resolve()).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return cleaned or "model"
