"""Where a base can come from when it is not in the store yet: a path, or the local Hugging Face cache. Never the network."""

from __future__ import annotations

import re
from pathlib import Path

from erestore.errors import NotFoundError


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
        f"There is no base '{base}': it is not a ref of this store, a path, or a model in the local Hugging Face cache.",
        hint="Give a path, or `erestore import PATH --name NAME` first; `erestore branch` lists the refs.",
    )
