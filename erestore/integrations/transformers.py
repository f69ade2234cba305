"""Models and tokenizers of the library transformers, from a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from erestore.errors import CheckpointError, UsageError

LONGEST = 512
"""Tokens of a text that are looked at."""
BATCH = 8

Tokenize = Callable[[Sequence[str]], Iterator[dict[str, torch.Tensor]]]
"""Texts to inputs of the model, a batch at a time."""


def load_model(directory: Path) -> torch.nn.Module:
    """Load the model without a head that a directory holds, on the CPU; nothing is downloaded, no code of it is run.

    Raises
    ------
    UsageError
        If transformers is not installed.
    CheckpointError
        If it is no model that transformers knows.
    """
    model: torch.nn.Module = _load("AutoModel", "model", directory)
    return model


def load_tokenizer(directory: Path) -> Tokenize:
    """Load the tokenizer that a directory holds; see :func:`load_model` for what is raised."""
    tokenizer = _load("AutoTokenizer", "tokenizer", directory)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    length = min(LONGEST, tokenizer.model_max_length)

    def tokenize(texts: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
        ordered = sorted(texts, key=len)  # so that little of a batch is padding
        knows = False
        for start in range(0, len(ordered), BATCH):
            part = ordered[start : start + BATCH]
            inputs = dict(tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt"))
            knows = knows or not set(inputs["input_ids"].flatten().tolist()) <= set(tokenizer.all_special_ids)
            yield inputs
        if not knows:
            raise CheckpointError(
                "The base's tokenizer, if it has one, knows no word of these texts.",
                hint="Give inputs of the model from Python: Store.calibrate(base, inputs).",
            )

    return tokenize


def _load(kind: str, what: str, directory: Path) -> Any:
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "Calibrating with texts needs the library transformers, which is not installed.",
            hint="`pip install transformers`, or give a live model and its inputs to Store.calibrate.",
        ) from None
    logging: Any = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return getattr(transformers, kind).from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a configuration can make the library raise
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise CheckpointError(
            f"transformers cannot load a {what} from this base: {reason}.",
            hint="Give a live model and its inputs from Python: Store.calibrate(base, inputs, model=model).",
        ) from error
    finally:
        logging.set_verbosity(before[0])
        if before[1]:
            logging.enable_progress_bar()
