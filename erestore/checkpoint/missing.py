"""What is said where there is no checkpoint; without torch, so that a slip in a path is answered at once."""

from __future__ import annotations

from pathlib import Path

from erestore.errors import NotFoundError

CHECKPOINT_KINDS = "a Hugging Face directory, a .safetensors file, a file of torch.save, or a PEFT adapter"


def no_checkpoint(path: str | Path) -> NotFoundError:
    """Return the error for a path at which there is nothing."""
    return NotFoundError(f"There is no checkpoint at '{path}'.", hint=f"Give {CHECKPOINT_KINDS}.")
