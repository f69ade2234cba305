"""What version 1 of the format has written stays readable for ever, and decodes to what it decoded to then."""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from erestore.api import Store
from erestore.arrays import as_array, raw_bytes
from erestore.residual.code_packing import WIDTHS
from erestore.storage.frames import KINDS, is_segmented, kind_of

sys.path.append(str(Path(__file__).parents[1] / "format"))

from independent_reader import Reader, directory_of

HERE = Path(__file__).parent
EXPECTED = {name: json.loads((HERE / name / "expected.json").read_text()) for name in ("v1", "v1-runs", "v1-modules")}
"""What the first version wrote; codes in runs and modules in folders, which came later."""
REVISIONS = pytest.mark.parametrize(("name", "revision"), [(n, each) for n in EXPECTED for each in sorted(EXPECTED[n])])


@pytest.fixture(scope="module")
def stores() -> dict[str, Store]:
    return {name: Store.open(HERE / name / "store") for name in EXPECTED}


@pytest.fixture
def store(stores: dict[str, Store]) -> Store:
    return stores["v1"]


def digest(content: bytes | memoryview) -> str:
    return blake3(content).hexdigest(length=16)


def is_close(one: bytes, other: bytes, dtype: str) -> bool:
    """Return whether values that are not reproducible agree as far as two projections can."""
    if dtype == "BF16":
        one, other = (
            b"".join(b"\0\0" + content[i : i + 2] for i in range(0, len(content), 2)) for content in (one, other)
        )
    kind = {"F32": "<f4", "F64": "<f8", "BF16": "<f4"}[dtype]
    tolerance = 2.0**-7 if dtype == "BF16" else 1e-6
    return np.allclose(np.frombuffer(one, kind), np.frombuffer(other, kind), rtol=tolerance, atol=1e-7)


@REVISIONS
def test_decodes_to_what_it_did(stores: dict[str, Store], name: str, revision: str) -> None:
    store, expected = stores[name], EXPECTED[name][revision]
    assert store.resolve(revision) == expected["commit"]
    tensors = store.state_dict(revision)
    assert set(tensors) == set(expected["tensors"])
    for own, (_, shape, value) in expected["tensors"].items():
        tensor = tensors[own]
        assert list(tensor.shape) == shape
        if value is not None:
            assert digest(raw_bytes(as_array(tensor))) == value, own


@REVISIONS
def test_a_second_reader_decodes_the_same(stores: dict[str, Store], name: str, revision: str) -> None:
    store, expected = stores[name], EXPECTED[name][revision]
    second = Reader(HERE / name / "store")
    tensors = second.tensors(second.manifest_of(expected["commit"]))
    assert set(tensors) == set(expected["tensors"])
    for own, (dtype, _, value) in expected["tensors"].items():
        if value is None:
            assert is_close(tensors[own], bytes(raw_bytes(as_array(store.state_dict(revision)[own]))), dtype), own
        else:
            assert digest(tensors[own]) == value, own


@REVISIONS
def test_side_files_are_those_that_were_committed(stores: dict[str, Store], name: str, revision: str) -> None:
    second, expected = Reader(HERE / name / "store"), EXPECTED[name][revision]
    layout = second.record("layout", second.manifest_of(expected["commit"])["layout"])
    assert set(layout["side_files"]) == set(expected["side_files"])
    for path, oid in layout["side_files"].items():
        content = stores[name].objects.get_blob(oid)
        assert digest(content) == digest(second.blob(oid)) == expected["side_files"][path]


@pytest.mark.parametrize(("name", "unreachable"), [("v1", 1), ("v1-runs", 0), ("v1-modules", 0)])
def test_nothing_is_damaged(stores: dict[str, Store], name: str, unreachable: int) -> None:
    found = stores[name].fsck(deep=True)
    assert found.clean
    assert len(found.unreachable) == unreachable


def test_refs_tags_and_what_was_deleted(store: Store) -> None:
    names = {name: entry.oid for name, entry in store.refs.all().items()}
    assert names == Reader(HERE / "v1" / "store").refs()
    assert names["gone"] is None
    assert store.refs.names("tag") == ["v1"]
    assert names["v1"] == names["lossy"]
    assert [entry.number for entry in store.refs.log("lossy")] == [2, 1]
    assert store.config() == {"gc.grace_days": "14"}


def test_checkpoints_come_out_in_both_formats(store: Store, tmp_path: Path) -> None:
    import torch

    store.checkout("merged", tmp_path / "merged")
    assert (tmp_path / "merged" / "vocab.txt").stat().st_size > 1 << 20
    store.checkout("torch", tmp_path / "torch.pt")
    state = torch.load(tmp_path / "torch.pt", weights_only=True)
    assert (state["epoch"], state["rate"], state["betas"], state["note"]) == (3, 0.1, (0.9, 0.999), b"\x00\xff")
    assert state["model"]["decoder.weight"].data_ptr() == state["model"]["embed.weight"].data_ptr()


