"""Coefficients that strategies choose, and inner products of residuals against dense ones."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))

from test_algebra import FLOATING, World

from erestore.analysis.similarity.inner_products import variant_products
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError, UsageError
from erestore.history.revision import open_revision
from erestore.merge.registry import strategy as named

NAMES = ["a", "fine", "chain", "shrunk", "combined"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("merge"))
    tensors = world.tune(world.base)
    world.commit("a", tensors, Quality(max_error=0.2))
    world.commit("fine", world.tune(world.base), Quality(max_error=1e-4))
    world.commit("chain", world.tune(tensors), parent="a")
    world.commit("shrunk", world.tune(world.base | {"embed.weight": world.base["embed.weight"][:30]}))
    world.store.merge(["2*a - 1/3*fine"], name="combined")
    return world


def delta(world: World, name: str) -> np.ndarray:
    return np.concatenate([(world.linear(name, key) - world.linear("base", key)).reshape(-1) for key in FLOATING])


def test_inner_products_are_those_of_dense_float64(world: World) -> None:
    found = variant_products([open_revision(world.store, name).variant(world.store) for name in NAMES])
    dense = np.stack([delta(world, name) for name in NAMES])
    wanted = dense @ dense.T
    assert np.abs(found - wanted).max() < 1e-9 * np.abs(wanted).max()
    kinds = {kind for name in NAMES[:4] for kind in world.store.show(name).sections}
    assert {"lowrank2", "remainder"} <= kinds


@pytest.mark.parametrize(
    ("strategy", "weights", "options", "wanted"),
    [
        ("average", [1, 1, 1], {}, ["1/3"] * 3),
        ("weighted", [2, 1, 1], {}, ["1/2", "1/4", "1/4"]),
        ("task-arithmetic", [1, 2], {"scale": "0.3"}, ["3/10", "3/5"]),
        ("ema", [1, 1, 1], {"decay": "0.9"}, ["81/100", "9/100", "1/10"]),
        ("slerp", [1, 1], {"t": "1/2"}, None),
        ("slerp", [1, 1], {"t": "0"}, ["1", "0"]),
    ],
)
def test_coefficients(strategy, weights, options, wanted) -> None:
    found = named(strategy, options).coefficients(list(map(Fraction, weights)), lambda: [[4, 0], [0, 9]])
    if wanted is None:
        assert [float(each) for each in found] == pytest.approx([math.sqrt(0.5)] * 2)
    else:
        assert found == [Fraction(each) for each in wanted]


def test_slerp_keeps_the_angle_and_parallel_ones_are_interpolated_straight() -> None:
    found = named("slerp", {"t": "0.25"}).coefficients([Fraction(1)] * 2, lambda: [[1, 0.5], [0.5, 1]])
    angle = math.pi / 3
    assert [float(each) for each in found] == pytest.approx(
        [math.sin(0.75 * angle) / math.sin(angle), math.sin(0.25 * angle) / math.sin(angle)]
    )
    for products in ([[1, 1], [1, 1]], [[0, 0], [0, 0]], [[1, -1], [-1, 1]]):
        straight = named("slerp", {"t": "0.25"}).coefficients([Fraction(1)] * 2, lambda held=products: held)
        assert straight == [Fraction(3, 4), Fraction(1, 4)]


def test_model_stock_is_the_published_ratio() -> None:
    products = [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]
    found = named("model-stock", {}).coefficients([Fraction(1)] * 3, lambda: products)
    assert [float(each) for each in found] == pytest.approx([3 * 0.5 / (1 + 2 * 0.5) / 3] * 3)


@pytest.mark.parametrize("cosine", [-0.9, -0.5, 0.0])
def test_model_stock_of_opposed_variants_is_refused(cosine) -> None:
    """The formula's ratio is negative there, -2 at -0.5 of two: the opposite of what they learnt."""
    with pytest.raises(UsageError, match=rf"no direction in common \(mean cosine {cosine:.2g}\)"):
        named("model-stock", {}).coefficients([Fraction(1)] * 2, lambda: [[1, cosine], [cosine, 1]])


@pytest.mark.parametrize(
    ("strategy", "weights", "options", "reason"),
    [
        ("mean", [1], {}, "no strategy"),
        ("average", [1], {"x": "1"}, "no parameter"),
        ("average", [1, -1], {}, "sum to 0"),
        ("ema", [1, 2], {}, "by order"),
        ("ema", [1, 1], {"decay": "2"}, "between 0 and 1"),
        ("ema", [1, 1], {"decay": "x"}, "not a number"),
        ("task-arithmetic", [1], {"scale": "1e9999999"}, "not a number"),
        ("slerp", [1], {}, "two variants"),
        ("model-stock", [1], {}, "two variants"),
    ],
)
def test_what_does_not_fit_is_refused(strategy, weights, options, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        named(strategy, options).coefficients(list(map(Fraction, weights)), lambda: [[1.0]])


def test_strategies_that_look_at_inner_products(world: World) -> None:
    one, two = delta(world, "a"), delta(world, "fine")
    cosine = one @ two / math.sqrt((one @ one) * (two @ two))
    omega = math.acos(cosine)
    done = world.store.merge(["a", "fine"], name="slerp", strategy="slerp", options={"t": "0.3"})
    wanted = [math.sin(0.7 * omega) / math.sin(omega), math.sin(0.3 * omega) / math.sin(omega)]
    assert [float(Fraction(each)) for each in done.coefficients.values()] == pytest.approx(wanted, rel=1e-9)
    value = delta(world, "slerp")
    assert np.abs(value - (wanted[0] * one + wanted[1] * two)).max() < 1e-12
    stock = world.store.merge(["a", "chain"], name="stock", strategy="model-stock")
    assert 0 < float(Fraction(stock.coefficients["a"])) < 0.5
    assert world.store.show("stock").recipe["strategy"] == "model-stock"
    world.store.import_base(world.place / "a", name="other")
    world.store.commit(world.place / "fine", base="other", name="foreign")
    with pytest.raises(CombinationError, match="one base"):
        world.store.merge(["a", "foreign"], name="x", strategy="slerp")
