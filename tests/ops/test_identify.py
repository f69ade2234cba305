"""``identify``: distances against those of checked-out values, and what fits nothing."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from fleets import adapter, fleet, floating_keys, linear

from erestore.analysis.similarity import nearest
from erestore.api import Store
from erestore.errors import CheckpointError, NotFoundError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("identify")


@pytest.fixture(scope="module")
def store(place):
    return fleet(place)


def values(tensors, keys):
    return np.concatenate([tensors[key].double().numpy().reshape(-1) for key in keys])


@pytest.mark.parametrize("held", [1 << 30, 1])
def test_distances_are_those_of_the_values(store, tmp_path, monkeypatch, held):
    monkeypatch.setattr(nearest, "_HELD_BYTES", held)
    monkeypatch.setattr(nearest, "_STRIP", 2)
    keys = floating_keys(store)
    base = tiny.base_weights()
    wanted = tiny.tuned(base, 4)
    wanted = {key: wanted[key][:64] if key == "embedding.weight" else wanted[key] for key in base}
    found = store.identify(tiny.write_model(tmp_path / "ft", wanted), products_directory=tmp_path / "products")
    own = values(wanted, keys)
    start = linear(store, "base", keys)
    for near in found.nearest:
        other = linear(store, near.name, keys)
        assert near.distance == pytest.approx(np.linalg.norm(own - other), rel=1e-9)
        assert near.relative_distance == pytest.approx(near.distance / np.linalg.norm(own - start))
        if near.name == "base":
            assert near.cosine is None
        else:
            cosine = (own - start) @ (other - start) / np.linalg.norm(own - start) / np.linalg.norm(other - start)
            assert near.cosine == pytest.approx(cosine, abs=1e-9)
    assert [near.distance for near in found.nearest] == sorted(near.distance for near in found.nearest)
    assert found.parent == found.nearest[0]
    (fitting,) = found.bases
    assert (fitting.name, fitting.fits, fitting.tensors) == ("base", True, 5)
    assert fitting.relative_distance == pytest.approx(np.linalg.norm(own - start) / np.linalg.norm(start))


@pytest.mark.parametrize("name", ["one", "two", "child", "base"])
def test_a_checkpoint_is_nearest_to_its_own_variant(store, place, name):
    found = store.identify(place / name)
    assert found.parent.name == name
    assert found.base == "base"
    if name == "base":
        assert (found.parent.distance, found.parent.relative_distance) == (0, None)


def test_a_further_fine_tune_is_nearest_to_its_parent(store, place, tmp_path):
    weights = tiny.weights_of(place / "child")
    generator = torch.Generator().manual_seed(9)
    further = {
        key: (value.float() + 1e-3 * torch.randn(value.shape, generator=generator)).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in weights.items()
    }
    found = store.identify(tiny.write_model(tmp_path / "further", further))
    assert found.parent.name == "child"
    assert found.nearest[1].name == "one"
    assert (
        store.identify(tiny.write_model(tmp_path / "unrelated", tiny.tuned(tiny.base_weights(), 77))).parent.name
        == "base"
    )


def test_what_is_not_finite_is_left_out(store, place, tmp_path):
    weights = tiny.weights_of(place / "one")
    weights["dense.bias"][3] = float("nan")
    found = store.identify(tiny.write_model(tmp_path / "broken", weights))
    assert found.left_out == ("dense.bias",)
    assert found.parent.name == "one"


def test_several_bases(store, place, tmp_path):
    other = {key: value + 1 if value.is_floating_point() else value for key, value in tiny.base_weights().items()}
    fresh = Store.init(tmp_path / "store")
    fresh.import_base(place / "base", name="base")
    fresh.import_base(tiny.write_model(tmp_path / "other", other), name="other")
    fresh.import_base(tiny.write_model(tmp_path / "small", {"x": torch.ones(3, 5)}), name="small")
    fresh.commit(place / "one", base="base", name="one")
    found = fresh.identify(place / "one")
    assert (found.base, found.parent.name) == ("base", "one")
    assert [(base.name, base.fits) for base in found.bases] == [("base", True), ("other", True), ("small", False)]
    assert "another architecture" in found.bases[2].reason
    assert {near.base for near in found.nearest} == {"base", "other"}
    assert fresh.identify(tmp_path / "small").parent.name == "small"
    with pytest.raises(CheckpointError, match="fits no base"):
        fresh.identify(tiny.write_model(tmp_path / "odd", {"y.weight": torch.ones(2, 2)}))


def test_what_is_refused(store, tmp_path):
    with pytest.raises(NotFoundError, match="no checkpoint"):
        store.identify(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="adapter"):
        store.identify(adapter(tmp_path / "lora"))
    (tmp_path / "text").mkdir()
    with pytest.raises(CheckpointError, match="no weights"):
        store.identify(tmp_path / "text")
    with pytest.raises(NotFoundError, match="no base"):
        Store.init(tmp_path / "empty").identify(tiny.write_model(tmp_path / "base", tiny.base_weights()))
