"""The header of a safetensors file: strict reading, and a layout that lets file systems share untouched blocks.

Source: the safetensors format description. Its rules are enforced here and not by the library, so that every violation
is one sentence, and because the library cannot hand out a header without opening the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from erestore.checkpoint.dtypes import DTYPES, tensor_bytes
from erestore.errors import CheckpointError

LARGEST_HEADER = 100_000_000
"""In bytes, as the library limits it; metadata of training tools can be tens of MB."""

ALIGNMENT = 4096
"""Where tensor data starts: file systems share blocks of this size between files (reflink)."""

SMALL_FILE = 1 << 16
"""Bytes of data from which on sharing blocks is worth a padded header. Smaller files are as the library writes them, so that a
file of one data type comes back byte for byte."""


class HeaderEntry(NamedTuple):
    """One tensor: code, shape, and where its data is, in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What a header says: tensors by name (sorted, as their order has no meaning) and free-form metadata."""

    entries: Mapping[str, HeaderEntry]
    metadata: Mapping[str, str]


def header_length(prefix: bytes, file_size: int) -> int:
    """Return the length of the header in bytes from the first 8 bytes of a file.

    Raises
    ------
    ValueError
        With the reason, if there cannot be such a header.
    """
    if len(prefix) < 8:
        raise ValueError("it is shorter than any safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header would be {length} bytes long, more than the {LARGEST_HEADER} accepted")
    if 8 + length > file_size:
        raise ValueError("it ends inside its header")
    return length


def parse_header(content: bytes, file_size: int) -> Header:
    """Read and check a header.

    Parameters
    ----------
    content : bytes
        The JSON text, padding included.
    file_size : int
        In bytes; the data must fill the file exactly, without holes or overlaps.

    Raises
    ------
    CheckpointError
        If a tensor has a data type that erestore does not keep.
    ValueError
        With the reason, if anything breaks a rule of the format.
    """
    if content[:1] != b"{":
        raise ValueError("its header does not start as JSON")
    try:
        fields = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    except _DuplicateError:
        raise
    except ValueError as error:
        raise ValueError("its header is not valid JSON") from error
    metadata = fields.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not a table of strings")
    for text in (*fields, *metadata, *metadata.values()):
        _check_text(text)
    data_start = 8 + len(content)
    entries = {name: _entry(name, fields[name], data_start) for name in sorted(fields)}
    _check_cover(entries, data_start, file_size)
    return Header(entries, metadata)


def build_header(tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]) -> tuple[bytes, Header]:
    """Lay tensors out in a new file.

    Whole multiples of 4096 bytes come first, the biggest first, so that each starts on a block boundary; the others
    follow by size of element, so that each is aligned to its own element. In a small file all are in the latter order.

    Parameters
    ----------
    tensors : Mapping[str, (str, sequence of int)]
        Code and shape by name.
    metadata : Mapping[str, str]

    Returns
    -------
    prefix : bytes
        Everything before the data.
    header : Header
        Its entries in the order in which their data must follow.
    """
    sizes = {name: tensor_bytes(code, shape) for name, (code, shape) in tensors.items()}
    alignment = ALIGNMENT if sum(sizes.values()) >= SMALL_FILE else 8

    def place(name: str) -> tuple[bool, int, int, str]:
        bits = DTYPES[tensors[name][0]].bits
        if alignment < ALIGNMENT:
            return True, -bits, 0, name
        is_aligned = sizes[name] % ALIGNMENT == 0 and sizes[name] > 0
        return not is_aligned, 0 if is_aligned else -bits, -sizes[name], name

    fields: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    order = sorted(tensors, key=place)
    offset = 0
    for name in order:
        code, shape = tensors[name]
        end = offset + sizes[name]
        fields[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    if len(text) > LARGEST_HEADER:
        raise CheckpointError(f"{len(tensors)} tensors are too many for one safetensors file.")
    data_start = 8 + len(text)
    entries = {name: _entry(name, fields[name], data_start) for name in order}
    return len(text).to_bytes(8, "little") + text, Header(entries, metadata)


class _DuplicateError(ValueError):
    """A JSON object has one key twice: readers would disagree on which one counts."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _DuplicateError("its header has one key twice")
    return record


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which no record could hold
        raise ValueError("its header holds text that is not Unicode") from error


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise ValueError
    return tuple(value)


def _entry(name: str, field: Any, data_start: int) -> HeaderEntry:
    try:
        code, shape, (start, stop) = field["dtype"], _sizes(field["shape"]), _sizes(field["data_offsets"])
        if not isinstance(code, str) or set(field) != {"dtype", "shape", "data_offsets"}:
            raise ValueError  # noqa: TRY301 - one sentence for every malformed entry
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its entry for {name[:80]!r} is malformed") from error
    if code not in DTYPES:
        raise CheckpointError(
            f"The tensor '{name}' has the data type {code[:20]!r}, which erestore cannot keep.",
            hint="Convert it to one of " + ", ".join(DTYPES) + ".",
        )
    # Bounded like this a shape fits torch's signed 64-bit sizes and strides even where a dimension is zero.
    if len(shape) > 32 or math.prod(max(size, 1) for size in shape) >= 2**56:
        raise ValueError(f"the shape of {name[:80]!r} is out of range")
    if code == "F4" and (not shape or shape[-1] % 2):
        raise ValueError(f"the shape of {name[:80]!r} splits a byte")
    if stop - start != tensor_bytes(code, shape):
        raise ValueError(f"the data of {name[:80]!r} has another size than its shape asks for")
    return HeaderEntry(code, shape, data_start + start, data_start + stop)


def _check_cover(entries: Mapping[str, HeaderEntry], data_start: int, file_size: int) -> None:
    offset = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != offset:
            raise ValueError("its tensors overlap or leave holes")
        offset = entry.stop
    if offset > file_size:
        raise ValueError(f"it is truncated: {file_size} bytes of {offset} are there")
    if offset < file_size:
        raise ValueError(f"it has {file_size - offset} bytes that belong to no tensor")
