"""Merges of variants whose buffers differ, and what --drop leaves out: the result can always be checked out."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.errors import CombinationError
from erestore.ingest.layout_faults import layout_faults
from erestore.records import Base, Layout, LayoutFile, LayoutTensor, Manifest, Part

Tensors = dict[str, torch.Tensor]
MASK = "h.0.attn.bias"


class World:
    """A store with a base; variants are committed from changes of it."""

    def __init__(self, place: Path, base: Tensors) -> None:
        self.place, self.base, self.number = place, base, count()
        self.store = Store.init(place / "store")
        self.store.import_base(self.save(base), name="base")

    def save(self, tensors: Tensors, shards: int = 1) -> Path:
        path = self.place / f"model{next(self.number)}"
        path.mkdir()
        names = sorted(tensors)
        files = (
            ["model.safetensors"]
            if shards == 1
            else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
        )
        for i, file in enumerate(files):
            save_file({name: tensors[name] for name in names[i::shards]}, path / file, metadata={"format": "pt"})
        if shards > 1:
            index = {name: files[i % shards] for i, name in enumerate(names)}
            (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        return path

    def commit(self, name: str, *without: str, shards: int = 1, **changed: Any) -> None:
        random = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
        tensors = {own: value for own, value in self.base.items() if own not in without}
        tensors["layer.weight"] = tensors["layer.weight"] + 0.1 * torch.randn(8, 8, generator=random)
        tensors |= {own.replace("__", "."): value for own, value in changed.items()}
        self.store.commit(self.save(tensors, shards), base="base", name=name)

    def checked_out(self, name: str) -> Tensors:
        out = self.place / f"out{next(self.number)}"
        self.store.checkout(name, out)
        loaded: Tensors = {}
        for path in out.glob("*.safetensors"):
            loaded |= load_file(path)
        return loaded


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(
        tmp_path,
        {
            "layer.weight": torch.eye(8),
            "head.weight": torch.ones(3, 8) * 0.5,
            MASK: torch.ones(8, 8),
            "h.0.attn.masked_bias": torch.tensor(-1e4),
            "embeddings.position_ids": torch.arange(9)[None],
        },
    )


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("choice", ["ours", "theirs", "drop"])
def test_a_mask_that_is_retyped_in_one_and_gone_in_the_other(world: World, order: str, choice: str) -> None:
    world.commit("a", h__0__attn__bias=torch.ones(8, 8, dtype=torch.uint8))
    world.commit("b", MASK, "h.0.attn.masked_bias")
    world.store.merge(list(order), name="m", choose=choice)
    chosen = {"ours": order[0], "theirs": order[1], "drop": ""}[choice]
    assert (MASK in world.checked_out("m")) == (chosen == "a")
    assert world.store.fsck(deep=True).clean


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("embeddings.position_ids", {"embeddings__position_ids": torch.arange(9)[None] + 2}),
        (MASK, {"h__0__attn__bias": torch.ones(8, 8, dtype=torch.bool)}),
        ("head.weight", {"head__weight": torch.ones(3, 9)}),
        ("head.weight", {"head__weight": torch.full((3, 8), torch.nan)}),
    ],
)
@pytest.mark.parametrize("shards", [1, 2])
def test_what_is_dropped_is_not_there(world: World, name: str, changed: Tensors, shards: int) -> None:
    world.commit("a", shards=shards, **changed)
    world.commit("b", shards=shards, head__weight=torch.zeros(3, 8))
    with pytest.raises(CombinationError, match=name):
        world.store.merge(["a", "b"], name="m")
    world.store.merge(["a", "b"], name="m", choose="drop")
    left = world.checked_out("m")
    assert left.keys() == world.base.keys() - {name}
    again = world.store.commit(
        world.place / f"out{next(world.number) - 1}", base="base", name="again"
    )  # its index is right
    assert again.left_out == {}
    assert name not in world.store.state_dict("again")
    assert world.store.fsck().clean


@pytest.mark.parametrize(
    ("lacking", "nonlinear"),
    [
        (["embeddings.position_ids"], False),
        (["h.0.attn.masked_bias", MASK], False),
        (["embeddings.position_ids", MASK], True),
    ],
)
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_buffer_that_one_lacks_and_the_other_has_from_the_base_is_no_conflict(
    world: World, lacking: list[str], nonlinear: bool, order: str
) -> None:
    world.commit("a", *lacking)
    world.commit("b")
    done = world.store.merge(list(order), name="m", strategy="ties" if nonlinear else None)
    assert len(done.notes) == len(lacking)
    assert all("Only 'b' still has the buffer" in note for note in done.notes)
    merged = world.checked_out("m")
    assert merged.keys() == world.base.keys()
    assert all(torch.equal(merged[name], world.base[name]) for name in lacking)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_buffer_that_only_one_has_and_the_base_has_not(world: World, order: str) -> None:
    world.commit("a", rotary__inv_freq=torch.linspace(0, 1, 4))
    world.commit("b")
    done = world.store.merge(list(order), name="m")
    assert done.notes == ("Only 'a' has the buffer 'rotary.inv_freq'; the result has it too.",)
    assert torch.equal(world.checked_out("m")["rotary.inv_freq"], torch.linspace(0, 1, 4))


def test_a_parameter_that_one_lacks_is_a_conflict_still(world: World) -> None:
    world.commit("a", "head.weight")
    world.commit("b")
    with pytest.raises(CombinationError, match=r"head\.weight"):
        world.store.merge(["a", "b"], name="m")


@pytest.mark.parametrize(("order", "choice"), [("ab", "theirs"), ("ba", "ours"), ("cba", "theirs"), ("bca", "ours")])
def test_a_parameter_of_the_base_that_is_chosen_is_the_variants_own(world: World, order: str, choice: str) -> None:
    """Not half of what it changed, nor with what another one changed of it."""
    world.commit("a", "head.weight")
    world.commit("b", head__weight=torch.randn(3, 8, generator=torch.Generator().manual_seed(1)))
    world.commit("c", head__weight=torch.randn(3, 8, generator=torch.Generator().manual_seed(2)))
    world.store.merge(list(order), name="m", choose=choice)
    chosen = order[0] if choice == "ours" else order[-1]
    merged = world.checked_out("m")
    assert ("head.weight" in merged) == (chosen != "a")
    assert chosen == "a" or torch.equal(merged["head.weight"], world.store.state_dict(chosen)["head.weight"])
    assert world.store.fsck(deep=True).clean


def records(world: World, name: str) -> tuple[Layout, Manifest, Base]:
    store = world.store
    manifest = store.manifest_of(name)
    read = store.objects.get_record
    return Layout.from_record(read("layout", manifest.layout)), manifest, Base.from_record(read("base", manifest.base))


def twice(layout: Layout) -> Layout:
    (file,) = layout.files
    return replace(layout, files=(LayoutFile(file.name, (*file.tensors, MASK), file.metadata),))


def nowhere(layout: Layout) -> Layout:
    return replace(layout, tensors={**layout.tensors, MASK: LayoutTensor("gone", "F32", (8, 8))})


def reshaped(layout: Layout) -> Layout:
    return replace(layout, tensors={**layout.tensors, "head.weight": LayoutTensor("head.weight", "F32", (5, 8))})


def undescribed(layout: Layout) -> Layout:
    return replace(layout, tensors={name: tensor for name, tensor in layout.tensors.items() if name != MASK})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (twice, f"lists the tensor '{MASK}' twice"),
        (nowhere, f"'{MASK}', which neither base nor variant holds"),
        (reshaped, "'head.weight', of which 2 rows are nowhere"),
        (undescribed, f"does not say what the tensor '{MASK}' is"),
    ],
)
def test_fsck_finds_layouts_that_cannot_be_checked_out(world: World, change: Any, words: str) -> None:
    world.commit("a")
    store = world.store
    layout, manifest, _ = records(world, "a")
    stored = store.objects.put_record("layout", change(layout).to_record())
    bad = store.objects.put_record("manifest", replace(manifest, layout=stored.oid).to_record())
    commit = replace(store.commit_record(store.resolve("a")), manifest=bad.oid)
    store.record(commit, "bad", store.begin(), expected=0)
    (damage,) = world.store.fsck().corrupt
    assert words in damage.reason
    assert (damage.oid, damage.kind, damage.needed_by) == (bad.oid, "manifest", ("bad",))
    with pytest.raises(Exception, match=r"layout|hold"):
        world.store.checkout("bad", world.place / "bad")


def test_layouts_of_combined_and_retyped_tensors_are_sound(world: World) -> None:
    world.commit("a", head__weight=torch.zeros(3, 8, dtype=torch.bfloat16))
    layout, manifest, base = records(world, "a")
    assert list(layout_faults(layout, manifest, base.tensors)) == []
    halves = tuple(Part(Fraction(1, 2), base.tensors[name]) for name in ("layer.weight", MASK))
    summed = replace(manifest, dense={"layer.weight": halves})
    assert list(layout_faults(layout, summed, base.tensors)) == []


def test_an_index_of_shards_is_not_a_side_file_that_differs(tmp_path: Path) -> None:
    world = World(tmp_path, {"layer.weight": torch.randn(8, 8), "norm.weight": torch.ones(8)})
    world.commit("sharded", shards=2)
    world.commit("single")
    for names in (["sharded", "single"], ["single", "sharded"]):
        assert world.store.merge(names, name="-".join(names)).notes == ()
