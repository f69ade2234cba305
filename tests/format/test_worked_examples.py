"""Every worked example of docs/format.md, held against erestore and against the reader that shares no code with it."""

from __future__ import annotations

import collections
import json
import struct
from pathlib import Path
from urllib.parse import quote

import former_codes
import former_remainder
import independent_reader as independent
import numpy as np
import pytest
from blake3 import blake3
from float_formats import rounded_bits
from worked_examples import Example, examples

from erestore.checkpoint.dtypes import array_dtype
from erestore.objects.calibration import Calibration
from erestore.objects.tensors import content_digest, value_digest
from erestore.records import Base, Commit, Layout, Manifest, format_coefficient, parse_coefficient
from erestore.residual import code_packing, difference, entropy, exact_remainder
from erestore.residual.codecs.registry import codec
from erestore.residual.planes import from_planes
from erestore.residual.rounding import round_to
from erestore.storage.calibrations import newest_note, point
from erestore.storage.canonical import dump_canonical, parse_canonical
from erestore.storage.condemned import parse_list
from erestore.storage.frames import KINDS, decode_record, encode_record, record_oid
from erestore.storage.holder import Holder
from erestore.storage.leases import Lease
from erestore.storage.memory import MemoryStorage
from erestore.storage.objects import ObjectStore
from erestore.storage.refs import RefEntry
from erestore.storage.segments import SegmentedObject, object_key
from erestore.store import MARKER, Store

EXAMPLES = list(examples())
RECORDS = {"base": Base, "layout": Layout, "manifest": Manifest, "commit": Commit}


