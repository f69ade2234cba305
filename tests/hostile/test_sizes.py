"""Small objects that declare enormous sizes are refused before anything is allocated for them.

Reading takes at most about 32 times the largest record (64 MiB) for parsing, and a small multiple of a tensor whose bytes
the store really holds. Here nothing real is large, so a little more address space than the process has must do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from forging import evaluate, memory_limit, put_segmented, read_segmented, rows_of, substitute

from erestore.arrays import BFLOAT16
from erestore.errors import CorruptionError, ErestoreError, UnsupportedFormatError
from erestore.objects.patch import EncodedRemainder, PatchWriter
from erestore.objects.references import Reference, walk
from erestore.ops.fsck import fsck
from erestore.records import Layout, Manifest
from erestore.residual.codecs.registry import codec
from erestore.storage.canonical import dump_canonical
from erestore.storage.frames import KINDS, digest, encode_record, record_oid
from erestore.storage.memory import MemoryStorage
from erestore.storage.segments import object_key
from erestore.store import Store
from erestore.variant.variant import Variant

HUGE = 1 << 40
MEMORY = 512
"""Megabytes beyond what the process has: threads and torch take some."""

Record = dict[str, Any]


def zeros_frame(size: int) -> bytes:
    """Return a zstandard frame of a few bytes that declares `size` bytes of content."""
    return b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + size.to_bytes(8, "little") + b"\x03\x00\x10" + b"\x00"


@pytest.fixture
def manifest(store: Store) -> str:
    return store.commit_record(store.resolve("exact")).manifest


def put(store: Store, kind: str, record: Record) -> str:
    return store.objects.put_record(kind, record).oid


SHAPES = [
    [HUGE],
    [HUGE, 32],
    [64, HUGE],
    [HUGE, HUGE],
    [1 << 62, 1 << 62],
    [0, 1 << 62],
    [1 << 62, 0],
    [64] * 60,
    [1] * 5000,
]


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("name", ["embedding.weight", "dense.bias", "position_ids", "head.weight", "scale"])
def test_a_layout_of_enormous_shapes(store: Store, manifest: str, name: str, shape: list[int]) -> None:
    record = store.objects.get_record("manifest", manifest)
    layout = store.objects.get_record("layout", record["layout"])
    layout["tensors"][name][2] = shape
    for patch in (record["patch"], None):
        oid = put(store, "manifest", {**record, "layout": put(store, "layout", layout), "patch": patch, "digests": {}})
        with memory_limit(MEMORY):
            variant = Variant.open(store.objects, oid)
            with pytest.raises(ErestoreError):
                variant.tensor(name)


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("name", ["embedding.weight", "dense.bias", "position_ids"])
def test_a_base_and_a_layout_of_enormous_shapes(store: Store, manifest: str, name: str, shape: list[int]) -> None:
    record = store.objects.get_record("manifest", manifest)
    layout = store.objects.get_record("layout", record["layout"])
    layout["tensors"][name][2] = shape
    base = store.objects.get_record("base", record["base"])
    base["tensors"][name][1] = shape
    changed = {**record, "base": put(store, "base", base), "layout": put(store, "layout", layout), "patch": None}
    oid = put(store, "manifest", {**changed, "terms": [], "rows": {}, "digests": {}})
    with memory_limit(MEMORY):
        variant = Variant.open(store.objects, oid)
        with pytest.raises(ErestoreError):
            variant.tensor(name)
        point(store, "huge", oid)
        assert not fsck(store, deep=True).clean
    for entry in list(store.storage.list("refs/huge/")):
        store.storage.delete(entry.key)


def point(store: Store, name: str, manifest: str) -> None:
    record = replace(store.commit_record(store.resolve("exact")), manifest=manifest)
    operation = store.begin()
    oid = put(store, "commit", record.to_record())
    store.refs.update(name, oid, expected=0, kind="branch", operation=operation.id, writer=operation.writer, message="")


@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_a_residual_of_enormous_shapes(store: Store, manifest: str, shape: list[int]) -> None:
    oid = store.objects.get_record("manifest", manifest)["terms"][0][0]
    index, contents, align = read_segmented(store.objects, "residual", oid)
    for tensor in index["tensors"].values():
        tensor["shape"] = shape
    new = put_segmented(store.objects, "residual", index, *rows_of(contents), align)
    found = substitute(store, manifest, {oid: new})
    with memory_limit(MEMORY):
        assert evaluate(store, found) < evaluate(store, manifest)


@pytest.mark.parametrize("kind", ["residual", "patch", "tensors"])
@pytest.mark.parametrize("size", [1 << 33, 1 << 45, (1 << 63) - 1])
def test_segments_that_declare_enormous_contents(store: Store, manifest: str, kind: str, size: int) -> None:
    record = store.objects.get_record("manifest", manifest)
    base = store.objects.get_record("base", record["base"])
    oids = {
        "residual": record["terms"][0][0],
        "patch": record["patch"],
        "tensors": base["tensors"]["dense.weight"][3][0],
    }
    index, contents, align = read_segmented(store.objects, kind, oids[kind])
    frame = zeros_frame(size)
    rows = [[len(frame), size, "zstd", digest(frame)]] * len(contents)
    if kind == "residual":
        index = grown(index, size)
    new = put_segmented(store.objects, kind, index, rows, [frame] * len(contents), align)
    found = substitute_index_only(store, record, oids[kind], new)
    with memory_limit(MEMORY):
        assert evaluate(store, found) < evaluate(store, manifest)


def grown(index: Record, size: int) -> Record:
    """Let the last part of every segment take what the segment declares."""
    used: dict[int, int] = {}
    last: dict[int, list[int]] = {}
    for key in sorted(index["tensors"]):
        for section in index["tensors"][key]["sections"]:
            for part in parts_of(section):
                used[part[0]] = used.get(part[0], 0) + part[1]
                last[part[0]] = part
    for number, part in last.items():
        part[1] += size - used[number]
    return index


def parts_of(section: Any) -> list[list[int]]:
    parts = section["parts"] if isinstance(section, dict) else section[2]
    assert all(type(number) is int and type(length) is int for number, length in parts)
    return parts


def substitute_index_only(store: Store, record: Record, old: str, new: str) -> str:
    """Replace an object without reading the new one."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(held) for key, held in value.items()}
        if isinstance(value, list):
            return [renamed(held) for held in value]
        return new if value == old else value

    base = put(store, "base", renamed(store.objects.get_record("base", record["base"])))
    changed = {**renamed(record), "digests": {}}
    if base != record["base"]:
        changed = {**changed, "base": base, "terms": []}
    return put(store, "manifest", changed)


