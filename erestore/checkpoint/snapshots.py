"""The Hugging Face cache on disk: where the links of a snapshot lead, and how to complete a download."""

from __future__ import annotations

import re
from pathlib import Path

_SNAPSHOT = re.compile(r"models--(?P<id>[\w.-]+)/snapshots/[^/]+")


def blobs_of(directory: Path) -> Path | None:
    """Return the folder that links in a snapshot lead to, for a snapshot or a folder inside one; None elsewhere."""
    resolved = directory.resolve()
    for folder in (resolved, *resolved.parents):
        if folder.parent.name == "snapshots":
            return folder.parent.parent / "blobs"
    return None


def fetch_hint(directory: Path) -> str:
    """Say how to complete a snapshot or a download into `directory`; empty if it is neither."""
    if cached := _SNAPSHOT.search(directory.resolve().as_posix()):
        return f"The download is not complete: `hf download {cached['id'].replace('--', '/')}` finishes it"
    if any((directory / ".cache" / "huggingface" / "download").rglob("*.incomplete")):
        return "The download is not complete: repeat the `hf download` that made this folder"
    return ""
