"""Checkout without the exact remainder and of the front of residuals: what is read, what is written, what error is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from counting import CountingStorage
from lineages import reopened
from safetensors.torch import load_file

from erestore.api import Store
from erestore.arrays import as_tensor
from erestore.checkpoint import marker
from erestore.encoding.quality import Quality
from erestore.errors import CorruptionError, UsageError
from erestore.objects.residual import Residual
from erestore.ops.checkout import CheckoutResult
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.open import open_storage
from erestore.storage.segments import FIRST_READ

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "store"
Tensors = dict[str, torch.Tensor]

BASE_SHAPES = {"flat": (64, 96), "tall": (1400, 600), "wide": (500, 1500), "bias": (200,)}


def base() -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in BASE_SHAPES.items()}


def tuned(weights: Tensors, seed: int) -> Tensors:
    """Spectra that go on for some sixty components and end in noise, one flat tensor, one bias."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in weights.items():
        change = 0.3 * torch.randn(tensor.shape, generator=generator)
        if name in ("tall", "wide"):
            left, right = (torch.randn(size, 60, generator=generator) for size in tensor.shape)
            change = 0.1 * change + (left * torch.logspace(-1, -2.5, 60)) @ right.T
        found[name] = tensor + change
    return found


def lost(original: Tensors, found: Tensors, parent: Tensors) -> float:
    """``relative_error`` by its definition."""
    error = sum(float(((original[key].double() - found[key].double()) ** 2).sum()) for key in original)
    return error / sum(float(((original[key].double() - parent[key].double()) ** 2).sum()) for key in original)


class World:
    """A store with a base, an exact variant, a child of that, an archive, and what they were made from."""

    def __init__(self, place: Path) -> None:
        self.storage = CountingStorage(LocalStorage(place / "store"))
        tiny.make_store(self.storage.inner)
        self.store = reopened(self.storage)
        self.original = {"base": base()}
        self.original["ft"] = tuned(self.original["base"], 2)
        self.original["child"] = tuned(self.original["ft"], 3)
        for name, tensors in self.original.items():
            tiny.write_model(place / name, tensors)
        self.store.import_base(place / "base", name="base")
        self.store.commit(place / "ft", base="base", quality=Quality(exact=True, max_error=1e-3))
        self.store.commit(place / "child", parent="ft", quality=Quality(max_error=1e-3))
        self.store.commit(place / "ft", base="base", name="archive", quality=Quality(exact_only=True))
        self.parent = {"ft": self.original["base"], "child": dict(self.store.state_dict("ft", lossy=True))}
        self.place = place

    def checkout(self, name: str, **options: Any) -> tuple[CheckoutResult, float]:
        """Check out, reading afresh; return what is said and the true error."""
        shutil.rmtree(self.place / "out", ignore_errors=True)  # a replacement would be compared first
        self.storage.reads.clear()
        result = self.store.checkout(name, self.place / "out", **options)
        return result, lost(self.original[name], load_file(self.place / "out" / "model.safetensors"), self.parent[name])

    def residual(self, name: str) -> Residual:
        """The residual that a variant added."""
        return Residual.open(self.store.objects, self.store.commit_record(self.store.resolve(name)).own[0])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("fronts"))


def patch_of(world: World, name: str) -> str:
    patch = world.store.manifest_of(name).patch
    assert patch
    return patch


# ---------------------------------------------------------------------------------------------------------- lossy


def test_a_lossy_checkout_never_touches_the_patch(world: World) -> None:
    patch = patch_of(world, "ft")
    result, error = world.checkout("ft", lossy=True)
    assert world.storage.bytes_of(patch) == 0
    assert (result.exact, result.lossy, result.error_bound) == (False, True, None)
    assert 0 < error <= 1e-3
    assert result.relative_error == pytest.approx(error, rel=1e-6)
    assert result.residual_bytes_read == result.residual_bytes
    whole, none = world.checkout("ft")
    assert world.storage.bytes_of(patch) > 0
    assert (whole.exact, whole.lossy, whole.relative_error, none) == (True, False, 0.0, 0.0)


def test_a_missing_patch_is_no_hindrance(world: World) -> None:
    store = tiny.copy_store(world.storage, MemoryStorage())
    store.objects.delete(patch_of(world, "ft"))
    store = reopened(store.storage)
    assert set(store.state_dict("ft", lossy=True)) == set(BASE_SHAPES)
    value = store.cat("ft", "tall", lossy=True).value
    assert torch.equal(value, store.state_dict("ft", lossy=True)["tall"])
    assert not torch.equal(value, world.original["ft"]["tall"])
    with pytest.raises(CorruptionError):
        store.cat("ft", "tall")