def test_a_blob_that_declares_enormous_segments(store: Store) -> None:
    frame = zeros_frame(HUGE)
    oid = put_segmented(store.objects, "blob", {}, [[len(frame), HUGE, "zstd", digest(frame)]], [frame])
    with memory_limit(MEMORY), pytest.raises(CorruptionError):
        store.objects.get_blob(oid)


@pytest.mark.parametrize("content", [b"[" * (4 << 20), b'{"a":' * (1 << 20), b"9" * (1 << 20)], ids=["[", "{", "9"])
def test_records_that_no_parser_likes(store: Store, content: bytes) -> None:
    for kind in ("commit", "manifest", "base", "layout"):
        oid = record_oid(kind, content)
        store.storage.create(object_key(kind, oid), encode_record(kind, content))
        with memory_limit(MEMORY), pytest.raises(CorruptionError):
            store.objects.get_record(kind, oid)
        store.objects.delete(oid)


def test_an_index_that_declares_more_than_it_may(store: Store) -> None:
    for size in (1 << 31, (1 << 32) - 1):
        head = b"ERES" + bytes([1, KINDS["residual"], 1, 0]) + (13).to_bytes(4, "little") + size.to_bytes(4, "little")
        oid = "ab" * 32
        store.storage.create(object_key("residual", oid), head + bytes(17))
        with memory_limit(MEMORY), pytest.raises(CorruptionError):
            store.objects.open("residual", oid)
        store.objects.delete(oid)


def test_a_chain_of_remainders_without_end(store: Store, manifest: str) -> None:
    """Each remainder is relative to the stored value of the one before: readers refuse to go deeper than writers do."""
    plain = replace(Manifest.from_record(store.objects.get_record("manifest", manifest)), patch=None, digests={})
    layout = Layout.from_record(store.objects.get_record("layout", plain.layout)).tensors
    name, held = next((name, held) for name, held in layout.items() if held.key == "dense.weight")
    oid = put(store, "manifest", plain.to_record())
    value = np.zeros(held.shape, BFLOAT16)
    for _ in range(400):
        with PatchWriter(store.objects) as writer:
            writer.add(held.key, EncodedRemainder.encode(held.dtype, value, value, ("stored", oid)))
            patch = writer.finish().oid
        oid = put(store, "manifest", replace(plain, patch=patch).to_record())
    with pytest.raises(CorruptionError):
        Variant.open(store.objects, oid).tensor(name)
    assert sum(1 for _ in walk(store.objects, [Reference("manifest", oid)], set())) > 800


def test_a_history_of_two_thousand_commits() -> None:
    """Walks do not recurse: the depth of a history is no one's limit."""
    store = tiny.make_store(MemoryStorage())
    first = put(store, "manifest", Manifest("0" * 64, (), "0" * 64).to_record())
    oid = ""
    for number in range(2_000):
        oid = put(
            store,
            "commit",
            {
                "manifest": first,
                "parents": [oid] if oid else [],
                "edge": "versioned",
                "author": "",
                "time": number,
                "message": "",
                "own": [],
                "metrics": {},
                "quality": {},
                "original_bytes": 0,
                "stored_bytes": 0,
                "recipe": None,
            },
        )
    damaged: list[Reference] = []
    found = list(walk(store.objects, [Reference("commit", oid)], set(), lambda reference, _: damaged.append(reference)))
    assert len(found) == 2_003
    assert {reference.kind for reference in damaged} == {"base", "layout"}