@pytest.mark.parametrize("revision", sorted(EXPECTED["v1-modules"]))
def test_files_of_modules_hold_the_names_that_a_second_reader_says(
    stores: dict[str, Store], tmp_path: Path, revision: str
) -> None:
    import torch
    from safetensors.torch import load_file

    stores["v1-modules"].checkout(revision, tmp_path / "out")
    second = Reader(HERE / "v1-modules" / "store")
    files = second.files(second.manifest_of(EXPECTED["v1-modules"][revision]["commit"]))
    assert {path: kind for path, (kind, _) in files.items()} == {
        "model.safetensors": "safetensors",
        "1_Dense/model.safetensors": "safetensors",
        "2_LSTM/pytorch_model.bin": "torch",
    }
    for path, (kind, names) in files.items():
        out = tmp_path / "out" / path
        state = load_file(out) if kind == "safetensors" else torch.load(out, weights_only=True)
        assert set(state) == set(names)


def test_the_store_holds_everything_that_version_1_has(store: Store) -> None:
    found = collections.defaultdict(set)
    for stored in store.objects.list():
        start = store.storage.read_range(f"objects/{stored.oid[:2]}/{stored.oid[2:]}", 0, 20)
        kind = kind_of(start)
        found["kinds"].add(kind)
        found["forms"].add((is_segmented(start), start[6]))
        if not is_segmented(start):
            continue
        held = store.objects.open(kind, stored.oid)
        found["stages"] |= {(kind, segment.stage) for segment in held.segments}
        found["alignments"].add(held.alignment)
        for tensor in held.index.get("tensors", {}).values():
            if kind == "patch":
                found["predictors"].add(tensor["predictor"][0])
                continue
            for name, parameters, _ in tensor["sections"]:
                found["codecs"].add(name)
                found["groups"].add(len(parameters.get("groups", ())))
    assert found["kinds"] == set(KINDS) - {"note", "pack"}
    assert found["forms"] == {(False, 0), (False, 1), (True, 1)}  # small indexes always compress
    assert found["stages"] >= {(kind, stage) for kind in ("tensors", "residual") for stage in ("raw", "zstd")}
    assert found["stages"] >= {("patch", "zstd"), ("blob", "zstd")}
    assert found["alignments"] == {1, 4096}
    assert found["predictors"] == {"linear", "base", "stored"}
    assert found["codecs"] == {"lowrank", "gamma", "vector", "dense", "factors", "ere"}
    assert found["groups"] >= {0, 1, 3}
    assert len(WIDTHS) == 6


def test_the_store_of_runs_holds_what_is_special_there(stores: dict[str, Store]) -> None:
    """Both widths, several classes and zeros, every codec beside the others, a chain of four, and the errors of bands."""
    store = stores["v1-runs"]
    found = collections.defaultdict(set)
    for stored in store.objects.list():
        if kind_of(store.storage.read_range(f"objects/{stored.oid[:2]}/{stored.oid[2:]}", 0, 20)) != "residual":
            continue
        held = store.objects.open("residual", stored.oid)
        assert "bands" in held.index
        found["features"] |= set(held.index["features"])
        for number, segment in enumerate(held.segments):
            found["stages"].add(segment.stage)
            if segment.stage == "runs":
                groups, chunks, classes = directory_of(held.read(number))
                found["widths"] |= {width for width, _, _ in groups}
                found["chunks"].add(len(chunks))
                found["classes"] |= set(classes)
        for tensor in held.index["tensors"].values():
            found["together"].add(tuple(name for name, _, _ in tensor["sections"]))
            for _, parameters, parts in tensor["sections"]:
                found["groups"].add(len(parameters.get("groups", ())))
                found["parts"].add(len(parts))
    assert found["features"] == {"gamma", "lowrank2", "remainder", "runs", "zstd"}
    assert found["stages"] == {"runs", "zstd"}
    assert found["widths"] == {1, 2, 4}
    assert found["chunks"] >= {2, 3, 4, 10}
    assert found["classes"] >= set(range(10))
    assert found["together"] >= {("gamma", "lowrank2", "remainder"), ("lowrank2",), ("remainder",), ("gamma",)}
    assert found["groups"] == {0, 1, 3}
    assert found["parts"] == {0, 1, 3}
    assert len(store.manifest_of("grandchild").terms) == 4


def test_every_dtype_and_shape_that_is_special(store: Store) -> None:
    tensors = store.state_dict("base")
    assert {str(tensor.dtype) for tensor in tensors.values()} >= {
        f"torch.{name}"
        for name in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "bool", "complex64")
    }
    assert {tensor.ndim for tensor in tensors.values()} == {0, 1, 2, 4}
    assert any(tensor.numel() == 0 for tensor in tensors.values())
    assert tensors["broken.weight"].isnan().any()
