"""The entropy stage of integers in runs: what goes in comes out, near the entropy that runs of like size have."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erestore import compression
from erestore.errors import CorruptionError
from erestore.residual import entropy, pco, runs
from erestore.residual.code_tables import clusters
from erestore.residual.runs import RunGroup

TABLE = 64
"""Bytes of a table, a header and an entry of the directory, at most, where codes are small."""


def content_of(group, kind, generator):
    """Bytes of a group: noise, zeros, or integers of a scale that differs from run to run."""
    if kind == "zeros":
        return bytes(group.size)
    if kind == "noise" or group.width == 1:
        return generator.bytes(group.size)
    scale = 2.0 ** generator.uniform(-4, 8 * group.width - 4, (group.runs, 1))
    return (generator.standard_normal((group.runs, group.length)) * scale).astype(f"<i{group.width}").tobytes()


GROUPS = st.builds(RunGroup, st.sampled_from([1, 2, 4]), st.integers(0, 9), st.integers(0, 30))


@settings(deadline=None, max_examples=150)
@given(
    layout=st.lists(GROUPS, max_size=6),
    kinds=st.lists(st.sampled_from(["zeros", "noise", "scaled"]), min_size=6, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_any_content_in_any_layout_comes_back(layout, kinds, seed):
    generator = np.random.default_rng(seed)
    content = b"".join(content_of(group, kind, generator) for group, kind in zip(layout, kinds, strict=False))
    assert runs.decode(runs.encode(content, layout), len(content)) == content


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("extreme", [True, False])
def test_the_ends_of_the_range_come_back(width, extreme):
    limits = np.iinfo(f"<i{width}")
    values = np.array([[limits.min, limits.max], [limits.min, limits.min], [0, limits.min * extreme]], f"<i{width}")
    layout = [RunGroup(width, 3, 2)]
    assert runs.decode(runs.encode(values.tobytes(), layout), values.nbytes) == values.tobytes()


def entropy_bytes(values):
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * np.log2(counts.sum() / counts)).sum()) / 8


def columns(scales, length, seed=0):
    generator = np.random.default_rng(seed)
    return np.round(generator.standard_normal((len(scales), length)) * np.array(scales)[:, None]).astype("<i2")


@pytest.mark.parametrize("scale", [0.25, 0.7, 2, 9, 60])
def test_codes_of_one_scale_take_their_entropy(scale):
    codes = columns([scale] * 60, 3000)
    stored = runs.encode(codes.tobytes(), [RunGroup(2, *codes.shape)])
    assert len(stored) < 1.02 * entropy_bytes(codes) + TABLE + len(codes) / 4


@pytest.mark.parametrize("spread", [2, 4])
def test_columns_of_different_scales_take_less_than_the_entropy_of_all(spread):
    """And hardly more than the entropy of each column by itself."""
    codes = columns(np.geomspace(0.4, 0.4 * 2**spread, 200), 3000)
    stored = runs.encode(codes.tobytes(), [RunGroup(2, *codes.shape)])
    own = sum(map(entropy_bytes, codes))
    assert len(stored) < entropy_bytes(codes) * (0.99 if spread == 2 else 0.95)
    assert len(stored) < 1.03 * own


def test_runs_of_zeros_are_free():
    codes = np.zeros((1000, 5000), "<i2")
    layout = [RunGroup(2, *codes.shape)]
    assert len(runs.encode(codes.tobytes(), layout)) < 60
    one = columns([3], 5000)
    alone = len(runs.encode(one.tobytes(), [RunGroup(2, 1, 5000)]))
    codes[417] = one
    assert len(runs.encode(codes.tobytes(), layout)) < alone + 20


def test_groups_share_tables_with_others_of_their_width():
    """Many small matrices take hardly more than one that holds their columns."""
    codes = columns([1.5] * 400, 50)
    apart = runs.encode(codes.tobytes(), [RunGroup(2, 4, 50)] * 100)
    together = runs.encode(codes.tobytes(), [RunGroup(2, 400, 50)])
    assert len(apart) < len(together) + 150


def test_what_is_no_integer_is_compressed_as_bytes():
    text = b"word " * 2000
    codes = columns([2], 3000)
    layout = [RunGroup(1, 1, len(text)), RunGroup(2, 1, 3000)]
    found = runs.encode(text + codes.tobytes(), layout)
    assert len(found) < len(runs.encode(codes.tobytes(), layout[1:])) + 80


@settings(deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40)), max_size=4), seed=st.integers(0, 2**32))
def test_classes_are_numbered_from_one_and_zeros_have_none(sizes, seed):
    generator = np.random.default_rng(seed)
    matrices = [
        np.round(generator.standard_normal(size) * 2.0 ** generator.uniform(-5, 12, (size[0], 1))).astype(np.int32)
        for size in sizes
    ]
    found = clusters(matrices)
    numbers = {0}
    for matrix, classes in zip(matrices, found, strict=True):
        assert len(matrix) == len(classes)
        assert np.array_equal(classes == 0, ~matrix.any(axis=1))
        numbers |= set(classes.tolist())
    assert numbers == set(range(len(numbers)))


def test_classes_are_of_like_magnitude():
    codes = columns(np.geomspace(0.3, 300, 80), 4000)
    (found,) = clusters([codes])
    assert 6 <= found.max() <= 40
    magnitudes = np.abs(codes).mean(axis=1)
    borders = [(magnitudes[found == number].min(), magnitudes[found == number].max()) for number in set(found.tolist())]
    ordered = sorted(borders)
    assert all(one[1] < other[0] for one, other in pairwise(ordered))


def test_tables_are_shared_where_they_do_not_pay():
    (found,) = clusters([columns(np.geomspace(1, 1.3, 30), 20)])
    assert set(found.tolist()) == {1}


def test_there_are_never_more_classes_than_numbers(monkeypatch):
    """However well tables pay; the number of a class is one byte, for integers of both widths together."""
    from erestore.residual import code_tables

    monkeypatch.setattr(code_tables, "_cost", lambda counts: float(np.count_nonzero(counts)) ** 2)
    monkeypatch.setattr(code_tables, "_FINENESS", 100)
    wide = np.round(np.geomspace(1, 2**30, 700)).astype("<i4").reshape(-1, 1)
    narrow = np.round(np.geomspace(1, 2**14, 700)).astype("<i2").reshape(-1, 1)
    assert {int(found.max()) for found in clusters([wide])} == {code_tables.MOST}
    layout = [RunGroup(4, 700, 1), RunGroup(1, 1, 3), RunGroup(2, 700, 1)]
    content = wide.tobytes() + b"abc" + narrow.tobytes()
    assert runs.decode(runs.encode(content, layout), len(content)) == content


def test_the_stage_is_taken_where_it_is_the_smaller():
    codes = columns([3] * 4, 5000)
    stage, stored = entropy.encode(codes.tobytes(), layout=[RunGroup(2, 4, 5000)])
    assert stage == "runs"
    assert len(stored) < len(entropy.encode(codes.tobytes())[1])
    assert entropy.decode(stage, stored, codes.nbytes) == codes.tobytes()
    noise = np.random.default_rng(0).bytes(64)
    assert entropy.encode(noise, layout=[RunGroup(2, 4, 8)]) == ("raw", noise)
    assert entropy.encode(codes.tobytes(), layout=[RunGroup(1, 1, codes.nbytes)])[0] == "zstd"


def test_more_groups_than_a_segment_may_have_are_left_to_zstandard(monkeypatch):
    codes = columns([0.5] * 6, 5000)
    assert entropy.encode(codes.tobytes(), layout=[RunGroup(2, 1, 5000)] * 6)[0] == "runs"
    monkeypatch.setattr(runs, "GROUPS", 5)
    assert entropy.encode(codes.tobytes(), layout=[RunGroup(2, 1, 5000)] * 6)[0] == "zstd"


def segment(groups, chunks, classes, *, stored=None, counts=None, extra=b""):
    """Write a segment that says anything; `chunks` are pairs of a width and bytes."""
    directory = struct.pack("<II", *(counts or (len(groups), len(chunks))))
    directory += b"".join(struct.pack("<BII", *group) for group in groups)
    directory += b"".join(struct.pack("<BI", width, len(content)) for width, content in chunks)
    directory += bytes(classes) + extra
    packed = compression.compress(directory)
    head = struct.pack("<II", *(stored or (len(directory), len(packed))))
    return head + packed + b"".join(content for _, content in chunks)


SHORTS = np.array([1, -2, 3, 4, 5, 6], "<i2")
CHUNK = (2, pco.compress(SHORTS))
INTS = (4, pco.compress(SHORTS.astype("<i4")))
BYTES = (1, compression.compress(b"abc"))
TWO = [(2, 2, 3)]
MIXED = [(1, 1, 3), (2, 2, 3)]


def test_a_segment_made_by_hand():
    assert runs.decode(segment(TWO, [CHUNK], [1, 1]), 12) == SHORTS.tobytes()
    assert runs.decode(segment(MIXED, [CHUNK, BYTES], [1, 1]), 15) == b"abc" + SHORTS.tobytes()
    halves = [(2, pco.compress(part)) for part in (SHORTS[3:], SHORTS[:3])]
    assert runs.decode(segment(TWO, halves, [2, 1]), 12) == SHORTS.tobytes()
    assert runs.decode(segment(TWO, [], [0, 0]), 12) == bytes(12)
    assert runs.decode(segment([], [], []), 0) == b""


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        (b"", 12),
        (b"\0" * 7, 12),
        (b"\0" * 8, 12),
        (segment(TWO, [CHUNK], [1, 1]), 11),
        (segment(TWO, [CHUNK], [1, 1]), 14),
        (segment(TWO, [CHUNK], [1, 1]) + b"\0", 12),
        (segment(TWO, [CHUNK], [1, 1])[:-1], 12),
        (segment(TWO, [CHUNK], [1, 1], stored=(2**32 - 1, 30)), 12),
        (segment(TWO, [CHUNK], [1, 1], stored=(24, 2**32 - 1)), 12),
        (segment(TWO, [CHUNK], [1, 1], counts=(2**32 - 1, 1)), 12),
        (segment(TWO, [CHUNK], [1, 1], counts=(1, 2**32 - 1)), 12),
        (segment(TWO, [CHUNK], [1, 1], counts=(2, 1)), 12),
        (segment(TWO, [CHUNK], [1, 1], extra=b"\0"), 12),
        (segment(TWO, [CHUNK], [1]), 12),
        (segment(TWO, [CHUNK], [1, 0]), 12),
        (segment(TWO, [CHUNK], [0, 0]), 12),
        (segment(TWO, [CHUNK], [1, 2]), 12),
        (segment(TWO, [CHUNK], [1, 255]), 12),
        (segment(TWO, [], [1, 1]), 12),
        (segment(TWO, [CHUNK, CHUNK], [1, 1]), 12),
        (segment(TWO, [INTS], [1, 1]), 12),
        (segment([(4, 2, 3)], [CHUNK], [1, 1]), 24),
        (segment(TWO, [(3, CHUNK[1])], [1, 1]), 12),
        (segment([(3, 2, 2)], [CHUNK], [1, 1]), 12),
        (segment([(0, 2, 3)], [CHUNK], [1, 1]), 12),
        (segment([(2, 2, 3), (2, 0, 3)], [CHUNK], [1, 1]), 12),
        (segment([(2, 2, 3), (4, 2, 0)], [CHUNK], [1, 1, 0, 0]), 12),
        (segment([(2, 2**31, 2**31)], [CHUNK], [1, 1]), 12),
        (segment(MIXED, [CHUNK], [1, 1]), 15),
        (segment(MIXED, [BYTES, CHUNK], [2, 2]), 15),
        (segment(MIXED, [CHUNK, (1, compression.compress(b"ab"))], [1, 1]), 15),
        (segment(MIXED, [CHUNK, (1, b"abc")], [1, 1]), 15),
        (segment(MIXED, [CHUNK, (2, BYTES[1])], [1, 1]), 15),
        (segment(TWO, [CHUNK, BYTES], [1, 1]), 12),
        (segment([(2, 1, 3), (1, 1, 3)], [CHUNK], [0]), 9),
        (segment([(2, 6, 1)], [CHUNK], [1, 1, 1, 1, 1, 0]), 12),
    ],
)
def test_anything_else_is_refused(stored, size):
    with pytest.raises(CorruptionError):
        runs.decode(stored, size)


def test_a_directory_is_not_opened_that_is_longer_than_its_segment_can_need():
    """Every group, every chunk, and a byte for each run of the shortest integers."""
    longest = 8 + 9 * runs.GROUPS + 5 * 256 + 6
    for length, message in ((longest, "does not describe"), (longest + 1, "too long")):
        packed = compression.compress(bytes(length))
        with pytest.raises(CorruptionError, match=message):
            runs.decode(struct.pack("<II", length, len(packed)) + packed, 12)


def test_no_more_groups_or_chunks_than_the_format_allows_are_read(monkeypatch):
    assert runs.decode(segment([(1, 1, 1)] * 4, [(1, compression.compress(b"abcd"))], []), 4) == b"abcd"
    monkeypatch.setattr(runs, "GROUPS", 3)
    with pytest.raises(CorruptionError, match="too many"):
        runs.decode(segment([(1, 1, 1)] * 4, [(1, compression.compress(b"abcd"))], []), 4)
    chunks = [(2, pco.compress(SHORTS[:1]))] * 257
    with pytest.raises(CorruptionError, match="too many"):
        runs.decode(segment([(2, 257, 1)], chunks, [*range(256), 0]), 514)
