"""Variants on another base, and the commit at which a test fails first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_algebra import FLOATING, WEIGHTS, World, save

from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError, CombinationError, ConflictError, UsageError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.tensors = world.tune(world.base, **{"head.weight": world.noise(2, 24)})
    world.commit("a", world.tensors)
    world.commit("exact", world.tensors, Quality(exact=True, max_error=0.05))
    world.newer = {f"model.{name}": tensor for name, tensor in world.tune(world.base).items()}
    save(tmp_path / "newer", world.newer)
    world.store.import_base(tmp_path / "newer", name="newer")
    return world


def test_preserved_weights_stay_what_they_are(world: World) -> None:
    done = world.store.rebase("a", onto="newer", name="a-new")
    assert (done.base, done.kept, done.exact) == ("newer", "weights", False)
    assert done.parents == tuple(world.store.resolve(name) for name in ("newer", "a"))
    before, after = world.store.state_dict("a"), world.store.state_dict("a-new")
    assert list(before) == list(after)
    error = sum(float((before[key].double() - after[key].double()).square().sum()) for key in WEIGHTS)
    norm = sum(float((before[key].double() - world.newer[f"model.{key}"].double()).square().sum()) for key in WEIGHTS)
    assert error / norm == pytest.approx(done.rebase_error, rel=1e-6)
    assert done.rebase_error <= 1e-3
    assert done.error_bound is not None
    assert done.error_bound > done.rebase_error
    assert torch.equal(before["head.weight"], after["head.weight"])
    world.commit("a-new2", world.tune(world.tensors), parent="a-new")
    world.store.merge(["a-new", "a-new2"], name="both")
    assert world.store.fsck(deep=True).corrupt == ()


def test_exact_weights_stay_so_to_the_bit(world: World) -> None:
    assert world.store.rebase("exact", onto="newer", name="exact-new").exact
    found = world.store.state_dict("exact-new")
    assert all(torch.equal(found[name], tensor) for name, tensor in world.tensors.items())


def test_a_carried_change_is_added_to_the_new_base(world: World) -> None:
    done = world.store.rebase("exact", onto="newer", name="carried", carry=True, max_error=1e-5)
    assert (done.kept, done.exact) == ("change", False)
    found = world.store.state_dict("carried")
    lost = norm = 0.0
    for key in FLOATING:
        change = world.linear("exact", key) - world.linear("base", key)
        new = world.newer[f"model.{key}"].double().numpy().reshape(change.shape)
        lost += float(np.square(found[key].double().numpy().reshape(change.shape) - new - change).sum())
        norm += float(np.square(change).sum())
    assert lost / norm < 1e-3  # bfloat16 is rounded once more
    assert torch.equal(found["head.weight"], world.tensors["head.weight"])


def integers(world: World, name: str, positions: torch.Tensor, scale: float, base: str | None) -> None:
    save(world.place / name, {**world.base, "positions": positions, "scale": torch.tensor(scale)})
    path = world.place / name
    world.store.commit(path, base=base, name=name) if base else world.store.import_base(path, name=name)


def test_integers_are_the_sides_that_changed_them_and_a_conflict_where_both_did(world: World) -> None:
    first, second, third = torch.arange(6), torch.arange(6) + 1, torch.arange(6) * 2
    integers(world, "counted", first, 1.0, None)
    integers(world, "same", first, 1.0, "counted")
    integers(world, "moved", second, 1.5, "counted")
    integers(world, "recounted", third, 4.0, None)
    done = world.store.rebase("same", onto="recounted", name="taken", carry=True)
    assert done.chosen == ()
    assert torch.equal(world.store.state_dict("taken")["positions"], third)
    with pytest.raises(CombinationError, match="'positions' cannot be carried to 'recounted': both sides changed it"):
        world.store.rebase("moved", onto="recounted", name="x", carry=True)
    for choose, wanted in {"ours": third, "theirs": second}.items():
        assert world.store.rebase("moved", onto="recounted", name=choose, carry=True, choose=choose).chosen
        result = world.store.state_dict(choose)
        assert torch.equal(result["positions"], wanted)
        assert float(result["scale"]) == 4.5  # a single number is kept whole, and carried all the same


def test_what_cannot_be_rebased_is_refused(world: World, tmp_path: Path) -> None:
    save(tmp_path / "unlike", {"other.weight": torch.ones(3, 3)})
    world.store.import_base(tmp_path / "unlike", name="unlike")
    world.store.tag("v1", "a")
    for asked, error, reason in (
        ({"revision": "base", "onto": "newer", "name": "x"}, UsageError, "is a base"),
        ({"revision": "a", "onto": "exact", "name": "x"}, UsageError, "not a base"),
        ({"revision": "a", "onto": "base", "name": "x"}, UsageError, "already"),
        ({"revision": "a", "onto": "newer", "name": "v1"}, ConflictError, "tag"),
        ({"revision": "a", "onto": "newer", "name": "base"}, ConflictError, "base"),
        ({"revision": "a", "onto": "unlike", "name": "x"}, CheckpointError, "."),
    ):
        with pytest.raises(error, match=reason):
            world.store.rebase(asked.pop("revision"), **asked)
    assert not world.store.has_ref("x")


def test_bisect_finds_the_first_bad_commit(world: World) -> None:
    tensors = world.tensors
    for number in range(7):
        tensors = world.tune(tensors)
        if number == 4:
            tensors["scale"] = torch.tensor(100.0)
        world.commit(f"step{number}", tensors, parent="a" if number == 0 else f"step{number - 1}")
    done = world.store.bisect("a", "step6", lambda weights: float(weights["scale"]) < 50)
    assert done.first_bad == world.store.resolve("step4")
    assert done.last_good == world.store.resolve("step3")
    assert len(done.probes) <= 5
    with pytest.raises(UsageError, match="passes"):
        world.store.bisect("a", "step3", lambda weights: float(weights["scale"]) < 50)
    with pytest.raises(UsageError, match="itself"):
        world.store.bisect("step5", "step6", lambda weights: float(weights["scale"]) < 50)
    with pytest.raises(UsageError, match="not an ancestor"):
        world.store.bisect("exact", "step6", lambda _: True)
