import contextlib
import json
import os
import struct

import pytest
import torch
from checkpoints import content
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from erestore.checkpoint.safetensors_header import ALIGNMENT, LARGEST_HEADER, build_header, parse_header
from erestore.errors import CheckpointError, CorruptionError


def file_with(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty file": (None, b"", "shorter than"),
    "header cut": (b'{"a":', b"", "not valid JSON"),
    "not an object": (b"[1]", b"", "does not start as JSON"),
    "leading space": (b" {}", b"", "does not start as JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not valid JSON"),
    "lone surrogate": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8), "not Unicode"),
    "too deep": (b'{"a":' + b"[" * 100_000, b"", "nested too deeply"),
    "same key twice": (b'{"a":1,"a":2}', b"", "one key twice"),
    "metadata twice": (b'{"__metadata__":{},"__metadata__":{}}', b"", "one key twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "table of strings"),
    "metadata list": ({"__metadata__": [1]}, b"", "table of strings"),
    "entry is text": ({"a": "F32"}, b"", "entry for 'a' is malformed"),
    "entry lacks shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8), "entry for 'a' is malformed"),
    "entry has more": ({"a": {**entry(), "more": 1}}, bytes(8), "entry for 'a' is malformed"),
    "negative size": ({"a": entry(shape=(-2,))}, bytes(8), "entry for 'a' is malformed"),
    "boolean size": (b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', bytes(1), "malformed"),
    "fractional size": (b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', bytes(1), "malformed"),
    "overflowing shape": ({"a": entry(shape=(2**32, 2**32, 0), offsets=(0, 0))}, b"", "out of range"),
    "too many dimensions": ({"a": entry("U8", [1] * 100, (0, 1))}, bytes(1), "out of range"),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, bytes(8), "another size"),
    "size is not the shape's": ({"a": entry(shape=(3,))}, bytes(8), "another size"),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "overlap or leave holes"),
    "same place": ({"a": entry(), "b": entry()}, bytes(8), "overlap or leave holes"),
    "hole": ({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20), "overlap or leave holes"),
    "truncated data": ({"a": entry()}, bytes(7), "truncated"),
    "trailing data": ({"a": entry()}, bytes(9), "belong to no tensor"),
    "half byte": ({"a": entry("F4", (2, 3), (0, 3))}, bytes(3), "splits a byte"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_one_sentence(tmp_path, case):
    header, data, reason = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    if header is None:
        path.write_bytes(data)
    else:
        file_with(path, header, data)
    with pytest.raises(CheckpointError, match=reason) as caught:
        open_checkpoint(path)
    assert "'model.safetensors'" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("length", [LARGEST_HEADER + 1, 2**63, 2**64 - 1])
def test_header_over_the_limit(tmp_path, length):
    with pytest.raises(CheckpointError, match="more than the"):
        open_checkpoint(file_with(tmp_path / "model.safetensors", {}, length=length))


def test_header_longer_than_the_file(tmp_path):
    with pytest.raises(CheckpointError, match="ends inside its header"):
        open_checkpoint(file_with(tmp_path / "model.safetensors", {}, length=500))


def test_unknown_dtype_is_refused_by_name(tmp_path):
    path = file_with(tmp_path / "model.safetensors", {"w": entry("F6_E2M3", (4,), (0, 3))}, bytes(3))
    with pytest.raises(CheckpointError, match="'w' has the data type 'F6_E2M3'"):
        open_checkpoint(path)


def sound_file():
    header = json.dumps({"__metadata__": {"format": "pt"}, "a": entry(), "b": entry("I8", (3,), (8, 11))}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(range(11))


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 40),
    tail=st.binary(max_size=4),
)
def test_damaged_files_give_only_checkpoint_errors(tmp_path_factory, edits, cut, tail):
    data = bytearray(sound_file())
    for place, value in edits:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(bytes(data[: len(data) - cut]) + tail)
    try:
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.tensors:
                checkpoint.read(name)
    except CheckpointError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_header(data):
    with contextlib.suppress(ValueError, CheckpointError):
        parse_header(b"{" + data, len(data) + 9)


def test_accepts_nothing_that_the_library_refuses(tmp_path):
    for case, (header, data, _) in HOSTILE.items():
        if header is not None and case not in ("half byte", "entry has more", "too many dimensions", "lone surrogate"):
            path = file_with(tmp_path / "model.safetensors", header, data)
            try:
                with safe_open(path, framework="pt"):
                    accepted = True
            except SafetensorError:
                accepted = False
            # The library lets these pass; we are stricter, since readers disagree about them.
            assert not accepted or case in ("leading space", "same key twice", "metadata twice", "overflowing shape"), (
                case
            )


def test_truncation_while_open_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(1 << 20)}, path)
    with open_checkpoint(path) as checkpoint:
        os.truncate(path, 1000)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            checkpoint.read("w")


def test_rewriting_while_open_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(4)}, path)
    os.utime(path, ns=(1, 1))
    with open_checkpoint(path) as checkpoint:
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"abcd")
        with pytest.raises(CheckpointError, match="changed while it was read"):
            checkpoint.read("w")


def test_written_file_is_aligned_and_big_tensors_come_first(tmp_path):
    tensors = {
        "bias": torch.arange(3, dtype=torch.float32),
        "flag": torch.tensor([True, False, True]),
        "small": torch.zeros(1024),
        "big": torch.ones(4 * 4096),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 5),
    }
    infos = {
        name: TensorInfo(name, {"flag": "BOOL", "count": "I64"}.get(name, "F32"), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    path = tmp_path / "a.safetensors"
    write_safetensors(path, infos, {"format": "pt"}, lambda name: [content(tensors[name])])
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.offset_keys()[:2] == ["big", "small"]
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
    reader = SafetensorsFile(path)
    for name, found in reader._header.entries.items():
        step = ALIGNMENT if name in ("big", "small") else tensors[name].element_size()
        assert found.start % step == 0, name
    reader.close()


def test_a_small_file_of_one_dtype_is_what_the_library_writes(tmp_path):
    tensors = {
        "b.weight": torch.rand(7, 3),
        "a.bias": torch.rand(1024),
        "c": torch.tensor(1.0),
        "none": torch.zeros(0, 2),
    }
    save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})
    infos = {name: TensorInfo(name, "F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "a.safetensors", infos, {"format": "pt"}, lambda name: [content(tensors[name])])
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()


@pytest.mark.parametrize("given_bytes", [7, 9])
def test_wrong_amount_of_data_is_refused(tmp_path, given_bytes):
    info = {"w": TensorInfo("w", "F32", (2,))}
    with pytest.raises(CorruptionError, match="'w' came to"):
        write_safetensors(tmp_path / "a", info, {}, lambda _: [bytes(given_bytes)])


def test_blocks_of_any_element_type(tmp_path):
    info = {"w": TensorInfo("w", "F32", (2, 3))}
    data = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    write_safetensors(tmp_path / "a", info, {}, lambda _: [memoryview(data[:1].numpy()), memoryview(data[1:].numpy())])
    with open_checkpoint(tmp_path / "a") as checkpoint:
        assert torch.equal(checkpoint.read("w"), data)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["F64", "F16", "U8", "BOOL"]), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    ),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.text(max_size=5).filter(str.isascii)
    ),
)
def test_built_headers_are_read_back(tensors, metadata):
    prefix, header = build_header(tensors, metadata)
    size = max([len(prefix), *(found.stop for found in header.entries.values())])
    assert len(prefix) % 8 == 0
    found = parse_header(prefix[8:], size)
    assert dict(found.entries) == dict(header.entries)
    assert dict(found.metadata) == metadata
