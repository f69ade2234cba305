"""Combinations of variants that are unlike each other, commits under way meanwhile, and bounds over merges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_algebra import FLOATING, World, save

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError, ConflictError, RefConflictError, UsageError
from erestore.history.revision import open_revision
from erestore.ops import cherry_pick


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.commit("a", world.tune(world.base))
    world.commit("b", world.tune(world.base))
    world.commit("only", world.tune(world.base), Quality(exact_only=True))
    return world


def test_what_is_exact_only_is_not_combined(world: World) -> None:
    for call in (
        lambda: world.store.merge(["a", "only"], name="x"),
        lambda: world.store.soup(["a", "only"], name="x"),
        lambda: world.store.cherry_pick("only", onto="a"),
        lambda: world.store.checkout("a + only", world.place / "out"),
    ):
        with pytest.raises(UsageError, match="exact-only") as refused:
            call()
        assert "--exact" in str(refused.value.hint)
    assert not world.store.has_ref("x")


def test_a_base_stays_a_base(world: World) -> None:
    world.store.merge(["a", "b"], name="ab")
    with pytest.raises(ConflictError, match="base"):
        world.store.flatten("ab", name="base")
    assert world.store.base_names() == ["base"]


def test_heads_under_other_names_can_be_read(world: World) -> None:
    for name, head, rows in (("h1", "classifier", 3), ("h2", "score", 2), ("h3", "classifier", 4)):
        world.commit(name, world.tune(world.base, **{f"{head}.weight": world.noise(rows, 24)}))
    for choice, rows in (("ours", 3), ("theirs", 4)):
        world.store.merge(["h1", "h3", "h2"], name=choice, choose=choice)
        assert world.store.state_dict(choice)["classifier.weight"].shape == (rows, 24)
        world.store.checkout(choice, world.place / f"out-{choice}")
    assert world.store.fsck(deep=True).corrupt == ()


@pytest.mark.parametrize("order", [("a", "lacking"), ("lacking", "a")])
def test_tensors_of_the_base_that_some_lack_are_a_conflict_in_any_order(world: World, order: tuple[str, str]) -> None:
    less = {name: tensor for name, tensor in world.base.items() if name != "layer.weight"}
    world.commit("lacking", world.tune(less))
    with pytest.raises(CombinationError, match=r"layer\.weight"):
        world.store.merge(order, name="x")
    text = f"{order[0]} + {order[1]} - lacking"
    assert open_revision(world.store, text).manifest == world.store.manifest_of("a")
    kept = {
        choice: open_revision(world.store, f"mean({order[0]}, {order[1]})", choice)
        for choice in ("ours", "theirs", "drop")
    }
    names = {choice: set(found.variant(world.store).layout.tensors) for choice, found in kept.items()}
    assert ("layer.weight" in names["ours"]) == (order[0] == "a")
    assert ("layer.weight" in names["theirs"]) == (order[1] == "a")
    assert "layer.weight" not in names["drop"]


def test_a_torch_file_with_other_things_in_it_is_not_torn(world: World) -> None:
    for name in ("one", "two"):
        tuned = world.tune(world.base) | {f"{name}.extra": world.noise(3)}  # dropped, it leaves a place in either file
        torch.save({"state_dict": tuned, "epoch": 3}, world.place / f"{name}.pth.tar")
        world.store.commit(world.place / f"{name}.pth.tar", base="base", name=name)
    with pytest.raises(CombinationError):
        world.store.merge(["two", "one"], name="x", choose="drop")
    assert not world.store.has_ref("x")
    world.store.merge(["one", "one"], name="same")
    world.store.checkout("same", world.place / "same.pth.tar")


def test_a_commit_made_meanwhile_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Store.open(world.store.url)
    world.commit("more", world.tune(world.base))
    derive = cherry_pick.derive

    def late(*arguments: object, **named: object) -> object:
        other.merge(["0.5*b"], name="b")
        return derive(*arguments, **named)

    monkeypatch.setattr(cherry_pick, "derive", late)
    with pytest.raises(RefConflictError):
        world.store.cherry_pick("a", onto="b")
    assert world.store.show("b").recipe["strategy"] == "expression"


def test_a_pick_onto_another_base_is_a_conflict(world: World) -> None:
    save(world.place / "other", world.tune(world.base))
    world.store.import_base(world.place / "other", name="other")
    with pytest.raises(CombinationError, match="one base"):
        world.store.cherry_pick("a", onto="other", name="x")


def test_a_base_in_a_merge_is_an_operand(world: World) -> None:
    world.commit("head", world.tune(world.base, **{"head.weight": world.noise(2, 24)}), Quality(exact=True))
    world.store.merge(["base + head"], name="same")
    assert world.store.manifest_of("same") == world.store.manifest_of("head")
    done = world.store.merge(["head", "base"], name="half", choose="ours")
    assert done.coefficients == {"head": "1/2", "base": "1/2"}
    for key in FLOATING:
        middle = (world.linear("head", key) + world.linear("base", key)) / 2
        assert np.abs(world.linear("half", key) - middle).max() < 1e-13


@pytest.mark.parametrize("scale", ["1e320", "1e-330", "1e-310"])
def test_absurd_coefficients_are_refused(world: World, scale: str) -> None:
    with pytest.raises(UsageError):
        world.store.cherry_pick("a", onto="b", scale=scale, name="x")
    with pytest.raises(UsageError):
        open_revision(world.store, "1e99*1e99*1e99*1e99*a")


def test_a_child_of_a_merge_has_a_bound_that_holds(world: World) -> None:
    """What a child makes up for is all that its parent missed, whatever the parent is made of."""
    first = world.tune(world.base)
    world.commit("coarse", first, Quality(max_error=0.3))
    world.store.merge(["coarse"], name="merged")
    second = world.tune(first)
    world.commit("child", second, Quality(max_error=0.01), parent="merged")
    found = open_revision(world.store, "child - coarse")
    done = world.store.cherry_pick("child", onto="base", name="picked")
    lost = norm = 0.0
    for key in FLOATING:
        base = world.linear("base", key)
        change = (second[key].double() - first[key].double()).numpy().reshape(base.shape)
        lost += float(np.square(world.linear("picked", key) - base - change).sum())
        norm += float(np.square(world.linear("picked", key) - base).sum())
    assert found.manifest.terms
    assert lost / norm <= done.error_bound * 1.1
