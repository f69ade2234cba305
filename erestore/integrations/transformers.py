"""Models and tokenizers of the library transformers, from a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from erestore.errors import CheckpointError, UsageError

LONGEST = 512
"""Tokens of a text that are looked at."""
BATCH = 8


def load_model(directory: Path) -> torch.nn.Module:
    """Load the model without a head that a directory holds, on the CPU; nothing is downloaded, no code of it is run.

    Weights that the library does not find under the names that it expects are made up by it.

    Raises
    ------
    UsageError
        If transformers is not installed.
    CheckpointError
        If it is no model that transformers knows, or one that takes more than texts.
    """
    model: torch.nn.Module = _load("AutoModel", "model", directory)
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            "The model is an encoder with a decoder, which takes more than texts.",
            hint="Give inputs of the model from Python: the argument `inputs`.",
        )
    return model


def tokenize(directory: Path, texts: Sequence[str], longest: int | None) -> list[dict[str, torch.Tensor]]:
    """Turn texts into inputs of the model with the tokenizer that a directory holds, in batches.

    Parameters
    ----------
    directory : Path
    texts : sequence of str
    longest : int or None
        Tokens that the model takes, if that is known.

    Raises
    ------
    UsageError
        If transformers is not installed.
    CheckpointError
        If there is no tokenizer, or one that knows nothing of these texts.
    """
    tokenizer = _load("AutoTokenizer", "tokenizer", directory)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    length = min(LONGEST, tokenizer.model_max_length, longest or LONGEST)
    batch = BATCH if tokenizer.pad_token is not None else 1
    ordered = sorted(texts, key=len)  # so that little of a batch is padding
    batches = [
        dict(
            tokenizer(
                ordered[start : start + batch],
                padding=batch > 1,
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
        )
        for start in range(0, len(ordered), batch)
    ]
    special = set(tokenizer.all_special_ids)
    if all(set(inputs["input_ids"].flatten().tolist()) <= special for inputs in batches):
        raise CheckpointError(
            "The checkpoint's tokenizer, if it has one, knows no word of these texts.",
            hint="Give inputs of the model from Python: the argument `inputs`.",
        )
    return batches


def require_transformers() -> Any:
    """Return the library.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "Running a model on texts needs the library transformers, which is not installed.",
            hint="`pip install transformers`, or give a live model and its inputs from Python.",
        ) from None
    return transformers


def _load(kind: str, what: str, directory: Path) -> Any:
    transformers = require_transformers()
    logging: Any = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return getattr(transformers, kind).from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a configuration can make the library raise
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise CheckpointError(
            f"transformers cannot load a {what} from this checkpoint: {reason}.",
            hint="Give a live model and its inputs from Python: the arguments `model` and `inputs`.",
        ) from error
    finally:
        logging.set_verbosity(before[0])
        if before[1]:
            logging.enable_progress_bar()