CODECS: dict[str, tuple[Record, list[bytes]]] = {
    "lowrank": ({"rank": 1_000_000, "groups": [[1_000_000, 0]]}, []),
    "lowrank2": ({"rank": 1_000_000, "groups": [[1_000_000, 0]]}, []),
    "remainder": ({"step": [1, 0]}, [b"\2"]),
    "vector": ({"step": [1, 0]}, [b"\5"]),
    "dense": ({"dtype": "F32"}, []),
    "factors": ({"rank": 1 << 40, "up": "F32", "down": "F32", "scaling": "1.0", "transpose": False}, [b"", b""]),
    "ere": ({"rank": 1, "bits": 4}, [b""]),
}


@pytest.mark.parametrize("name", CODECS)
def test_sections_that_declare_much(name: str) -> None:
    parameters, parts = CODECS[name]
    with memory_limit(MEMORY), pytest.raises(CorruptionError):
        codec(name).decode(parameters, parts, (1, 1_000_000))


def test_columns_of_zeros_take_no_more_than_the_tensor(store: Store) -> None:
    """A packed band of columns of zeros takes 4 bytes a column: the rank is bounded by the tensor's smaller side."""
    rank = 100_000
    head = b"\1" * rank + b"\0" * (3 * rank)
    with memory_limit(MEMORY), pytest.raises(CorruptionError):
        codec("lowrank").decode({"rank": rank, "groups": [[rank, 0]]}, [head], (10, rank))


def test_a_manifest_of_very_many_terms(store: Store, manifest: str) -> None:
    record = store.objects.get_record("manifest", manifest)
    terms = [[f"{number:064x}", "1/3"] for number in range(20_000)]
    oid = put(store, "manifest", {**record, "terms": terms})
    with memory_limit(MEMORY), pytest.raises(ErestoreError):
        Variant.open(store.objects, oid).tensor("dense.weight")


@pytest.mark.parametrize("coefficient", ["9223372036854775807/9223372036854775805", "1e+308", "-5e-324", "1/3"])
def test_extreme_coefficients_decode(store: Store, manifest: str, coefficient: str) -> None:
    record = store.objects.get_record("manifest", manifest)
    terms = [[oid, coefficient] for oid, _ in record["terms"]]
    oid = put(store, "manifest", {**record, "terms": terms, "patch": None, "digests": {}})
    assert evaluate(store, oid) == 6
    assert Fraction(1, 3) in {
        term.coefficient for term in Manifest.from_record(record | {"terms": [["0" * 64, "1/3"]]}).terms
    }


NAMES = [
    "../escaped",
    "/tmp/escaped",
    "a/../../escaped",
    "..",
    ".",
    "",
    "a\\..\\..\\escaped",
    "C:escaped",
    "con.txt",
    "a\0b",
    "a/",
    "~/escaped",
    ".erestore/erestore.json",
    "model.safetensors",
    "notes.txt/inside",
]


@pytest.mark.parametrize("where", ["files", "side_files"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_that_lead_outside(store: Store, manifest: str, tmp_path: Path, where: str, name: str) -> None:
    from erestore.ops.checkout import checkout

    record = store.objects.get_record("manifest", manifest)
    layout = store.objects.get_record("layout", record["layout"])
    if where == "files":
        layout["files"][0][0] = name
    else:
        layout["side_files"][name] = next(iter(layout["side_files"].values()))
    oid = put(store, "manifest", {**record, "layout": put(store, "layout", layout)})
    commit = replace(store.commit_record(store.resolve("exact")), manifest=oid)
    inside = tmp_path / "one" / "two"
    inside.mkdir(parents=True)
    (tmp_path / "witness").write_text("untouched")
    revision = put(store, "commit", commit.to_record())
    try:
        checkout(store, revision, inside / "out")
    except ErestoreError:
        assert not (inside / "out").exists()
    outside = {path for path in tmp_path.rglob("*") if path.is_file() and inside / "out" not in path.parents}
    assert outside == {tmp_path / "witness"}


def test_unknown_is_not_corrupt(store: Store, manifest: str) -> None:
    """What a newer version may have written is refused as such (exit 7), so that nobody repairs it away."""
    record = store.objects.get_record("manifest", manifest)
    newer: list[Callable[[], object]] = [
        lambda: Manifest.from_record({**record, "colour": 1}),
        lambda: codec("quantum"),
    ]
    for read in newer:
        with pytest.raises(UnsupportedFormatError):
            read()
    content = dump_canonical(record)
    framed = bytearray(encode_record("manifest", content))
    framed[4] = 9
    oid = record_oid("manifest", content + b" ")
    store.storage.create(object_key("manifest", oid), bytes(framed))
    with pytest.raises(UnsupportedFormatError):
        store.objects.get_record("manifest", oid)
    store.objects.delete(oid)
