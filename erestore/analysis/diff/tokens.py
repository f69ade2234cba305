"""What the rows of an embedding stand for: the words of a vocabulary, read from the tokenizer's own files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

_LARGEST_FILE = 64 << 20
_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
"""In order of preference: the first has added tokens too."""


def read_tokens(names: Iterable[str], read: Callable[[str], bytes]) -> dict[int, str]:
    """Return the tokens of a model by id, spelled as its vocabulary spells them.

    Parameters
    ----------
    names : iterable of str
        POSIX paths of the side files; those in subdirectories are not looked at.
    read : Callable
        Path to content.

    Returns
    -------
    dict of int to str
        Empty where there is no vocabulary that can be read.
    """
    there = set(names)
    for name in _FILES:
        if name in there and len(content := read(name)) <= _LARGEST_FILE:
            tokens = _parse(name, content)
            if tokens:
                return tokens
    return {}


def _parse(name: str, content: bytes) -> dict[int, str]:
    try:
        text = content.decode()
        if name.endswith(".txt"):
            # Only line feeds end a token: other separators of `splitlines` are tokens of real vocabularies.
            return dict(enumerate(text.removesuffix("\n").split("\n")))
        value = json.loads(text)
        return _of_json(value if name == "tokenizer.json" else {"model": {"vocab": value}})
    except (ValueError, RecursionError):
        return {}


def _of_json(value: Any) -> dict[int, str]:
    """Read a tokenizer, whose vocabulary is a mapping to ids, or pieces with scores in order of their ids."""
    if not isinstance(value, dict):
        return {}
    model = value.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    tokens: dict[int, Any] = {}
    if isinstance(words, dict):
        tokens = {index: word for word, index in words.items() if type(index) is int}
    elif isinstance(words, list):
        tokens = {index: entry[0] for index, entry in enumerate(words) if isinstance(entry, list) and entry}
    added = value.get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            tokens[entry["id"]] = entry.get("content")
    # JSON may hold halves of characters, which no file of text can.
    return {index: word.encode("utf-8", "replace").decode() for index, word in tokens.items() if isinstance(word, str)}
