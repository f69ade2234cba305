"""Texts for a model to be run on, from a file."""

from __future__ import annotations

import json
from pathlib import Path

from erestore.errors import AccessError, NotFoundError, UsageError

_TABLES = (".json", ".csv", ".tsv", ".parquet")
"""Files whose lines are not texts."""


def read_texts(path: Path, samples: int) -> list[str]:
    """Return at most `samples` of the texts of a file, evenly spread; empty lines are left out.

    Raises
    ------
    NotFoundError
        If there is no such file.
    UsageError
        If it has no texts, or is of another kind.
    AccessError
        If it cannot be read.
    """
    if path.suffix.lower() in _TABLES:
        raise UsageError(
            f"'{path}' is not a text file.", hint="Give --data a file with one text a line, or a .jsonl file."
        )
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file '{path}'.", hint="Give --data a file with one text a line.") from None
    except UnicodeDecodeError:
        raise UsageError(f"'{path}' is not text in UTF-8.", hint="Give --data a file with one text a line.") from None
    except OSError as error:
        raise AccessError(f"'{path}' cannot be read: {error.strerror}.") from error
    is_json = path.suffix.lower() == ".jsonl"
    texts = [_text(path, number, line) if is_json else line for number, line in enumerate(lines, 1)]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UsageError(f"'{path}' has no texts.", hint="Give --data a file with one text a line.")
    number = min(samples, len(texts))
    return [texts[index * len(texts) // number] for index in range(number)]


def _text(path: Path, number: int, line: str) -> str:
    if not line.strip():
        return ""
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise UsageError(
            f"Line {number} of '{path}' is not a JSON object with \"text\".", hint='Write lines like {"text": "..."}.'
        )
    return text