def test_lossy_changes_nothing_where_nothing_is_exact(world: World) -> None:
    result, error = world.checkout("child", lossy=True)
    assert (result.lossy, result.exact) == (False, False)
    assert result.relative_error == pytest.approx(error, rel=1e-6)
    assert world.store.checkout("base", world.place / "out", force=True, lossy=True).exact


def test_an_archive_has_no_lossy_part(world: World) -> None:
    for refused in (
        lambda: world.store.checkout("archive", world.place / "no", lossy=True),
        lambda: world.store.checkout("archive", world.place / "no", max_rank=4),
        lambda: world.store.checkout("archive", world.place / "no", max_bytes=4),
        lambda: world.store.cat("archive", "tall", lossy=True),
        lambda: world.store.state_dict("archive", lossy=True),
    ):
        with pytest.raises(UsageError, match="'archive' was committed with --exact-only") as refusal:
            refused()
        assert refusal.value.hint
    assert not (world.place / "no").exists()


# --------------------------------------------------------------------------------------------------------- prefix


def test_there_is_something_to_cut(world: World) -> None:
    held = world.residual("ft")
    assert len(held.bands) >= 4
    assert {section.codec for tensor in held.tensors.values() for section in tensor.sections} >= {
        "lowrank2",
        "remainder",
    }
    assert sum(segment.stored_length for segment in held.segments[:2]) > FIRST_READ / 4


@pytest.mark.parametrize("rank", [4, 16])
def test_a_rank_that_ends_a_band_leaves_the_recorded_error(world: World, rank: int) -> None:
    result, error = world.checkout("ft", max_rank=rank)
    assert result.relative_error == pytest.approx(error, rel=1e-3)
    assert (result.error_bound, result.exact, result.lossy) == (None, False, True)
    held = world.residual("ft")
    assert str(result.relative_error) in {str(value) for _, value in held.bands[:-1]}
    assert result.residual_bytes_read == sum(s.stored_length for s in held.segments[: [4, 16].index(rank) + 1])


@pytest.mark.parametrize("rank", [1, 3, 5, 15, 17, 40])
def test_a_rank_within_a_band_is_at_most_as_wrong_as_the_band_before(world: World, rank: int) -> None:
    result, error = world.checkout("ft", max_rank=rank)
    assert (result.relative_error, result.exact) == (None, False)
    assert result.error_bound is not None
    assert error <= result.error_bound
    shorter = [stop for stop in (4, 16, 64) if stop < rank]
    expected = world.checkout("ft", max_rank=shorter[-1])[0].relative_error if shorter else 1.0
    assert result.error_bound == expected


