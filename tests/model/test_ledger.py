"""Bounds of what combinations lose hold, are tight where they can be, and are not given where they are not known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from erestore.api import Store
from erestore.arrays import as_tensor
from erestore.encoding.quality import Quality
from erestore.errors import CorruptionError
from erestore.records import Commit, Term, normal_terms
from erestore.variant.error_bound import _squared_sum, error_bound, known_error, lossy_error, read_errors

Tensors = dict[str, torch.Tensor]
SHAPES = {"a": (60, 50), "b": (40, 90), "small": (30, 30), "bias": (60,)}


def base() -> Tensors:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def tuned(weights: Tensors, seed: int, only: str = "") -> Tensors:
    """Change some tensors; the change of ``small`` is too small to be kept."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in weights.items():
        size = 1e-3 if name == "small" else 0.1
        change = size * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 2 and name != "small":
            left, right = (torch.randn(length, 6, generator=generator) for length in tensor.shape)
            change += 0.5 * left @ right.T
        found[name] = tensor + (change if only in ("", name) else 0)
    return found


class World:
    """``a`` and ``b`` on the base, ``child`` and ``grandchild`` of ``a``, ``mine`` and ``yours`` in different tensors."""

    def __init__(self, place: Path) -> None:
        self.original = {"base": base()}
        self.parent = {"a": "base", "b": "base", "child": "a", "grandchild": "child", "mine": "base", "yours": "base"}
        self.store = Store.init(place / "store")
        tiny.write_model(place / "base", self.original["base"])
        self.store.import_base(place / "base", name="base")
        for seed, (name, parent) in enumerate(self.parent.items(), 2):
            only = {"mine": "a", "yours": "b"}.get(name, "")
            self.original[name] = tuned(self.original[parent], seed, only)
            path = tiny.write_model(place / name, self.original[name])
            on = {"base": "base"} if parent == "base" else {"parent": parent}
            self.store.commit(path, **on, quality=Quality(max_error=0.02))

    def own(self, name: str) -> str:
        return self.store.commit_record(self.store.resolve(name)).own[0]

    def expression(
        self, coefficients: Mapping[str, Any], parents: tuple[str, ...] | None = None, **more: Any
    ) -> Commit:
        """A commit that nobody measured, by the coefficients of what each of its terms added."""
        manifest = self.store.manifest_of("a")
        terms = normal_terms(tuple(Term(self.own(name), Fraction(value)) for name, value in coefficients.items()))
        held = replace(manifest, terms=terms, digests={})
        return Commit(
            manifest=self.store.objects.put_record("manifest", held.to_record()).oid,
            parents=tuple(map(self.store.resolve, coefficients if parents is None else parents)),
            edge="merged",
            author="",
            time=0,
            message="",
            **more,
        )

    def truth(self, coefficients: Mapping[str, Any]) -> float:
        """Squared error against the same combination of what was really changed, over the squares of all changes."""
        from erestore.variant.variant import Variant

        commit = self.expression(coefficients)
        variant = Variant.open(self.store.objects, commit.manifest)
        lost = 0.0
        for key, tensor in self.original["base"].items():
            ideal = tensor.double()
            for name, value in coefficients.items():
                change = self.original[name][key].double() - self.original[self.parent[name]][key].double()
                ideal = ideal + float(Fraction(value)) * change
            linear = variant.linear(key)
            found = as_tensor(linear.rows(0, linear.base.shape[0])).view(tensor.shape)
            lost += float(((found - ideal) ** 2).sum())
        return lost / math.fsum(float(Fraction(value)) ** 2 * self.norm(name) for name, value in coefficients.items())

    def norm(self, name: str) -> float:
        """Squared norm of original minus what the parent decodes to."""
        parent = dict(self.store.state_dict(self.parent[name]))
        return sum(
            float(((tensor.double() - parent[key].double()) ** 2).sum()) for key, tensor in self.original[name].items()
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("ledger"))


def test_something_is_lost_without_being_listed(world: World, tmp_path: Path) -> None:
    """Where the sum alone counts, what is small beside the rest is dropped."""
    path = tiny.write_model(tmp_path / "a", world.original["a"])
    quality = Quality(max_error=0.02, objective="frobenius")
    world.store.commit(path, base="base", name="sum", quality=quality)
    index = world.store.objects.open("residual", world.own("sum")).index
    assert {"small", "bias"} - set(index["tensors"])
    recorded = read_errors(world.store.objects, world.own("sum"))
    assert recorded is not None
    gone = [key for key in SHAPES if key not in index["tensors"]]
    change = [world.original["a"][key].double() - world.original["base"][key].double() for key in gone]
    size = math.sqrt(sum(float(each.square().sum()) for each in change))
    assert recorded.rest == pytest.approx(size, rel=0.1)  # from a difference of sums of four digits
    assert recorded.norm == pytest.approx(world.norm("a"), rel=1e-3)


COMBINATIONS: list[dict[str, Any]] = [
    {"a": 1},
    {"a": "1/2", "b": "1/2"},
    {"a": 2, "b": -1},
    {"a": "-1/3"},
    {"a": "1/2", "child": "1/2"},
    {"child": 1},
    {"a": 1, "child": "1/2", "grandchild": "1/4"},
    {"a": 1, "child": 1, "grandchild": 1},
    {"a": 1, "grandchild": 1},
    {"a": 1, "b": 1, "child": -1},
    {"mine": 1, "yours": 1},
]


