"""Which side files hold weights that are not read: judged by content, and by name where content does not tell.

What is called ``vocab.bin`` may be a list of words, and a pickled classifier may be called anything. Formats that start with
a mark of their own are known by it. Others have none: spaCy's msgpack, bare arrays of floats. Those go by their names, and
text is no weights.
"""

from __future__ import annotations

import re
from pathlib import Path

START = 4096
"""Bytes of a file's start that are enough to tell."""

_NO_WEIGHTS = re.compile(
    r"(?:.*/)?(?:training_args\.bin|[^/]*\.(?:json|jsonl|md|txt|jinja|ya?ml|toml|py|csv))", re.IGNORECASE
)
_VOCABULARY = re.compile(r"(?:.*/)?[^/]*(?:vocab|merges|dict|tokenizer|sentencepiece)[^/]*")
_PICKLED = re.compile(r".*\.(?:pkl|pickle|joblib)")
_WEIGHTS = re.compile(
    r"(?:.*/)?(?:model|[^/]+\.(?:safetensors|bin|pt|pth|ckpt|tar|npz|npy|h5|hdf5|keras|msgpack|nemo|onnx|tflite|gguf))"
)

_MARKS = (b"\x93NUMPY", b"\x89HDF\r\n\x1a\n", b"GGUF")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ZIP = b"PK\x03\x04"
_INSIDE_ZIP = re.compile(
    rb"(?:.*/)?(?:data\.pkl|[^/]+\.npy|\.data/serialization_id|\.format_version|model\.weights\.h5)"
)
_LONGEST_HEADER = 100_000_000
"""Of a safetensors file, as the library reads it."""


def holds_weights(name: str, start: bytes) -> bool:
    """Return whether a side file holds weights: a file of tensors, arrays or pickled objects.

    Parameters
    ----------
    name : str
        POSIX path inside the checkpoint.
    start : bytes
        The first :data:`START` bytes of the content, or all of it.
    """
    if not may_hold_weights(name):
        return False
    if _PICKLED.fullmatch(name) or _PICKLE.match(start) or start.startswith(_MARKS) or _is_safetensors(start):
        return True
    if start.startswith(_ZIP) and _INSIDE_ZIP.fullmatch(_first_in_zip(start)):
        return True
    return bool(_WEIGHTS.fullmatch(name)) and not _VOCABULARY.fullmatch(name) and not _is_text(start)


def may_hold_weights(name: str) -> bool:
    """Return whether a file of this name can hold weights, so that its content has to be looked at."""
    return not _NO_WEIGHTS.fullmatch(name)


def read_start(path: Path) -> bytes:
    """Return the start of a file."""
    with path.open("rb") as file:
        return file.read(START)


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def _first_in_zip(start: bytes) -> bytes:
    return start[30 : 30 + int.from_bytes(start[26:28], "little")]


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.end < len(start):  # not a character that the end cut off
            return False
        text = start[: error.start].decode()
    return "\0" not in text
