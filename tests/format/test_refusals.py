"""What a newer version wrote is refused by name, and never guessed at."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.arrays import as_array
from erestore.encoding.quality import Quality
from erestore.errors import CorruptionError, UnsupportedFormatError
from erestore.objects.patch import Patch
from erestore.objects.residual import Residual
from erestore.objects.tensors import TensorReader
from erestore.storage.objects import ObjectStore
from erestore.variant.variant import Variant

_numbers = itertools.count()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a base and an exact variant, reached by a URL."""
    store = Store.init(f"memory://refusals-{next(_numbers)}")
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    save_file({"w": weight}, tmp_path / "base.safetensors")
    save_file({"w": weight + 0.1, "head": weight[:2].clone()}, tmp_path / "ft.safetensors")
    store.import_base(tmp_path / "base.safetensors", name="base")
    store.commit(tmp_path / "ft.safetensors", base="base", quality=Quality(exact=True))
    return store


def again(store: Store) -> Store:
    return Store.open(store.url)


def test_a_store_with_an_unknown_read_feature_is_not_opened(store: Store) -> None:
    store.storage.create("features/read/packs", b"{}")
    with pytest.raises(UnsupportedFormatError, match="'packs'"):
        again(store)


def test_a_store_with_an_unknown_write_feature_is_read_but_not_written(store: Store, tmp_path: Path) -> None:
    store.storage.create("features/write/notes", b"{}")
    opened = again(store)
    assert set(opened.state_dict("ft")) == {"w", "head"}
    assert opened.fsck(deep=True).clean
    before = {entry.key for entry in opened.storage.list()}
    for write in (
        lambda: opened.commit(tmp_path / "ft.safetensors", base="base", name="other"),
        lambda: opened.import_base(tmp_path / "base.safetensors", name="other"),
        lambda: opened.gc(grace_days=0, reflog_days=0),
        lambda: opened.branch("other", "ft"),
        lambda: opened.tag("v1", "ft"),
        lambda: opened.delete_branches(["ft"]),
        opened.undo,
        lambda: opened.set_setting("gc.grace_days", "1"),
        lambda: opened.configure("gc.grace_days", "1"),
    ):
        with pytest.raises(UnsupportedFormatError, match="'notes'"):
            write()
    assert {entry.key for entry in opened.storage.list()} == before


@pytest.mark.parametrize(
    ("marker", "what"),
    [
        (b'{"erestore":2,"id":"","read":[],"write":[]}', "format 2"),
        (b'{"erestore":1,"id":"","read":["packs"],"write":[]}', "'packs'"),
    ],
)
def test_a_marker_of_a_newer_version(marker: bytes, what: str) -> None:
    store = Store.init(f"memory://refusals-{next(_numbers)}")
    store.storage.delete("erestore.json")
    store.storage.create("erestore.json", marker)
    with pytest.raises(UnsupportedFormatError, match=what):
        again(store)


def rewritten(objects: ObjectStore, kind: str, oid: str, change: dict) -> str:
    """Store an object once more with another index."""
    held = objects.open(kind, oid)
    with objects.writer(kind, held.alignment) as writer:
        for number, segment in enumerate(held.segments):
            writer.add(held.read(number), raw_length=segment.raw_length, stage=segment.stage)
        index = {name: value for name, value in held.index.items() if name != "segments"} | change
        return writer.finish({name: value for name, value in index.items() if value is not None}).oid


OPENED = {
    "residual": lambda objects, oid, _: Residual.open(objects, oid),
    "patch": lambda objects, oid, _: Patch.open(objects, oid),
    "tensors": lambda objects, oid, data: list(TensorReader(objects).pieces(data._replace(oid=oid))),
}


@pytest.mark.parametrize("kind", OPENED)
@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"features": ["raw", "zstd", "rans"]}, UnsupportedFormatError, "'rans'"),
        ({"tables": []}, UnsupportedFormatError, "'tables'"),
        ({"features": None}, CorruptionError, "'features'"),
        ({"features": "raw"}, CorruptionError, "features"),
        ({"features": [1]}, CorruptionError, "features"),
    ],
)
def test_an_index_with_something_unknown(store: Store, kind: str, change: dict, error: type, what: str) -> None:
    manifest = store.manifest_of("ft")
    data = manifest.dense["head"][0].tensor.data
    oid = {"residual": manifest.terms[0].residual, "patch": manifest.patch, "tensors": data.oid}[kind]
    OPENED[kind](store.objects, rewritten(store.objects, kind, oid, {}), data)
    with pytest.raises(error, match=what):
        OPENED[kind](store.objects, rewritten(store.objects, kind, oid, change), data)


