"""Flattening chains and merges of real commits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_algebra import FLOATING, WEIGHTS, World

from erestore.encoding.quality import Quality
from erestore.errors import ConflictError, UsageError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    tensors = world.tune(world.base, **{"head.weight": world.noise(2, 24)})
    world.commit("a", tensors)
    for number in (2, 3, 4):
        tensors = world.tune(tensors)
        world.commit(f"a{number}", tensors, Quality(exact=number == 4), parent="a" if number == 2 else f"a{number - 1}")
    world.tuned = tensors
    world.commit("b", world.tune(world.base, **{"head.weight": world.noise(2, 24)}))
    return world


def lost(world: World, before: str, after: str) -> float:
    """Squared error after rounding, over the squared norm of what `before` changed of the base."""
    error = norm = 0.0
    one, two, base = (world.store.state_dict(name) for name in (before, after, "base"))
    for key in WEIGHTS:
        error += float((one[key].double() - two[key].double()).square().sum())
        norm += float((one[key].double() - base[key].double()).square().sum())
    return error / norm


@pytest.mark.parametrize("bound", [0.02, 1e-4])
def test_a_chain_becomes_one_residual_within_the_error(world: World, bound: float) -> None:
    done = world.store.flatten("a3", max_error=bound)
    assert (done.before.terms, done.after.terms, done.ref) == (3, 1, "a3")
    assert done.before.rank > done.after.rank
    assert done.parents == (world.store.resolve("a3~1"),)
    assert lost(world, "a3~1", "a3") == pytest.approx(done.flatten_error, rel=1e-6)
    assert done.flatten_error <= bound
    assert torch.equal(world.store.state_dict("a3")["head.weight"], world.store.state_dict("a3~1")["head.weight"])
    assert world.store.manifest_of("a3").dense == world.store.manifest_of("a3~1").dense
    shown = world.store.show("a3")
    assert (shown.edge, shown.relative_error, len(shown.terms)) == ("flattened", None, 1)
    assert world.store.flatten("a3").unchanged
    assert world.store.fsck(deep=True).corrupt == ()


def test_a_merge_becomes_one_residual(world: World) -> None:
    world.store.merge(["0.3*a + 0.7*b"], name="merged")
    done = world.store.flatten("merged", name="flat")
    assert lost(world, "merged", "flat") <= 1e-3
    head = [world.store.state_dict(name)["head.weight"] for name in ("merged", "flat")]
    assert torch.equal(*head)
    assert len(world.store.manifest_of("flat").dense["head.weight"]) == 1
    assert done.stored_bytes < world.store.show("a").stored_bytes + world.store.show("b").stored_bytes


def test_exact_variants_stay_exact(world: World) -> None:
    done = world.store.flatten("a4", name="flat", max_error=0.05)
    assert done.exact
    found = world.store.state_dict("flat")
    assert all(torch.equal(found[name], tensor) for name, tensor in world.tuned.items())
    assert world.store.show("flat").exact
    assert world.store.manifest_of("flat").patch != world.store.manifest_of("a4").patch


def test_the_bound_covers_what_was_lost_before_and_now(world: World) -> None:
    """Against what was really committed, on the linear values, for repeated flattening too."""
    tensors = world.tune(world.base)
    world.commit("c", tensors, Quality(max_error=0.05))
    tensors = world.tune(tensors)
    world.commit("c2", tensors, Quality(max_error=0.05), parent="c")
    bounds = []
    for name, error in (("c2", 0.02), ("c3", 0.04)):
        if name == "c3":  # continues what is flattened already
            tensors = world.tune(tensors)
            world.commit("c3", tensors, Quality(max_error=0.05), parent="c2")
        done = world.store.flatten(name, max_error=error)
        norm = truth = 0.0
        for key in FLOATING:
            found, base = world.linear(name, key), world.linear("base", key)
            truth += float(np.square(found - tensors[key].double().numpy().reshape(found.shape)).sum())
            norm += float(np.square(found - base).sum())
        assert error / 2 < truth / norm <= done.error_bound * 1.01
        bounds.append(done.error_bound)
        assert done.error_bound > done.flatten_error
    assert max(bounds) < 0.3


def test_what_cannot_be_flattened_is_refused(world: World) -> None:
    world.store.tag("v1", "a3")
    with pytest.raises(UsageError, match="base"):
        world.store.flatten("base")
    with pytest.raises(UsageError, match="needs a name"):
        world.store.flatten("a3~1")
    with pytest.raises(UsageError, match="expression"):
        world.store.flatten("a + b", name="x")
    with pytest.raises(ConflictError, match="tag"):
        world.store.flatten("v1")
    with pytest.raises(UsageError, match="between"):
        world.store.flatten("a3", max_error=2)


def test_what_is_flat_already_gets_the_name_that_is_asked_for(world: World) -> None:
    value = world.store.commit_record(world.store.resolve("a")).manifest
    done = world.store.flatten("a", name="other")
    assert (done.ref, done.unchanged, done.before, done.flatten_error) == ("other", False, done.after, 0.0)
    assert (done.commit, done.parents) == (world.store.resolve("other"), (world.store.resolve("a"),))
    assert world.store.commit_record(done.commit).manifest == value
    assert world.store.show("other").relative_error == world.store.show("a").relative_error
    again = world.store.flatten("a", name="other")
    assert (again.commit, again.unchanged, again.stored_bytes) == (done.commit, True, 0)
    # A branch that is elsewhere goes on to the value, and does not lose its own history.
    world.store.branch("apart", "b")
    done = world.store.flatten("a", name="apart")
    assert done.parents == (world.store.resolve("a"), world.store.resolve("b"))
    assert world.store.commit_record(done.commit).manifest == value
    bound = world.store.show("apart").error_bound
    assert bound is None or bound > 0
    world.store.tag("fixed", "b")
    with pytest.raises(ConflictError, match="tag"):
        world.store.flatten("a", name="fixed")
    assert world.store.fsck(deep=True).corrupt == ()
