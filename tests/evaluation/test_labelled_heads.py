"""Heads that the base has too, of variants whose config.json calls the classes otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from test_buffers_and_drops import Tensors, World

from erestore.errors import CombinationError
from erestore.history.revision import open_revision

HEAD, BIAS = "classifier.weight", "classifier.bias"
LABELS = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
SWAPPED = {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
GENERIC = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def commit(world: World, name: str, seed: int, config: Any, *, frozen: bool = False, parent: str = "") -> None:
    tensors = world.base if not parent else dict(world.store.state_dict(parent))
    changed: Tensors = {
        own: value + 0.1 * noise(*value.shape, seed=seed)
        for own, value in tensors.items()
        if not (frozen and own in (HEAD, BIAS))
    }
    folder = world.save({**tensors, **changed})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    where = {"parent": parent} if parent else {"base": "base"}
    world.store.commit(folder, name=name, **where)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    shapes = {"layer.weight": (8, 8), "token_type_embeddings.weight": (2, 8), HEAD: (2, 8), BIAS: (2,)}
    world = World(
        tmp_path_factory.mktemp("labels"), {name: noise(*shapes[name], seed=seed) for seed, name in enumerate(shapes)}
    )
    commit(world, "a", 11, LABELS)
    commit(world, "b", 12, {**LABELS, "_name_or_path": "x"})
    commit(world, "swapped", 13, SWAPPED)
    commit(world, "continued", 14, SWAPPED, frozen=True, parent="swapped")
    commit(world, "frozen", 15, SWAPPED, frozen=True)
    commit(world, "unsaid", 16, {"model_type": "bert"})
    commit(world, "generic", 17, GENERIC)
    commit(world, "bare", 18, None)
    return world


@pytest.mark.parametrize(
    ("names", "strategy"), [(["a", "swapped"], "ties"), (["frozen", "a"], None), (["generic", "a"], None)]
)
def test_other_classes_are_a_conflict_with_a_way_out(world: World, names: list[str], strategy: str | None) -> None:
    with pytest.raises(CombinationError, match="classes") as refused:
        world.store.merge(names, name="m", strategy=strategy)
    assert [(conflict.kind, conflict.subject) for conflict in refused.value.conflicts] == [
        ("labels", BIAS),
        ("labels", HEAD),
    ]
    assert set(refused.value.conflicts[0].operands) == set(names)
    assert "id2label" in str(refused.value.hint)
    assert "--ours" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("names", "choice", "strategy"),
    [
        (["a", "swapped"], "ours", None),
        (["a", "b", "swapped"], "theirs", "ties"),
        (["frozen", "a"], "ours", None),
        (["a", "swapped"], "drop", "ties"),
    ],
)
def test_a_chosen_head_is_that_of_one_variant(
    world: World, names: list[str], choice: str, strategy: str | None
) -> None:
    name = f"{'-'.join(names)}-{choice}-{strategy}"
    world.store.merge(names, name=name, choose=choice, strategy=strategy)
    merged = world.store.state_dict(name)
    if choice == "drop":
        assert merged.keys() == world.base.keys() - {HEAD, BIAS}
        return
    one = names[0] if choice == "ours" else names[-1]
    chosen = world.store.state_dict(one)
    lost = 0.02 if strategy else 0  # a merge that is not linear is encoded anew
    assert all(torch.allclose(merged[key], chosen[key], atol=lost, rtol=0) for key in (HEAD, BIAS))
    assert not torch.equal(merged["layer.weight"], chosen["layer.weight"])
    files = [
        open_revision(world.store, each).variant(world.store).layout.side_files["config.json"] for each in (name, one)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "expression",
    [
        "mean(a, b)",
        "0.3*base + 0.7*a",
        "a + continued - swapped",
        "mean(unsaid, generic)",
        "mean(a, bare)",
        "a - a + swapped",
    ],
)
def test_where_one_list_of_classes_is_left_heads_are_combined(world: World, expression: str) -> None:
    assert world.store.state_dict(expression)[HEAD].shape == (2, 8)