def reader(tmp_path: Path, oid: str, stored: bytes) -> independent.Reader:
    """A second reader of a store that holds one object."""
    place = tmp_path / "objects" / oid[:2] / oid[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(stored)
    (tmp_path / "erestore.json").write_bytes(b'{"erestore":1,"id":"","read":[],"write":[]}')
    return independent.Reader(tmp_path)


def marker(example: Example, tmp_path: Path) -> None:
    assert example.facts["key"] == MARKER
    storage = MemoryStorage("worked-example")
    storage.create(MARKER, example.facts["content"].encode())
    assert Store.open("memory://worked-example").id == json.loads(example.facts["content"])["id"]


def record_frame(example: Example, tmp_path: Path) -> None:
    kind, oid, content = example.facts["kind"], example.facts["oid"], json.loads(example.facts["content"]).encode()
    assert encode_record(kind, content) == example.stored
    assert decode_record(kind, oid, example.stored) == content
    assert reader(tmp_path, oid, example.stored).frame(kind, oid) == content


def segmented_object(example: Example, tmp_path: Path) -> None:
    kind, oid = example.facts["kind"], example.facts["oid"]
    contents = [bytes.fromhex(text) for text in json.loads(example.facts["contents"])]
    storage = MemoryStorage()
    storage.create(object_key(kind, oid), example.stored)
    held = SegmentedObject(storage, kind, oid)
    held.verify()
    assert held.index == parse_canonical(example.facts["index"].encode())
    assert [segment.offset for segment in held.segments] == json.loads(example.facts["offsets"])
    stored = list(held.read_many(range(len(contents))))
    assert [
        entropy.decode(segment.stage, each, segment.raw_length)
        for segment, each in zip(held.segments, stored, strict=True)
    ] == contents
    other = reader(tmp_path, oid, example.stored)
    assert other.segmented(kind, oid) == (held.index, contents)
    if kind == "note":
        found = Calibration.open(ObjectStore(storage), oid).moments("weight")
        assert found is not None
        assert [block.tolist() for block in found.blocks] == [[[1, -1], [-1, 4]]]
        assert other.moments(oid, "weight") == [[[1, -1], [-1, 4]]]


def stage_of_words(example: Example, tmp_path: Path) -> None:
    stage, raw = example.facts["stage"], bytes.fromhex(json.loads(example.facts["raw"]))
    assert entropy.decode(stage, example.stored, len(raw)) == independent.expand(stage, example.stored, len(raw)) == raw


def stage_of_runs(example: Example, tmp_path: Path) -> None:
    raw = bytes.fromhex(json.loads(example.facts["raw"]))
    assert (
        entropy.decode("runs", example.stored, len(raw)) == independent.expand("runs", example.stored, len(raw)) == raw
    )


def canonical(example: Example, tmp_path: Path) -> None:
    value = json.loads(example.facts["value"])
    assert dump_canonical(value) == independent.canonical(value) == example.stored
    assert parse_canonical(example.stored) == value


def record(example: Example, tmp_path: Path) -> None:
    kind, oid, content = (example.facts[name] for name in ("kind", "oid", "content"))
    parsed = RECORDS[kind].from_record(parse_canonical(content.encode()))
    assert dump_canonical(parsed.to_record()).decode() == content
    assert record_oid(kind, content.encode()) == oid
    stored = encode_record(kind, content.encode())
    assert reader(tmp_path, oid, stored).record(kind, oid) == json.loads(content)


def ref(example: Example, tmp_path: Path) -> None:
    name, number, content = example.facts["name"], int(example.facts["number"]), example.facts["content"].encode()
    assert (
        RefEntry.from_bytes(name, number, content).to_bytes() == independent.canonical(json.loads(content)) == content
    )
    assert example.facts["key"] == f"refs/{quote(name, safe='')}/{number:016d}"


def log_entry(example: Example, tmp_path: Path) -> None:
    """Keys and fields of what a store writes are those of the example."""
    kind, content = example.facts["key"].split("/")[0:2], example.facts["content"].encode()
    value = parse_canonical(content)
    storage = MemoryStorage()
    storage.create(MARKER, b'{"erestore":1,"id":"00","read":[],"write":[]}')
    if kind == ["gc", "condemned"]:
        assert [list(each) for each in parse_list(content)] == value["objects"]
        return
    if kind[0] == "config":
        Store(storage, {"id": "00"}).configure("gc.grace_days", "14")
        key = "config/0000000000000001"
        written = parse_canonical(storage.read(key))
        assert example.facts["key"] == key
        assert written["values"] == value["values"]
    elif kind[0] == "calibrations":
        base = example.facts["key"].split("/")[1]
        named = {"operation": value["id"], "writer": value["writer"], "time": value["time"]}
        assert point(storage, base, value["note"], **named) == len(content)
        assert storage.read(example.facts["key"]) == content
        assert newest_note(storage, base) == value["note"]
        return
    else:
        with Lease(storage, "writer", value["writer"]):
            (entry,) = storage.list("gc/leases/")
            written = parse_canonical(storage.read(entry.key))
        assert [len(part) for part in entry.key.split("/")] == [len(part) for part in example.facts["key"].split("/")]
        assert written | {"time": value["time"], "holder": value["holder"]} == value
        assert Holder.from_record(written["holder"]) == Holder.current()
        assert Holder.from_record(value["holder"]) is not None
    assert {key: type(each) for key, each in written.items()} == {key: type(each) for key, each in value.items()}


def coefficients(example: Example, tmp_path: Path) -> None:
    for line in example.lines:
        text, _, expected = line.partition(" = ")
        value = parse_coefficient(text)
        assert format_coefficient(value) == text
        assert float(value) == independent.number(text) == float.fromhex(expected)


def content_digests(example: Example, tmp_path: Path) -> None:
    shape = tuple(json.loads(example.facts["shape"]))
    assert content_digest(example.facts["dtype"], shape, memoryview(example.stored)) == example.facts["content-digest"]
    values = np.frombuffer(example.stored, array_dtype(example.facts["dtype"])).reshape(shape)
    assert value_digest(values) == blake3(example.stored).hexdigest(length=16) == example.facts["value-digest"]


def packed(example: Example, tmp_path: Path) -> None:
    width, codes = int(example.facts["width"]), json.loads(example.facts["codes"])
    assert former_codes.pack([codes], width) == example.stored
    assert code_packing.unpack(example.stored, 1, len(codes), width).tolist() == [codes]
    assert independent.unpack(example.stored, len(codes), width) == codes


def planes(example: Example, tmp_path: Path) -> None:
    elements = b"".join(bytes.fromhex(text) for text in json.loads(example.facts["elements"]))
    assert from_planes(example.stored, np.dtype(np.float32)).tobytes() == elements
    assert independent.from_planes(example.stored, 4) == elements


def section(example: Example, tmp_path: Path) -> None:
    shape = tuple(json.loads(example.facts["shape"]))
    parameters = json.loads(example.facts["parameters"])
    base, value = (
        np.array([[float.fromhex(text) for text in row] for row in json.loads(example.facts[name])])
        if name in example.facts
        else np.zeros(shape)
        for name in ("base", "value")
    )
    found = codec(example.facts["codec"]).decode(parameters, example.parts, shape)
    assert found.rows(0, shape[0], base).tolist() == value.tolist()
    second = independent.SECTIONS[example.facts["codec"]](parameters, list(example.parts), shape, base)
    assert second.tolist() == value.tolist()


def rounding(example: Example, tmp_path: Path) -> None:
    for line in example.lines:
        text, dtype, expected = line.split()
        value = float.fromhex(text)
        found = round_to(np.array([value]), array_dtype(dtype))
        assert found.tobytes()[::-1].hex() == expected
        assert rounded_bits(value, dtype) == int(expected, 16)


def remainder(example: Example, tmp_path: Path) -> None:
    value, predicted = (
        b"".join(struct.pack("<H", int(text, 16)) for text in json.loads(example.facts[name]))
        for name in ("value", "predicted")
    )
    arrays = [np.frombuffer(content, array_dtype(example.facts["dtype"])) for content in (value, predicted)]
    assert b"".join(former_remainder.encode(*arrays)) == example.stored
    assert difference.decode(example.stored, arrays[1]).tobytes() == value
    coded = independent.from_planes(example.stored, 2)
    assert independent.add_difference(predicted, coded, example.facts["dtype"]) == value


def remainder_in_classes(example: Example, tmp_path: Path) -> None:
    value, predicted = (
        b"".join(struct.pack("<I", int(text, 16)) for text in json.loads(example.facts[name]))
        for name in ("value", "predicted")
    )
    dtype, columns = example.facts["dtype"], json.loads(example.facts["shape"])[1]
    guess = np.frombuffer(predicted, array_dtype(dtype))
    assert exact_remainder.decode(example.stored, guess, exact_remainder.ElementSpan(0, columns)).tobytes() == value
    assert independent.add_classed(predicted, [example.stored], dtype, columns) == value


CHECKS = {
    "marker": marker,
    "record-frame": record_frame,
    "segmented-object": segmented_object,
    "runs": stage_of_runs,
    "words": stage_of_words,
    "canonical": canonical,
    "record": record,
    "ref": ref,
    "log-entry": log_entry,
    "coefficients": coefficients,
    "content-digest": content_digests,
    "packing": packed,
    "planes": planes,
    "section": section,
    "rounding": rounding,
    "classed": remainder_in_classes,
    "difference": remainder,
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.kind}-{example.line}")
def test_example_holds(example: Example, tmp_path: Path) -> None:
    CHECKS[example.kind](example, tmp_path)


def test_there_is_an_example_of_everything() -> None:
    assert {example.kind for example in EXAMPLES} == set(CHECKS)
    codecs = [example.facts["codec"] for example in EXAMPLES if example.kind == "section"]
    assert sorted(codecs) == ["dense", "factors", "gamma", "lowrank", "lowrank2", "remainder", "vector"]
    widths = [int(example.facts["width"]) for example in EXAMPLES if example.kind == "packing"]
    assert (0, *widths) == code_packing.WIDTHS
    kinds = collections.Counter(example.facts["kind"] for example in EXAMPLES if example.kind == "record")
    assert kinds == dict.fromkeys(RECORDS, 1) | {"layout": 2}
    assert {name: number for name, number in KINDS.items() if name != "pack"} == independent.KINDS
