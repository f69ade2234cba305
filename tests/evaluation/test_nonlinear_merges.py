"""Merges that are encoded, from real commits to what is checked out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_algebra import FLOATING, World

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError, UsageError
from erestore.merge.operands import FactoredOperands, MatrixFactors, TiledOperands
from erestore.merge.registry import strategy
from erestore.merge.tiles import rows_of

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


def merged(
    world: World, name: str, options: dict[str, str], key: str, statistics: list[np.ndarray] | None = None
) -> np.ndarray:
    """What a strategy makes of whole differences."""
    chosen, parts = strategy(name, options), deltas(world, key)
    is_vector = len(world.base[key].shape) < 2
    if chosen.kind == "factors" and is_vector:
        chosen = chosen.fallback()
    common = {
        "tensor": key,
        "shape": parts[0].shape,
        "labels": tuple(world.store.resolve(each) for each in NAMES),
        "weights": (Fraction(1),) * 3,
        "statistics": statistics,
    }
    if chosen.kind == "linear":
        return sum(float(c) * part for c, part in zip(chosen.coefficients(common["weights"], list), parts, strict=True))
    if chosen.kind == "factors":
        factors = [MatrixFactors(part, np.eye(part.shape[1])) for part in parts]
        left, right = chosen.merge(FactoredOperands(factors=factors, **common))
        return left @ right.T
    return chosen.prepare(TiledOperands(rows=[rows_of(part) for part in parts], **common))(0, len(parts[0]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ties", {"density": "0.3", "scale": "0.7"}),
        ("ties", {"density": "0.3", "space": "core"}),
        ("dare", {"density": "0.5", "seed": "3"}),
        ("dare", {"density": "0.5", "merge_by": "ties"}),
        ("tsv", {}),
        ("iso-c", {"scale": "0.5"}),
        ("knots", {"density": "0.4"}),
        ("core-space", {"inner": "ties", "density": "0.4"}),
    ],
)
def test_a_checkout_is_what_the_strategy_says(world: World, name: str, options: dict[str, str]) -> None:
    made = {"name": f"{name}-{len(options)}", "strategy": name, "options": options, "max_error": 1e-4}
    done = world.store.merge(NAMES, **made)
    wanted = {key: world.linear("base", key) + merged(world, name, options, key) for key in FLOATING}
    near(world, made["name"], wanted, 2e-4)
    heads = [world.store.state_dict(each)["head.weight"].double() for each in NAMES]
    head = sum(heads) / 3
    assert torch.allclose(world.store.state_dict(made["name"])["head.weight"].double(), head, atol=1e-7)
    shown = world.store.show(made["name"])
    assert (shown.edge, len(shown.terms)) == ("merged", 1)
    assert shown.relative_error == pytest.approx(done.relative_error)
    assert done.relative_error <= 1e-4
    assert shown.recipe["strategy"] == name
    assert world.store.merge(NAMES, **made).unchanged


def test_statistics_of_the_variants(world: World) -> None:
    fisher, moments = [], []
    for name in NAMES:
        squares = {
            key: world.noise(*tensor.shape).square() + 0.01 for key, tensor in world.base.items() if key in FLOATING
        }
        save_file(squares, world.place / f"{name}-fisher.safetensors")
        fisher.append(squares)
        seen = {key: world.noise(200, 24) for key in ("embed.weight", "layer.weight")}
        products = {key: rows.T @ rows for key, rows in seen.items()}
        save_file(products, world.place / f"{name}-moments.safetensors")
        moments.append(products)
    for name, given in (("fisher", fisher), ("regmean", moments)):
        files = [world.place / f"{each}-{'fisher' if name == 'fisher' else 'moments'}.safetensors" for each in NAMES]
        world.store.merge(NAMES, name=name, strategy=name, statistics=files, max_error=1e-5)
        wanted = {}
        for key in FLOATING:
            held = [
                each[key].double().numpy().reshape(-1, each[key].shape[-1] if each[key].ndim else 1)
                for each in given
                if key in each
            ]
            shaped = [one.reshape(world.linear("base", key).shape) for one in held] if name == "fisher" else held
            wanted[key] = world.linear("base", key) + merged(world, name, {}, key, shaped or None)
        near(world, name, wanted, 2e-4)
        assert len(world.store.show(name).recipe["statistics"]) == 3
        with pytest.raises(UsageError, match="not kept"):
            world.store.unmerge(name, "c")
    with pytest.raises(UsageError, match="squared gradients"):
        world.store.merge(NAMES, name="x", strategy="fisher")
    with pytest.raises(UsageError, match="no statistics"):
        world.store.merge(NAMES, name="x", strategy="ties", statistics=files)
    with pytest.raises(UsageError, match=r"shape|statistics for"):
        world.store.merge(NAMES, name="x", strategy="fisher", statistics=files)
    assert not world.store.has_ref("x")


def test_undo_computes_it_again_without_the_operand(world: World) -> None:
    world.store.merge(NAMES, name="three", strategy="ties")
    world.store.merge(("a", "b"), name="two", strategy="ties")
    world.store.unmerge("three", "c")
    for key in FLOATING:
        assert torch.equal(world.store.state_dict("three")[key], world.store.state_dict("two")[key])
    assert world.store.fsck(deep=True).corrupt == ()
    assert world.store.diff("three", "two").summary is not None


def test_what_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exact"):
        world.store.merge(["a", "b"], name="x", strategy="average", max_error=0.1)
    with pytest.raises(UsageError, match="between"):
        world.store.merge(["a", "b"], name="x", strategy="ties", max_error=3)
    world.commit("headless", world.tune(world.base))
    with pytest.raises(CombinationError, match="head"):
        world.store.merge(["a", "headless"], name="x", strategy="tsv")
    assert not world.store.has_ref("x")
    assert world.store.merge(["a", "headless"], name="ours", strategy="tsv", choose="ours").chosen


@pytest.mark.parametrize("density", ["0.01", "0.05", "0.5"])
def test_ties_moves_as_many_entries_of_a_bfloat16_model_as_asked_for(tmp_path: Path, density: str) -> None:
    """Its changes are a few units in the last place, so that most entries tie with the smallest that is kept."""
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(96, 80, generator=generator)
    tuned = base.bfloat16().float() + 5e-5 * torch.randn(base.shape, generator=generator)
    for name, tensor in (("base", base), ("a", tuned)):
        save_file({"l.weight": tensor.bfloat16()}, tmp_path / f"{name}.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    store.commit(tmp_path / "a.safetensors", base="base", name="a", quality=Quality(max_error=1e-6))
    store.merge(["a"], name="m", strategy="ties", options={"density": density}, max_error=1e-6)
    moved, merged = (
        float((tensor != base.bfloat16()).float().mean())
        for tensor in (tuned.bfloat16(), store.state_dict("m")["l.weight"])
    )
    assert merged == pytest.approx(min(float(density), moved), abs=0.001)
