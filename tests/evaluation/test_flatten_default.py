"""How much flattening may lose where nobody says: a quarter of what was lost before, and never more than the constant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_algebra import FLOATING, World
from test_factored_sums import Adapters

from erestore.encoding.quality import Quality
from erestore.ops.flatten import FLATTEN_ERROR
from erestore.variant.error_bound import SHARE_OF_LOST, lost_before
from erestore.variant.variant import Variant


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def squared(world: World, one: str, other: str) -> float:
    """Squared distance of what two revisions are checked out as."""
    mine, theirs = world.store.state_dict(one), world.store.state_dict(other)
    return sum(float((mine[key].double() - theirs[key].double()).square().sum()) for key in FLOATING)


def lost(world: World, name: str) -> float:
    commit = world.store.commit_record(world.store.resolve(name))
    found = lost_before(world.store.objects, commit, world.store.manifest_of(name))
    assert found is not None
    return found


@pytest.mark.parametrize("exact", [False, True])
def test_a_quarter_of_what_a_chain_lost(world: World, exact: bool) -> None:
    tensors = world.tune(world.base)
    world.commit("a", tensors, Quality(max_error=1e-4))
    tensors = world.tune(tensors)
    world.commit("a2", tensors, Quality(max_error=1e-4, exact=exact), parent="a")
    before = lost(world, "a2")
    if not exact:
        original = world.store.state_dict("a2")
        error = sum(float((original[key].double() - tensors[key].double()).square().sum()) for key in FLOATING)
        assert before == pytest.approx(error, rel=0.02)
    done = world.store.flatten("a2", name="flat")
    now = done.flatten_error * squared(world, "a2", "base")
    assert 0.1 * SHARE_OF_LOST * before < now <= SHARE_OF_LOST * before
    assert done.flatten_error < FLATTEN_ERROR / 5
    assert done.exact == exact


def test_what_an_exact_variant_loses_without_its_remainder_is_true_of_the_flattened_one(world: World) -> None:
    tensors = world.tune(world.base)
    world.commit("a", tensors, Quality(max_error=0.05))
    tensors = world.tune(tensors)
    world.commit("a2", tensors, Quality(max_error=0.05, exact=True), parent="a")
    world.store.flatten("a2", name="flat", max_error=1e-3)
    lossy = Variant(world.store.objects, replace(world.store.manifest_of("flat"), patch=None, digests={}))
    changed = squared(world, "a2", "base")
    error = sum(float((lossy.tensor(key).double() - tensors[key].double()).square().sum()) for key in FLOATING)
    assert world.store.log(["flat"])[0].lossy_error == pytest.approx(error / changed, rel=0.02)
    assert error / changed <= 1e-3


def test_a_quarter_of_the_bound_of_a_merge(world: World) -> None:
    for name in ("a", "b"):
        world.commit(name, world.tune(world.base), Quality(max_error=1e-4))
    world.store.merge(["a + b"], name="sum")
    before = lost(world, "sum")
    world.store.flatten("sum", name="flat")
    assert 0.1 * SHARE_OF_LOST * before < squared(world, "sum", "flat") <= SHARE_OF_LOST * before


def test_no_more_than_the_constant(world: World) -> None:
    for name in ("a", "b"):
        world.commit(name, world.tune(world.base), Quality(max_error=0.3))
    world.store.merge(["a + b"], name="sum")
    assert FLATTEN_ERROR / 2 < world.store.flatten("sum", name="flat").flatten_error <= FLATTEN_ERROR


def test_the_constant_where_nothing_was_lost(tmp_path: Path) -> None:
    adapters = Adapters(tmp_path)
    for name in ("a", "b"):
        adapters.commit(name, adapters.sides(4))
    adapters.store.merge(["a", "b"], name="mean")
    assert FLATTEN_ERROR / 2 < adapters.store.flatten("mean").flatten_error <= FLATTEN_ERROR


def test_what_is_asked_for_goes_before(world: World) -> None:
    for name in ("a", "b"):
        world.commit(name, world.tune(world.base), Quality(max_error=1e-4))
    world.store.merge(["a + b"], name="sum")
    assert 0.01 < world.store.flatten("sum", max_error=0.02).flatten_error <= 0.02
