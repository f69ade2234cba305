"""Whether an adapter was trained over quantised weights (QLoRA), as far as its files say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from erestore.checkpoint.peft_configuration import CONFIGURATION

_QUANTISED_NAME = re.compile(
    r"(?i)(?:^|[-_./])(?:bnb|[48]bit|int[48]|nf4|gptq|awq|fp8|mxfp4|nvfp4|w4a16|w8a8|w8a16)(?:$|[-_./])"
)
_CARD = re.compile(r"following `([\w-]+)` quantization config was used")
"""What PEFT writes into an adapter's model card."""


def quantised_training(directory: Path) -> str:
    """Return what an adapter was trained over, if its files say that this was quantised; else nothing.

    Parameters
    ----------
    directory : Path
        The adapter's.
    """
    try:
        configuration = json.loads((directory / CONFIGURATION).read_bytes())
        card = directory / "README.md"
        named = _CARD.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    except (OSError, ValueError, RecursionError):
        return ""
    base = configuration.get("base_model_name_or_path") if isinstance(configuration, dict) else None
    if isinstance(base, str) and _QUANTISED_NAME.search(base):
        return base
    return f"{named[1]} codes" if named else ""
