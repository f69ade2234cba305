"""Segments of runs that say anything: as many bytes as recorded, or CorruptionError, in bounded memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from forging import damage, memory_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, wrapped

from erestore import compression
from erestore.errors import CorruptionError
from erestore.residual import pco, runs
from erestore.residual.runs import RunGroup

MEMORY = 256
"""Megabytes beyond what the process has, for segments of a few kilobytes."""
Draw = Callable[[st.SearchStrategy[Any]], Any]


def content() -> tuple[bytes, list[RunGroup]]:
    """Bytes, and integers of both widths in runs of several sizes, of which some are zeros."""
    generator = np.random.default_rng(2)
    scales = 4.0 ** np.arange(12)[:, None] / 4
    narrow = np.round(generator.standard_normal((12, 40)) * np.minimum(scales, 900)).astype("<i2")
    wide = np.round(generator.standard_normal((12, 30)) * scales).astype("<i4")
    narrow[3] = wide[5] = 0
    layout = [RunGroup(1, 1, 9), RunGroup(2, 12, 40), RunGroup(1, 1, 3), RunGroup(4, 12, 30)]
    return b"some head" + narrow.tobytes() + b"end" + wide.tobytes(), layout


CONTENT, LAYOUT = content()
STORED = runs.encode(CONTENT, LAYOUT)


def taken_apart(stored: bytes) -> tuple[list[tuple[int, ...]], list[tuple[int, int]], bytes, bytes]:
    """Return groups, chunks as width and length, classes, and what follows the directory."""
    raw, packed = struct.unpack_from("<II", stored)
    directory = compression.decompress(stored[8 : 8 + packed], raw)
    groups, chunks = struct.unpack_from("<II", directory)
    position = 8 + 9 * groups
    return (
        [struct.unpack_from("<BII", directory, 8 + 9 * number) for number in range(groups)],
        [struct.unpack_from("<BI", directory, position + 5 * number) for number in range(chunks)],
        directory[position + 5 * chunks :],
        stored[8 + packed :],
    )


def put_together(
    groups: list[tuple[int, ...]], chunks: list[tuple[int, int]], classes: bytes, rest: bytes, head: tuple[int, int]
) -> bytes:
    """Undo :func:`taken_apart`; `head` is added to the numbers of groups and chunks."""
    directory = struct.pack("<II", (len(groups) + head[0]) % 2**32, (len(chunks) + head[1]) % 2**32)
    directory += b"".join(struct.pack("<BII", *group) for group in groups)
    directory += b"".join(struct.pack("<BI", *chunk) for chunk in chunks) + classes
    packed = compression.compress(directory)
    return struct.pack("<II", len(directory), len(packed)) + packed + rest


def test_a_segment_taken_apart_and_put_together_is_the_same() -> None:
    groups, chunks, classes, rest = taken_apart(STORED)
    assert {width for width, _ in chunks} == {1, 2, 4}
    assert len(chunks) > 4
    assert 0 in classes
    assert runs.decode(put_together(groups, chunks, classes, rest, (0, 0)), len(CONTENT)) == CONTENT


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 12, 30, 40, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])


def changed_row(draw: Draw, row: tuple[int, ...]) -> tuple[int, ...]:
    """Change one number of a group or chunk."""
    place = draw(st.integers(0, len(row) - 1))
    value = draw(NUMBERS | st.sampled_from([row[place] + 1, max(0, row[place] - 1), 2 * row[place]]))
    return (*row[:place], value % (256 if place == 0 else 2**32), *row[place + 1 :])


def changed(draw: Draw) -> bytes:
    """Change a segment in the directory, whose frame is written anew, in its chunks, or anywhere."""
    if draw(st.integers(0, 4)) == 0:
        return damage(draw, STORED)
    groups, chunks, classes, rest = taken_apart(STORED)
    head = (0, 0)
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["group", "groups", "chunk", "chunks", "classes", "rest", "table", "head"]))
        if what == "group" and groups:
            number = draw(st.integers(0, len(groups) - 1))
            groups[number] = changed_row(draw, groups[number])
        elif what == "groups":
            groups = draw(st.lists(st.sampled_from([*groups, (2, 1, 1), (1, 1, 1), (4, 0, 1)]), max_size=8))
        elif what == "chunk" and chunks:
            number = draw(st.integers(0, len(chunks) - 1))
            chunks[number] = changed_row(draw, chunks[number])
        elif what == "chunks":
            chunks = draw(st.lists(st.sampled_from([*chunks, (1, 0), (2, 5)]), max_size=12))
        elif what == "classes":
            classes = damage(draw, classes)
        elif what == "rest":
            rest = damage(draw, rest)
        elif what == "table" and chunks:
            start = sum(length for _, length in chunks[: draw(st.integers(0, len(chunks) - 1))])
            rest = rest[:start] + damage(draw, rest[start : start + 24]) + rest[start + 24 :]
        else:
            head = draw(st.tuples(st.sampled_from([0, 1, -1, 2**31]), st.sampled_from([0, 1, -1, 2**31])))
    return put_together(groups, chunks, classes, rest, head)


def decode_changed(data: st.DataObject) -> None:
    stored = changed(data.draw)
    size = data.draw(st.sampled_from([len(CONTENT)] * 4 + [0, 1, len(CONTENT) - 2, len(CONTENT) + 2, 1 << 20]))
    with memory_limit(MEMORY):
        try:
            found = runs.decode(stored, size)
        except CorruptionError:
            return
    assert len(found) == size


@settings(settings.get_profile("hostile"), max_examples=300)
@given(data=st.data())
def test_a_changed_segment(data: st.DataObject) -> None:
    decode_changed(data)


@pytest.mark.soak
@settings(settings.get_profile("hostile soak"), max_examples=30_000)
@given(data=st.data())
def test_a_changed_segment_often(data: st.DataObject) -> None:
    decode_changed(data)


CHUNKS = {
    dtype: pco.compress(np.round(np.random.default_rng(1).standard_normal(700) * 30).astype(dtype))
    for dtype in ("<i2", "<i4", "<i8")
}


def decode_changed_chunk(dtype: str, data: st.DataObject) -> None:
    """A chunk whose table or numbers say anything, beyond what the directory of a segment would let pass."""
    chunk = CHUNKS[dtype]
    if data.draw(st.booleans()):
        length = data.draw(st.integers(0, 60))
        chunk = b"\4\1\0" + data.draw(st.binary(min_size=length, max_size=length)) + chunk[3 + length :]
    else:
        chunk = damage(data.draw, chunk)
    count = data.draw(st.sampled_from([700, 700, 700, 1, 699, 701, 100_000]))
    with memory_limit(MEMORY):
        try:
            found = pco.decompress(chunk, count, np.dtype(dtype))
        except CorruptionError:
            return
    assert len(found) == count


@pytest.mark.parametrize("dtype", CHUNKS)
@settings(settings.get_profile("hostile"), max_examples=200)
@given(data=st.data())
def test_a_changed_chunk(dtype: str, data: st.DataObject) -> None:
    decode_changed_chunk(dtype, data)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", CHUNKS)
@settings(settings.get_profile("hostile soak"), max_examples=10_000)
@given(data=st.data())
def test_a_changed_chunk_often(dtype: str, data: st.DataObject) -> None:
    decode_changed_chunk(dtype, data)


@pytest.mark.parametrize(
    "directory",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(7), id="half a head"),
        pytest.param(struct.pack("<II", 1, 0), id="no group"),
        pytest.param(struct.pack("<II", 0, 1) + bytes(4), id="half a chunk"),
        pytest.param(struct.pack("<II", 1, 1) + bytes(9), id="no chunk"),
    ],
)
def test_a_directory_that_ends_early_is_refused(directory: bytes) -> None:
    packed = compression.compress(directory)
    stored = struct.pack("<II", len(directory), len(packed)) + packed
    with pytest.raises(CorruptionError, match="directory of runs is truncated"):
        runs.decode(stored, len(CONTENT))


@pytest.mark.parametrize("size", [1 << 20, 1 << 26, 1 << 30])
def test_a_few_bytes_that_declare_much(size: int) -> None:
    """Zeros expand a thousandfold: directories are bounded before they are opened, and lists before they are made."""
    attempts = [
        struct.pack("<II", 0, 0) + bytes(8 + 9 * runs.GROUPS),
        struct.pack("<II", 2**32 - 1, 0) + bytes(size // 4),
        struct.pack("<II", 0, 2**32 - 1) + bytes(size // 4),
        struct.pack("<II", runs.GROUPS, 0) + struct.pack("<BII", 1, 1, 1) * runs.GROUPS,
        struct.pack("<II", 1, 0) + struct.pack("<BII", 2, size // 2 - 1, 1) + bytes(size // 2 - 1),
        struct.pack("<II", 1, 0) + struct.pack("<BII", 2, 2**32 - 1, 2**32 - 1) + bytes(size // 2),
    ]
    with memory_limit(MEMORY + size // 2**20):
        for directory in attempts:
            packed = compression.compress(directory, 1)
            stored = struct.pack("<II", len(directory), len(packed)) + packed
            with pytest.raises(CorruptionError):
                runs.decode(stored, size)


@pytest.mark.parametrize(
    ("mode", "delta"),
    [
        (ModeSpec.classic(), DeltaSpec.try_consecutive(1)),
        (ModeSpec.classic(), DeltaSpec.try_lookback()),
        (ModeSpec.try_int_mult(10), DeltaSpec.no_op()),
    ],
    ids=["consecutive", "lookback", "multiples"],
)
def test_sound_chunks_of_another_kind_are_refused(mode: ModeSpec, delta: DeltaSpec) -> None:
    values = np.tile(np.arange(0, 3000, 10, dtype=np.int32), 5)
    file = wrapped.FileCompressor()
    chunk = file.chunk_compressor(values, ChunkConfig(mode_spec=mode, delta_spec=delta))
    stored = b"".join((file.write_header(), chunk.write_meta(), chunk.write_page(0)))
    assert stored[0] == 4
    with pytest.raises(CorruptionError, match="kind"):
        pco.decompress(stored, len(values), np.dtype("<i4"))


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(b"\4\1\x20" + b"\xff" * 40, id="lookback of 2^32"),
        pytest.param(b"\4\1\x04" + b"\xff" * 40, id="dictionary"),
        pytest.param(b"\4\1\x01" + b"\xff" * 40, id="multiples"),
        pytest.param(b"\4\1\x30" + b"\xff" * 40, id="convolution"),
        pytest.param(b"\3\0" + b"\xff" * 40, id="an older version"),
        pytest.param(b"\5\0\0" + b"\xff" * 40, id="a newer version"),
        pytest.param(b"\4\1\0" + b"\xff" * 40, id="a table of everything"),
        pytest.param(b"\4\1", id="a header only"),
    ],
)
def test_chunks_of_another_kind_are_refused(chunk: bytes) -> None:
    with memory_limit(MEMORY), pytest.raises(CorruptionError):
        pco.decompress(chunk, 1000, np.dtype("<i4"))
