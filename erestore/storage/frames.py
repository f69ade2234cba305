"""How objects are laid out in bytes, and what their oid covers. docs/format.md is the normative text.

A *record frame* holds one small content; a *segmented object* holds an index and many segments that can be read and
verified one by one. Both start with a check value over the bytes as stored, since a decompressor may accept damage
that happens to decode to the right content.

======  ====================================  =======================================
offset  record frame                          segmented object
======  ====================================  =======================================
0       ``EREO``                              ``ERES``
4       version u8 = 1                        version u8 = 1
5       kind u8                               kind u8
6       compression u8 (0 raw, 1 zstandard)   compression of the index u8
7       reserved u8 = 0                       alignment u8, as its logarithm to base 2
8       content length u32                    stored length of the index u32
12      check u32                             content length of the index u32
16      payload                               check u32
20                                            index, then segments
======  ====================================  =======================================

Integers are little-endian. The check is the first four bytes of the BLAKE3 of everything before it and of the payload
or stored index.
"""

from __future__ import annotations

import struct
from typing import Final

from blake3 import blake3

from erestore.compression import compress, decompress
from erestore.errors import CorruptionError, UnsupportedFormatError, UsageError

KINDS: Final = {
    "blob": 1,
    "tensors": 2,
    "base": 3,
    "residual": 4,
    "patch": 5,
    "layout": 6,
    "manifest": 7,
    "commit": 8,
    "note": 9,
    "pack": 10,  # reserved
}
"""Object kinds and their numbers in headers."""

RECORD_LIMIT: Final = 64 << 20
"""Largest content of a record frame, in bytes."""

INDEX_LIMIT: Final = 256 << 20
"""Largest index of a segmented object, in bytes."""

RECORD_HEADER: Final = 16
SEGMENTED_HEADER: Final = 20
VERSION: Final = 1

_RECORD = struct.Struct("<4sBBBBII")
_SEGMENTED = struct.Struct("<4sBBBBIII")
_RAW, _ZSTD = 0, 1
_LARGEST_ALIGNMENT = 16


def digest(*parts: bytes | bytearray | memoryview) -> str:
    """Return the BLAKE3-256 of the joined parts, in hex."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def record_oid(kind: str, content: bytes) -> str:
    r"""Return the oid of a record or small blob: BLAKE3-256 over ``<kind> <length>\0`` and the content."""
    return digest(f"{kind} {len(content)}\0".encode(), content)


def segmented_oid(kind: str, alignment: int, index: bytes) -> str:
    r"""Return the oid of a segmented object: BLAKE3-256 over ``<kind> segmented <alignment> <length>\0`` and its index.

    The index holds the digest of every segment. The alignment is part of it because it decides where they are; the word
    keeps a blob that happens to be another blob's index from having that blob's oid.
    """
    return digest(f"{kind} segmented {alignment} {len(index)}\0".encode(), index)


def is_oid(text: object) -> bool:
    """Return whether `text` is an oid: 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and len(text) == 64 and not text.strip("0123456789abcdef")


def encode_record(kind: str, content: bytes) -> bytes:
    """Frame one content, compressed where that makes it smaller.

    Raises
    ------
    UsageError
        If it is larger than :data:`RECORD_LIMIT`.
    """
    if len(content) > RECORD_LIMIT:
        raise UsageError(f"A {kind} of {len(content)} bytes is larger than one record may be ({RECORD_LIMIT}).")
    compression, payload = _smaller(content)
    start = _RECORD.pack(b"EREO", VERSION, KINDS[kind], compression, 0, len(content), 0)[:-4]
    return start + _check_value(start, payload) + payload


def record_length(kind: str, oid: str, start: bytes) -> int:
    """Return the largest stored length that the header in `start` allows, having checked the header."""
    return RECORD_HEADER + _record_header(kind, oid, start)[1]


def decode_record(kind: str, oid: str, stored: bytes) -> bytes:
    """Return the content of a frame, verified against `oid`.

    Raises
    ------
    CorruptionError
        If anything in `stored` is not what was written; the error names `oid`.
    UnsupportedFormatError
        If a newer version wrote it.
    """
    compression, length = _record_header(kind, oid, stored)
    payload = memoryview(stored)[RECORD_HEADER:]
    _verify(kind, oid, stored, RECORD_HEADER, payload)
    content = _expand(kind, oid, compression, payload, length)
    if record_oid(kind, content) != oid:
        raise damaged(kind, oid, "its content has another oid")
    return content


def encode_head(kind: str, index: bytes, alignment: int) -> bytes:
    """Frame the index of a segmented object; padding and segments follow it.

    Raises
    ------
    UsageError
        If the index is larger than :data:`INDEX_LIMIT`.
    """
    if len(index) > INDEX_LIMIT:
        raise UsageError(f"A {kind} has too many segments: its index would take {len(index)} bytes.")
    compression, payload = _smaller(index)
    power = alignment.bit_length() - 1
    lengths = (len(payload), len(index))
    start = _SEGMENTED.pack(b"ERES", VERSION, KINDS[kind], compression, power, *lengths, 0)[:-4]
    return start + _check_value(start, payload) + payload