@pytest.mark.parametrize(
    "bands",
    [1, [1], [[1]], [[0, "0.1"]], [[9, "0.1"]], [[1, "0.1"], [1, "0.1"]], [[1, "nan"]], [[1, "-1"]], [["1", "0.1"]]],
    ids=str,
)
def test_bands_that_cannot_be(store: Store, bands: object) -> None:
    oid = store.manifest_of("ft").terms[0].residual
    assert Residual.open(store.objects, rewritten(store.objects, "residual", oid, {"bands": [[1, "0.1"]]})).bands
    changed = rewritten(store.objects, "residual", oid, {"bands": bands})
    with pytest.raises(CorruptionError, match="malformed"):
        Residual.open(store.objects, changed)


def test_an_unknown_evaluator(store: Store) -> None:
    oid = rewritten(store.objects, "residual", store.manifest_of("ft").terms[0].residual, {"evaluator": 2})
    with pytest.raises(UnsupportedFormatError, match="evaluator 2"):
        Residual.open(store.objects, oid)


@pytest.mark.parametrize("field", ["codec", "predictor", "median"])
def test_a_patched_tensor_with_something_unknown(store: Store, field: str) -> None:
    oid = store.manifest_of("ft").patch
    index = store.objects.open("patch", oid).index
    index["tensors"]["w"][field] = ["median"] if field == "predictor" else "median"
    with pytest.raises(UnsupportedFormatError, match="median"):
        Patch.open(store.objects, rewritten(store.objects, "patch", oid, index | {"segments": None}))


def test_an_exact_value_is_compared_with_its_digest(store: Store) -> None:
    manifest = store.manifest_of("ft")
    index = store.objects.open("patch", manifest.patch).index
    index["tensors"]["w"]["digest"] = "0" * 32
    patch = rewritten(store.objects, "patch", manifest.patch, index | {"segments": None})
    with pytest.raises(CorruptionError, match="'w' does not decode to the digest"):
        Variant(store.objects, replace(manifest, patch=patch)).tensor("w")


@pytest.mark.parametrize("lengths", [(0, 0), (10, 0), (0, 10)])
def test_a_tensor_of_another_number_of_parts(store: Store, lengths: tuple[int, int]) -> None:
    """A part that is not there, two in the place of one, or one of no bytes before it."""
    manifest = store.manifest_of("ft")
    index = store.objects.open("patch", manifest.patch).index
    ((segment, length),) = index["tensors"]["w"]["parts"]
    first, gone = lengths
    parts = [[segment, first], [segment, length - first]] if not gone else []
    index["tensors"]["w"]["parts"] = parts
    index["tensors"]["x"] = index["tensors"]["w"] | {"parts": [] if parts else [[segment, length]]}
    patch = rewritten(store.objects, "patch", manifest.patch, index | {"segments": None})
    with pytest.raises(CorruptionError, match="'w' has the wrong size"):
        Variant(store.objects, replace(manifest, patch=patch)).tensor("w")


def test_another_prediction_than_that_of_the_encoder_is_told(store: Store) -> None:
    patch = Patch.open(store.objects, store.manifest_of("ft").patch)
    with pytest.raises(CorruptionError, match="'w'"):
        patch.apply("w", as_array(store.state_dict("base")["w"]))


def test_other_names_beside_the_errors_are_information(store: Store) -> None:
    oid = store.manifest_of("ft").terms[0].residual
    index = store.objects.open("residual", oid).index
    index["tensors"]["w"]["errors"]["band 1"] = "0.5"
    changed = rewritten(store.objects, "residual", oid, index | {"segments": None})
    assert (
        Residual.open(store.objects, changed).tensors["w"].errors
        == Residual.open(store.objects, oid).tensors["w"].errors
    )
