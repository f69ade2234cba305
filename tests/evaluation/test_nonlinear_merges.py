"""Merges that are encoded, from real commits to what is checked out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_algebra import FLOATING, World

from erestore.errors import CombinationError, UsageError
from erestore.merge.registry import strategy
from erestore.merge.spectral import SpectralStrategy

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("nonlinear"))
    for name in NAMES:
        world.commit(name, world.tune(world.base, **{"head.weight": world.noise(2, 24)}))
    return world


def deltas(world: World, key: str) -> list[np.ndarray]:
    return [world.linear(name, key) - world.linear("base", key) for name in NAMES]


def near(world: World, name: str, wanted: dict[str, np.ndarray], error: float) -> None:
    lost = norm = 0.0
    found, base = world.store.state_dict(name), world.store.state_dict("base")
    for key, value in wanted.items():
        lost += float(np.square(found[key].double().numpy().reshape(value.shape) - value).sum())
        norm += float(np.square(value - base[key].double().numpy().reshape(value.shape)).sum())
    assert lost / norm <= error


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ties", {"density": "0.3", "scale": "0.7"}),
        ("dare", {"density": "0.5", "seed": "3"}),
        ("dare-ties", {"density": "0.5"}),
        ("tsv", {}),
        ("iso-c", {"scale": "0.5"}),
        ("knots", {"density": "0.4"}),
        ("core-space", {"density": "0.4"}),
    ],
)
def test_a_checkout_is_what_the_strategy_says(world: World, name: str, options: dict[str, str]) -> None:
    done = world.store.merge(NAMES, name=name, strategy=name, options=options, max_error=1e-4)
    chosen = strategy(name, options)
    wanted = {}
    for key in FLOATING:
        parts = deltas(world, key)
        if isinstance(chosen, SpectralStrategy):
            is_vector = len(world.base[key].shape) < 2
            merged = sum(parts) / 3 if is_vector else chosen.merge([part.copy() for part in parts])
        else:
            masks = chosen.masks(key, 3)
            kept = [mask.next(*parts[0].shape) for mask in masks]
            prepared = [chosen.prepare(part) for part in parts]
            merged = chosen.merge([part.copy() for part in parts], [1.0] * 3, prepared, kept)
        wanted[key] = world.linear("base", key) + merged
    near(world, name, wanted, 2e-4)
    heads = [world.store.state_dict(each)["head.weight"].double() for each in NAMES]
    head = sum(heads) / 3
    assert torch.allclose(world.store.state_dict(name)["head.weight"].double(), head, atol=1e-7)
    shown = world.store.show(name)
    assert (shown.edge, len(shown.terms)) == ("merged", 1)
    assert shown.relative_error == pytest.approx(done.relative_error)
    assert done.relative_error <= 1e-4
    assert shown.recipe["strategy"] == name
    assert world.store.merge(NAMES, name=name, strategy=name, options=options, max_error=1e-4).unchanged


def test_undo_computes_it_again_without_the_operand(world: World) -> None:
    world.store.merge(NAMES, name="three", strategy="ties")
    world.store.merge(("a", "b"), name="two", strategy="ties")
    world.store.unmerge("three", "c")
    for key in FLOATING:
        assert torch.equal(world.store.state_dict("three")[key], world.store.state_dict("two")[key])
    assert world.store.fsck(deep=True).corrupt == ()
    assert world.store.diff("three", "two").summary is not None


def test_what_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two variants"):
        world.store.merge(["a"], name="x", strategy="ties")
    with pytest.raises(UsageError, match="exact"):
        world.store.merge(["a", "b"], name="x", strategy="average", max_error=0.1)
    with pytest.raises(UsageError, match="between"):
        world.store.merge(["a", "b"], name="x", strategy="ties", max_error=3)
    world.commit("headless", world.tune(world.base))
    with pytest.raises(CombinationError, match="head"):
        world.store.merge(["a", "headless"], name="x", strategy="tsv")
    assert not world.store.has_ref("x")
    assert world.store.merge(["a", "headless"], name="ours", strategy="tsv", choose="ours").chosen
