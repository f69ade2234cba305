"""Cherry-picks, reverts and soups of real commits."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from test_algebra import FLOATING, World

from erestore.encoding.quality import Quality
from erestore.errors import CombinationError, ConflictError, UsageError
from erestore.history.revision import open_revision
from erestore.variant.state_dict import StateDict


@pytest.fixture
def world(tmp_path: Path) -> World:
    """`a` has three versions of a chain, `b` is apart from it."""
    world = World(tmp_path)
    tensors = world.tune(world.base)
    world.commit("a", tensors, Quality(exact=True))
    for number in (2, 3):
        tensors = world.tune(tensors)
        world.commit(f"a{number}", tensors, parent="a" if number == 2 else "a2")
    world.commit("b", world.tune(world.base, **{"head.weight": world.noise(2, 24)}))
    return world


def bits(world: World, name: str) -> list[bytes]:
    return [world.linear(name, key).tobytes() for key in FLOATING]


def test_a_cherry_pick_adds_what_the_commit_changed_and_no_more(world: World) -> None:
    done = world.store.cherry_pick("a2", onto="b")
    assert (done.edge, done.ref) == ("picked", "b")
    assert done.parents[0] == world.store.resolve("b~1")
    for key in FLOATING:
        wanted = world.linear("b~1", key) + (world.linear("a2", key) - world.linear("a", key))
        assert abs(world.linear("b", key) - wanted).max() < 1e-13
    assert "head.weight" in world.store.state_dict("b")
    assert world.store.show("b").terms[0].coefficient == "1"
    half = world.store.cherry_pick("a3", onto="b", scale="1/2", name="half")
    assert half.ref == "half"
    assert {term.coefficient for term in world.store.show("half").terms} == {"1", "1/2"}


def test_picking_a_child_onto_its_parent_is_the_child(world: World) -> None:
    world.store.cherry_pick("a2", onto="a", name="again")
    assert world.store.manifest_of("again") == world.store.manifest_of("a2")


def test_reverts_take_back_bit_for_bit(world: World) -> None:
    before = {name: bits(world, name) for name in ("a", "a3", "b")}
    world.store.revert("a3")
    assert world.store.manifest_of("a3") == world.store.manifest_of("a2")
    world.store.revert("a3")
    assert bits(world, "a3") == before["a3"]
    assert world.store.manifest_of("a3") == world.store.manifest_of("a3~2")
    done = world.store.revert("a2", on="a3", name="without")
    assert done.edge == "reverted"
    for key in FLOATING:
        wanted = world.linear("a", key) + (world.linear("a3", key) - world.linear("a2", key))
        assert abs(world.linear("without", key) - wanted).max() < 1e-13
    world.store.cherry_pick("a2", onto="b")
    world.store.revert("b")
    assert bits(world, "b") == before["b"]
    world.store.revert("a")
    assert bits(world, "a") == bits(world, "base")
    world.store.revert("a")
    assert bits(world, "a") == before["a"]
    assert world.store.manifest_of("a").patch is not None
    assert world.store.show("a").exact
    assert world.store.fsck(deep=True).corrupt == ()


def test_what_cannot_be_picked_is_refused_in_a_sentence(world: World) -> None:
    world.store.merge(["a", "a3"], name="merged")
    with pytest.raises(UsageError, match="base, which changes nothing"):
        world.store.cherry_pick("base", onto="a")
    with pytest.raises(UsageError, match="merge of 2") as refused:
        world.store.cherry_pick("merged", onto="b")
    assert "--mainline 1" in str(refused.value.hint)
    with pytest.raises(UsageError, match="no parent 3"):
        world.store.cherry_pick("merged", onto="b", mainline=3)
    with pytest.raises(UsageError, match="the branch to revert"):
        world.store.revert(world.store.resolve("a"))
    with pytest.raises(UsageError, match="not a number"):
        world.store.cherry_pick("a2", onto="b", scale="much")
    with pytest.raises(UsageError, match="scale of 0"):
        world.store.cherry_pick("a2", onto="b", scale=0, tensors="layer*")
    done = world.store.cherry_pick("merged", onto="b", mainline=1)
    assert done.error_bound is not None
    world.store.cherry_pick("b~1", onto="a", name="headed")
    with pytest.raises(CombinationError, match=r"head\.weight.*scaled by 1/2"):
        world.store.cherry_pick("b~1", onto="a", scale=Fraction(1, 2), name="half")


def test_a_greedy_soup_keeps_what_helps(world: World) -> None:
    target = world.store.state_dict("a2")

    def score(candidate: StateDict) -> float:
        return -sum(float((candidate[key].double() - target[key].double()).square().sum()) for key in FLOATING)

    done = world.store.soup(["a", "a2", "b", "a3"], name="soup", evaluate=score, choose="drop")
    assert [run.operands for run in done.tried[:4]] == [("a",), ("a2",), ("b",), ("a3",)]
    assert [run.operands[-1] for run in done.tried if not run.kept]
    kept = [name for name in ("a", "a3", "b") if name in done.made.coefficients]
    assert done.made.coefficients["a2"] == str(Fraction(1, 1 + len(kept)))
    recorded = world.store.show("soup").recipe["tried"]
    assert [entry["score"] for entry in recorded] == [repr(run.score) for run in done.tried]
    loss = world.store.soup(["a", "a2", "a3"], name="loss", evaluate=lambda each: -score(each), minimise=True)
    assert loss.tried[1].score == 0
    with pytest.raises(UsageError, match="not a score"):
        world.store.soup(["a", "a2"], name="x", evaluate=lambda _: float("nan"))


def test_a_uniform_soup_is_the_dense_mean_rounded_once(world: World) -> None:
    world.store.soup(["a", "a2", "a3"], name="soup")
    found = world.store.state_dict("soup")
    for key in FLOATING:
        mean = sum(world.linear(name, key) for name in ("a", "a2", "a3")) / 3
        assert torch.equal(found[key], torch.from_numpy(mean).reshape(found[key].shape).to(found[key].dtype))


def test_a_pick_of_some_tensors(world: World) -> None:
    done = world.store.cherry_pick("a2", onto="b", tensors="layer*", name="part")
    assert len(world.store.commit_record(done.commit).own) == 1
    for key in FLOATING:
        wanted = world.linear("b", key)
        if key.startswith("layer"):
            wanted = wanted + (world.linear("a2", key) - world.linear("a", key))
        assert abs(world.linear("part", key) - wanted).max() < 1e-14
    assert "head.weight" in world.store.state_dict("part")
    alone = world.store.cherry_pick("b", onto="a", tensors="head*", name="head")
    assert alone.tensors["whole"] == 1
    assert bits(world, "head") == bits(world, "a")
    world.store.revert("part")
    assert bits(world, "part") == bits(world, "b")
    world.store.gc(grace_days=0)
    assert world.store.fsck(deep=True).corrupt == ()


def test_a_pick_of_some_components(world: World) -> None:
    residual = open_revision(world.store, "a2 - a").variant(world.store).residuals[0][1]
    key = next(key for key in FLOATING if any(section.factors() for section in residual.sections(key)))
    change = world.linear("a2", key) - world.linear("a", key)
    parts = []
    for name, components in (("strong", "1-1"), ("rest", "2-99")):
        world.store.cherry_pick("a2", onto="base", components=components, name=name)
        parts.append(world.linear(name, key) - world.linear("base", key))
    assert np.linalg.matrix_rank(parts[0], tol=1e-9) == 1
    left, values, right = np.linalg.svd(change)
    best = values[0] * np.outer(left[:, 0], right[0])
    assert np.square(parts[0] - best).sum() < 0.3 * np.square(best).sum()  # the codes of these small factors are coarse
    assert np.square(parts[0]).sum() > np.square(parts[1]).sum()
    whole = parts[0] + parts[1]
    rest = [section.factors() for section in residual.sections(key)]
    wanted = sum(left @ right.T for left, right in (pair for pair in rest if pair is not None))
    assert np.abs(whole - wanted).max() < 1e-13  # what is no factors is not picked


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"tensors": "nothing*"}, "changed nothing"),
        ({"components": "500-600"}, "changed nothing"),
        ({"components": "4-1"}, "not a range"),
        ({"components": "x"}, "not a range"),
        ({"components": "0"}, "not a range"),
    ],
)
def test_what_there_is_nothing_of_is_refused(world: World, asked: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        world.store.cherry_pick("a2", onto="b", **asked)


def test_what_a_variant_does_not_have_is_not_taken_from_it(world: World) -> None:
    before = world.store.resolve("b")
    with pytest.raises(ConflictError, match="does not contain all of") as refused:
        world.store.revert("a2", on="b")
    assert world.store.resolve("b") == before
    expression = str(refused.value.hint).split('"')[1]
    world.store.merge([expression], name="subtracted")
    for key in FLOATING:
        wanted = world.linear("b", key) - (world.linear("a2", key) - world.linear("a", key))
        assert abs(world.linear("subtracted", key) - wanted).max() < 1e-13
    with pytest.raises(ConflictError) as refused:
        world.store.revert("a", on="b")
    assert str(refused.value.hint).count(" - ") == 1  # of a base nothing is added
    world.store.revert("a2", on="a3", name="without")
    with pytest.raises(ConflictError, match="does not contain all of"):
        world.store.revert("a2", on="without")
    # What was picked with a negative scale is had with that sign.
    world.store.cherry_pick("a2", onto="b", scale=-1)
    with pytest.raises(ConflictError):
        world.store.revert("a2", on="b", name="x")
    part = world.store.cherry_pick("a2", onto="b~1", scale="-1/2", tensors="layer*", name="part")
    assert world.store.revert("part").edge == "reverted"
    assert part.commit == world.store.resolve("part~1")
    # A pick has no residual of its own: its history says who has it.
    pick = world.store.resolve("b")
    with pytest.raises(ConflictError):
        world.store.revert(pick, on="a3")
    assert world.store.revert(pick, on="b").edge == "reverted"


def test_what_a_merge_took_is_taken_back_once(world: World) -> None:
    world.store.merge(["a", "b"], name="half", choose="drop")
    with pytest.raises(ConflictError, match="does not contain all of"):
        world.store.revert("a", on="half", name="too-much")
    world.store.revert("half", mainline=1, choose="drop")
    assert world.store.manifest_of("half").terms == world.store.manifest_of("a").terms
    with pytest.raises(ConflictError, match="does not contain all of"):
        world.store.revert("half~1", on="half", mainline=1)


def test_what_was_picked_is_taken_back_once(world: World) -> None:
    world.store.cherry_pick("b", onto="a", name="picked")
    world.store.revert("picked")
    with pytest.raises(ConflictError, match="does not contain all of"):
        world.store.revert("picked~1", on="picked")