@pytest.mark.parametrize("coefficients", COMBINATIONS, ids=str)
def test_the_bound_holds_and_is_not_far_off(world: World, coefficients: dict[str, Any]) -> None:
    bound = error_bound(world.store.objects, world.expression(coefficients))
    truth = world.truth(coefficients)
    assert bound is not None
    assert truth <= bound * 1.001
    assert (
        bound <= 10 * truth
    )  # errors of a parent and its child resemble each other, and cancel where one is taken away


@pytest.mark.parametrize(
    "coefficients",
    [{"a": 1}, {"a": "-1/3"}, {"a": 1, "child": 1}, {"a": 1, "child": 1, "grandchild": 1}, {"mine": 1, "yours": 1}],
    ids=str,
)
def test_where_errors_do_not_meet_the_bound_is_the_error(world: World, coefficients: dict[str, Any]) -> None:
    """A chain makes up for what its ancestors lost; tensors that only one operand changed have its error."""
    bound = error_bound(world.store.objects, world.expression(coefficients))
    assert bound == pytest.approx(world.truth(coefficients), rel=0.03)


def test_a_commit_that_was_measured_says_what_was_measured(world: World) -> None:
    for name in ("a", "child", "grandchild"):
        commit = world.store.commit_record(world.store.resolve(name))
        error = known_error(world.store.objects, commit)
        assert error == (float(commit.quality["relative_error"]), None)
        bound = error_bound(world.store.objects, commit)
        assert bound == pytest.approx(error.measured, rel=0.02)
        assert lossy_error(world.store.objects, commit) == error.measured


def test_nothing_is_lost_of_nothing(world: World) -> None:
    assert known_error(world.store.objects, world.expression({}, ("base",))) == (None, 0.0)


def test_a_residual_that_does_not_say_what_it_lost(world: World) -> None:
    """Older residuals do not; their commits do, as long as they are in the history."""
    held = world.store.objects.open("residual", world.own("a"))
    index = {key: value for key, value in held.index.items() if key not in ("segments", "bands")}
    with world.store.objects.writer("residual") as writer:
        for segment, content in zip(held.segments, held.read_many(range(len(held.segments))), strict=True):
            writer.add(content, raw_length=segment.raw_length, stage=segment.stage)
        older = writer.finish(index).oid
    manifest = replace(world.store.manifest_of("a"), terms=(Term(older, Fraction(1)),), digests={})
    oid = world.store.objects.put_record("manifest", manifest.to_record()).oid
    commit = replace(world.store.commit_record(world.store.resolve("a")), manifest=oid, own=(older,))
    objects = world.store.objects
    assert error_bound(objects, commit) == pytest.approx(float(commit.quality["linear_error"]), rel=0.02)
    assert error_bound(objects, replace(commit, own=(), parents=(), quality={})) is None
    assert known_error(objects, replace(commit, quality={})) == (None, None)


def test_a_number_that_is_none_is_corruption(world: World) -> None:
    commit = world.store.commit_record(world.store.resolve("a"))
    for quality in ({"linear_error": "x"}, {"exact": "yes", "lossy_error": "x"}):
        changed = replace(commit, quality=quality)
        with pytest.raises(CorruptionError):
            (error_bound if "linear_error" in quality else lossy_error)(world.store.objects, changed)


def test_log_show_and_checkout_say_the_bound(world: World, tmp_path: Path) -> None:
    store = world.store
    commit = world.expression({"a": "1/2", "b": "1/2"}, original_bytes=1)
    bound = error_bound(store.objects, commit)
    store.record(commit, "average", store.begin(), expected=0)
    entry = store.log(["average"], limit=1)[0]
    shown = store.show("average")
    done = store.checkout("average", tmp_path / "out")
    assert bound
    for found in (entry, shown, done):
        assert (found.relative_error, found.error_bound, found.exact) == (None, bound, False)
    front = store.checkout("average", tmp_path / "front", max_bytes=0)
    assert front.relative_error is None
    assert front.error_bound is not None
    # Nothing is left of two changes: of norms that add up, at most twice the sum of squares.
    assert 1 < front.error_bound <= 2.001


def test_log_goes_on_without_a_residual(world: World) -> None:
    from erestore.storage.memory import MemoryStorage

    half = world.expression({"b": "1/2"})
    copy = tiny.copy_store(world.store.storage, MemoryStorage())
    store = Store(copy.storage, {"id": copy.id})
    store.record(half, "half", store.begin(), expected=0)
    assert store.log(["half"], limit=1)[0].error_bound
    store.objects.delete(world.own("b"))
    entry = store.log(["half"], limit=1)[0]
    assert (entry.relative_error, entry.error_bound) == (None, None)


def test_what_is_not_listed_may_be_in_what_another_lists() -> None:
    """Norms over the same tensor add up; over tensors that nothing else touches, squares do."""
    assert _squared_sum([(1, {"t": 3.0}), (1, {"t": 4.0})], 0) == 49
    assert _squared_sum([(1, {"t": 3.0}), (1, {"u": 4.0})], 0) == 25
    assert _squared_sum([(2, {"t": 1.0})], 0.5) == 4.25
    assert _squared_sum([(1, {"t": 1.0}), (0, {})], 1) == 4
    assert _squared_sum([(1, {"t": 2.0, "u": 3.0}), (1, {"u": 1.0})], 1) == 16 + 9
    assert _squared_sum([], 0) == 0