def head_length(kind: str, oid: str, start: bytes) -> int:
    """Return where the stored index ends, having checked the header in `start`."""
    return SEGMENTED_HEADER + _segmented_header(kind, oid, start)[2]


def decode_head(kind: str, oid: str, head: bytes) -> tuple[int, bytes]:
    """Return alignment and index content from the first :func:`head_length` bytes, verified against `oid`.

    Raises
    ------
    CorruptionError
        If anything is not what was written; the error names `oid`.
    UnsupportedFormatError
        If a newer version wrote it.
    """
    compression, alignment, stored_length, length = _segmented_header(kind, oid, head)
    payload = memoryview(head)[SEGMENTED_HEADER:]
    if len(payload) != stored_length:
        raise damaged(kind, oid, "it is truncated")
    _verify(kind, oid, head, SEGMENTED_HEADER, payload)
    index = _expand(kind, oid, compression, payload, length)
    if segmented_oid(kind, alignment, index) != oid:
        raise damaged(kind, oid, "its index has another oid")
    return alignment, index


def is_segmented(start: bytes) -> bool:
    """Tell which of the two forms an object has that starts with `start`."""
    return start[:4] == b"ERES"


def kind_of(start: bytes) -> str | None:
    """Return the kind that the first 16 bytes of an object declare, None if they are not an object's.

    Raises
    ------
    UnsupportedFormatError
        If a newer version wrote it.
    """
    if len(start) < RECORD_HEADER or start[:4] not in (b"EREO", b"ERES"):
        return None
    kind = next((name for name, number in KINDS.items() if number == start[5]), None)
    if start[4] != VERSION or kind is None:
        raise UnsupportedFormatError(
            f"An object has the unknown version {start[4]} or kind {start[5]}.",
            hint="A newer erestore wrote it; upgrade to read it.",
        )
    return kind


def damaged(kind: str, oid: str, reason: str) -> CorruptionError:
    """Say that an object is not what was written."""
    return CorruptionError(
        f"The {kind} {oid} is corrupt: {reason}.",
        hint="`erestore fsck --read-data` lists all damage; fetch the object again from a remote that has it.",
    )


def _smaller(content: bytes) -> tuple[int, bytes]:
    compressed = compress(content)
    return (_ZSTD, compressed) if len(compressed) < len(content) else (_RAW, content)


def _check_value(start: bytes, payload: bytes | memoryview) -> bytes:
    return blake3(start).update(payload).digest(4)


def _verify(kind: str, oid: str, stored: bytes, header: int, payload: memoryview) -> None:
    if _check_value(stored[: header - 4], payload) != stored[header - 4 : header]:
        raise damaged(kind, oid, "its bytes do not match their check value")


def _expand(kind: str, oid: str, compression: int, payload: memoryview, length: int) -> bytes:
    if compression == _RAW:
        if len(payload) != length:
            raise damaged(kind, oid, f"it holds {len(payload)} bytes where {length} are recorded")
        return bytes(payload)
    try:
        return decompress(payload, length)
    except CorruptionError as error:
        raise damaged(kind, oid, "it does not decompress") from error


def _record_header(kind: str, oid: str, start: bytes) -> tuple[int, int]:
    if len(start) < RECORD_HEADER or start[:4] != b"EREO":
        raise damaged(kind, oid, "it does not start like a record")
    _, version, number, compression, reserved, length, _ = _RECORD.unpack_from(start)
    _check_common(kind, oid, version, number, compression)
    if reserved or length > RECORD_LIMIT:
        raise damaged(kind, oid, "its header is malformed")
    return compression, length


def _segmented_header(kind: str, oid: str, start: bytes) -> tuple[int, int, int, int]:
    if len(start) < SEGMENTED_HEADER or start[:4] != b"ERES":
        raise damaged(kind, oid, "it does not start like a segmented object")
    _, version, number, compression, power, stored_length, length, _ = _SEGMENTED.unpack_from(start)
    _check_common(kind, oid, version, number, compression)
    if power > _LARGEST_ALIGNMENT or not stored_length <= length <= INDEX_LIMIT:
        raise damaged(kind, oid, "its header is malformed")
    return compression, 1 << power, stored_length, length


def _check_common(kind: str, oid: str, version: int, number: int, compression: int) -> None:
    hint = "A newer erestore wrote it; upgrade to read it."
    if version != VERSION:
        raise UnsupportedFormatError(f"The {kind} {oid} has the unknown format version {version}.", hint=hint)
    if number not in KINDS.values():
        raise UnsupportedFormatError(f"The object {oid} has the unknown kind {number}.", hint=hint)
    if compression not in (_RAW, _ZSTD):
        raise UnsupportedFormatError(f"The {kind} {oid} has the unknown compression {compression}.", hint=hint)
    if number != KINDS[kind]:
        raise damaged(kind, oid, "it is of another kind")