def test_the_components_are_the_first_ones(world: World) -> None:
    """A rank has exactly so many components; what is written is their sum."""
    world.checkout("ft", max_rank=5)
    found = load_file(world.place / "out" / "model.safetensors")
    held = world.residual("ft")
    for name in ("tall", "wide"):
        (section, *_) = held.sections(name)
        factors = section.factors()
        assert factors is not None
        left, right = map(as_tensor, factors)
        assert left.shape[1] > 16
        expected = world.original["base"][name].double() + left[:, :5] @ right[:, :5].T
        assert torch.allclose(found[name].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(found["flat"], world.original["base"]["flat"])  # a remainder alone, which is not read
    assert not torch.equal(found["bias"], world.original["base"]["bias"])


@pytest.mark.parametrize("name", ["ft", "child"])
def test_more_is_never_worse(world: World, name: str) -> None:
    errors = [world.checkout(name, max_rank=rank)[1] for rank in (1, 2, 4, 8, 16, 32, 64, 1000)]
    assert errors == sorted(errors, reverse=True)
    total = world.checkout(name)[0].residual_bytes
    errors = [world.checkout(name, max_bytes=total * share // 8)[1] for share in range(9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.1e-3


@pytest.mark.parametrize("name", ["ft", "child"])
@pytest.mark.parametrize(
    "options", [{"max_rank": 4}, {"max_rank": 6}, {"max_rank": 30}, {"max_bytes": 200_000}], ids=str
)
def test_no_more_is_read_than_is_said(world: World, name: str, options: dict[str, int]) -> None:
    result, error = world.checkout(name, **options)
    terms = world.store.manifest_of(name).terms
    read = sum(world.storage.bytes_of(term.residual) for term in terms)
    assert read <= result.residual_bytes_read + 2 * FIRST_READ * len(terms)  # opened once more to look for errors
    assert result.residual_bytes_read < result.residual_bytes
    if "max_bytes" in options:
        assert result.residual_bytes_read <= options["max_bytes"]
    known = result.error_bound if result.relative_error is None else result.relative_error
    assert known is not None
    assert error <= known * 1.001


def test_bytes_take_whole_bands_of_every_term(world: World) -> None:
    manifest = world.store.manifest_of("child")
    held = [Residual.open(world.store.objects, term.residual) for term in manifest.terms]
    first = [sum(s.stored_length for s in residual.segments[: residual.bands[0][0]]) for residual in held]
    second = [
        sum(s.stored_length for s in residual.segments[residual.bands[0][0] : residual.bands[1][0]])
        for residual in held
    ]
    for budget, expected in (
        (min(first) - 1, 0),
        (sum(first), sum(first)),
        (sum(first) + min(second) - 1, sum(first)),
        (sum(first) + sum(second), sum(first) + sum(second)),
    ):
        result, _ = world.checkout("child", max_bytes=budget)
        assert result.residual_bytes_read == expected


def test_all_of_it_is_the_variant(world: World) -> None:
    for name in ("ft", "child"):
        lossy, error = world.checkout(name, lossy=True)
        whole, same = world.checkout(name, max_bytes=1 << 40)
        assert same == error
        assert replace(whole, path="") == replace(lossy, path="")
        assert not whole.lossy or name == "ft"
    child = world.checkout("child", max_bytes=1 << 40)[0]
    assert child.relative_error == world.store.log(["child"])[0].relative_error


def test_nothing_read_is_the_base(world: World) -> None:
    result, error = world.checkout("ft", max_bytes=0)
    assert (result.residual_bytes_read, result.error_bound) == (0, 1.0)
    assert error == pytest.approx(1.0)


def test_a_rank_and_bytes_exclude_each_other(world: World) -> None:
    for options in ({"max_rank": 1, "max_bytes": 1}, {"max_rank": -1}, {"max_bytes": -1}):
        with pytest.raises(UsageError):
            world.store.checkout("ft", world.place / "no", **options)


@pytest.mark.s3
@pytest.mark.parametrize("server", ["moto_url", "seaweed_url"])
def test_a_remote_sends_the_front_alone(
    world: World, request: pytest.FixtureRequest, server: str, tmp_path: Path
) -> None:
    url, options = request.getfixturevalue(server)
    remote = open_storage(url, options=options)
    for entry in list(world.storage.inner.list()):
        remote.create(entry.key, world.storage.inner.read(entry.key))
    storage = CountingStorage(remote)
    store = reopened(storage)
    (term,) = store.manifest_of("ft").terms
    storage.reads.clear()
    whole = store.checkout("ft", tmp_path / "whole", lossy=True)
    all_bytes = storage.bytes_of(term.residual)
    storage.reads.clear()
    front = store.checkout("ft", tmp_path / "front", max_rank=4)
    assert storage.bytes_of(term.residual) <= front.residual_bytes_read + 2 * FIRST_READ
    assert all_bytes >= whole.residual_bytes_read > 2 * storage.bytes_of(term.residual)
    assert storage.bytes_of(patch_of(world, "ft")) == 0
    local, _ = world.checkout("ft", max_rank=4)
    assert (tmp_path / "front" / "model.safetensors").read_bytes() == Path(local.path, "model.safetensors").read_bytes()


# --------------------------------------------------------------------------------------------------- older residuals


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN, place / "store")
    return Store.open(place / "store")


def revisions(store: Store) -> list[str]:
    return [entry.refs[0] for entry in store.log() if entry.refs]


def test_residuals_without_recorded_errors_are_cut_too(golden: Store, tmp_path: Path) -> None:
    cut = 0
    for number, name in enumerate(revisions(golden)):
        quality = golden.commit_record(golden.resolve(name)).quality
        if quality.get("codec") == "exact-only":
            continue
        for option in ({"max_rank": 1}, {"max_rank": 3}, {"max_bytes": 100}):
            result = golden.checkout(name, tmp_path / f"{number}-{'-'.join(option)}-{option}", **option)
            if result.residual_bytes_read < result.residual_bytes:
                cut += 1
                assert (result.relative_error, result.error_bound) == (None, None)
        whole = golden.checkout(name, tmp_path / f"{number}-whole", max_rank=1000)
        lossy = golden.checkout(name, tmp_path / f"{number}-lossy", lossy=True)
        assert whole.residual_bytes_read == whole.residual_bytes
        assert tree(tmp_path / f"{number}-whole") == tree(tmp_path / f"{number}-lossy")
        assert lossy.relative_error == whole.relative_error
    assert cut >= 6


def tree(path: Path) -> dict[str, bytes]:
    """All files of a checkout but the marker, which says how it was asked for."""
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.name != marker.NAME}


def test_bands_of_older_residuals_follow_from_their_parts(golden: Store) -> None:
    stops = {}
    for name in revisions(golden):
        for term in golden.manifest_of(name).terms:
            held = Residual.open(golden.objects, term.residual)
            assert not held.bands
            stops[term.residual] = held.band_stops
            assert list(held.band_stops) == sorted(set(held.band_stops))
            assert held.band_stops[-1] == len(held.segments)
    assert max(map(len, stops.values())) >= 3


def test_the_error_of_an_older_exact_commit_follows_from_its_residual(golden: Store, tmp_path: Path) -> None:
    exact = 0
    for name in revisions(golden):
        commit = golden.commit_record(golden.resolve(name))
        if not golden.manifest_of(name).patch or commit.quality["codec"] == "exact-only":
            continue
        assert "lossy_error" not in commit.quality
        result = golden.checkout(name, tmp_path / name.replace("/", "-"), lossy=True)
        original = dict(golden.state_dict(name))
        found = dict(golden.state_dict(name, lossy=True))
        parent = dict(golden.state_dict(commit.parents[0], lossy=bool(golden.manifest_of(commit.parents[0]).patch)))
        shared = {}
        for key in original.keys() & parent.keys():
            rows = slice(min(len(original[key]), len(parent[key]))) if original[key].ndim else ...
            if original[key].is_floating_point() and bool(original[key].double().isfinite().all()):
                shared[key] = original[key][rows]
                found[key] = found[key][rows]
                parent[key] = parent[key][rows].to(original[key].dtype)
        assert result.relative_error == pytest.approx(lost(shared, found, parent), rel=0.02)
        exact += 1
    assert exact


def test_the_recorded_error_of_a_narrow_dtype_is_that_of_the_rounded_value(tmp_path: Path) -> None:
    place = tmp_path / "narrow"
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in base().items()}
    original = {name: tensor.to(torch.bfloat16) for name, tensor in tuned(base(), 5).items()}
    tiny.write_model(place / "base", weights)
    tiny.write_model(place / "ft", original)
    store = Store.init(tmp_path / "store")
    store.import_base(place / "base", name="base")
    store.commit(place / "ft", base="base", quality=Quality(exact=True, max_error=0.05))
    quality = store.commit_record(store.resolve("ft")).quality
    found = dict(store.state_dict("ft", lossy=True))
    assert float(quality["lossy_error"]) == pytest.approx(lost(original, found, weights), rel=1e-9)
    assert quality["lossy_error"] != quality["linear_error"]
    assert store.checkout("ft", tmp_path / "out", lossy=True).relative_error == float(quality["lossy_error"])
    assert store.show("ft").lossy_error == float(quality["lossy_error"])


# ------------------------------------------------------------------------------------------------------- hostile index


@pytest.mark.parametrize(
    "bands",
    [[], [[1, "0.1"]], [[9, "0.1"]], [["1", "0.1"]], [[1, "x"]], [[1, "nan"]], [[1, "-1"]], 3, [[2, "1"], [1, "0"]]],
    ids=json.dumps,
)
def test_malformed_bands_are_corruption(world: World, bands: Any) -> None:
    held = world.store.objects.open("residual", world.residual("ft").oid)
    assert len(held.segments) > 1
    index = {key: value for key, value in held.index.items() if key != "segments"} | {"bands": bands}
    with world.store.objects.writer("residual") as writer:
        for segment, content in zip(held.segments, held.read_many(range(len(held.segments))), strict=True):
            writer.add(content, raw_length=segment.raw_length, stage=segment.stage)
        written = writer.finish(index)
    with pytest.raises(CorruptionError):
        Residual.open(world.store.objects, written.oid)
    world.store.objects.delete(written.oid)
