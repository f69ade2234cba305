"""What a checkpoint is called where nobody names it."""

from __future__ import annotations

import re
from pathlib import Path

_CACHED = re.compile(r"/models--(?P<id>[\w.-]+)/snapshots/[0-9a-f]{40}(?P<below>/.*)?$")
"""A snapshot in the Hugging Face cache, whose folder is named for a commit, or a folder in it."""
_COMPONENT = re.compile(
    r"(?:unet|vae|vqvae|transformer|text_encoder|image_encoder|controlnet|prior|decoder)(?:_\d)?|\d+_[A-Z]\w+"
)
"""Folders that every pipeline of diffusers, or every model of sentence-transformers, has under the same name."""
_PARTS = ("model_index.json", "modules.json")
"""Files that say of which folders a pipeline is made."""
_SUFFIXES = (".safetensors", ".pth.tar", ".bin", ".pth", ".pt", ".ckpt")


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
