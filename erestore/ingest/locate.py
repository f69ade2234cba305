"""Where a base can come from when it is not in the store yet: a path, or the local Hugging Face cache. Never the network."""

from __future__ import annotations

import re
from pathlib import Path

from erestore.errors import NotFoundError

_CACHED = re.compile(r"/models--(?P<id>[\w.-]+)/snapshots/[0-9a-f]{40}(?P<below>/.*)?$")
"""A snapshot in the Hugging Face cache, whose folder is named for a commit, or a folder in it."""
_COMPONENT = re.compile(
    r"(?:unet|vae|vqvae|transformer|text_encoder|image_encoder|controlnet|prior|decoder)(?:_\d)?|\d+_[A-Z]\w+"
)
"""Folders that every pipeline of diffusers, or every model of sentence-transformers, has under the same name."""
_PARTS = ("model_index.json", "modules.json")
"""Files that say of which folders a pipeline is made."""
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


def default_name(path: str | Path) -> str:
    """Return a variant's default name; a component is named after its pipeline too: ``a/unet`` is ``a-unet``."""
    folder = Path(path).expanduser().absolute()
    is_component = _COMPONENT.fullmatch(folder.name) or any((folder.parent / file).is_file() for file in _PARTS)
    if is_component and folder.is_dir() and not _CACHED.search(folder.as_posix()):
        return name_of(f"{folder.parent.name}-{folder.name}")
    return name_of(path)


def name_of(path: str | Path) -> str:
    """Return the name of the directory at `path`, or of the file without suffixes, as a ref may be called."""
    resolved = Path(path).expanduser()
    if cached := _CACHED.search(resolved.as_posix()):
        return cached["id"].replace("--", "/") + (cached["below"] or "").rstrip("/").replace("/", "-")
    name = (resolved if resolved.name not in ("", "..") else resolved.resolve()).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return cleaned or "model"
