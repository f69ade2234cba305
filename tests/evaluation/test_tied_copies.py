"""Heads that are saved beside the embedding that they are tied to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_buffers_and_drops import Tensors, World

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tuned(world: World, seed: int, **heads: torch.Tensor) -> Tensors:
    embedding = world.base[EMBED] + 0.1 * noise(20, 1, seed=seed) @ noise(1, 8, seed=-seed)
    return {EMBED: embedding} | {name.replace("__", "."): value for name, value in heads.items()}


def commit(world: World, name: str, tensors: Tensors, quality: Quality | None = None) -> object:
    return world.store.commit(world.save(world.base | tensors), base="base", name=name, quality=quality)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, {EMBED: noise(20, 8), "layer.weight": noise(8, 8), "model.norm.weight": torch.ones(8)})


@pytest.mark.parametrize("exact", [False, True])
def test_a_head_saved_beside_a_tied_base_is_no_tensor_of_its_own(world: World, exact: bool) -> None:
    tensors = tuned(world, 1)
    done = commit(world, "twice", tensors | {HEAD: tensors[EMBED].clone()}, Quality(exact=exact))
    assert "whole" not in done.tensors
    assert done.notes == ()
    out = world.checked_out("twice")
    assert out.keys() == {*world.base, HEAD}
    assert torch.equal(out[HEAD], out[EMBED])
    assert torch.equal(out[HEAD], tensors[EMBED]) or not exact
    assert world.store.fsck(deep=True).clean


@pytest.mark.parametrize("order", [("tied", "twice"), ("twice", "tied")])
@pytest.mark.parametrize("in_base", [False, True])
@pytest.mark.parametrize("strategy", ["average", "ties"])
def test_tied_and_untied_but_equal_variants_are_merged(
    tmp_path: Path, order: tuple[str, str], in_base: bool, strategy: str
) -> None:
    embedding = noise(20, 8)
    base = {EMBED: embedding, "layer.weight": noise(8, 8)} | ({HEAD: embedding.clone()} if in_base else {})
    world = World(tmp_path, base)
    one, two = tuned(world, 1), tuned(world, 2)
    commit(world, "twice", two | {HEAD: two[EMBED].clone()})
    world.store.commit(world.save({"layer.weight": base["layer.weight"]} | one), base="base", name="tied")
    done = world.store.merge(order, name="m", strategy=strategy)
    assert done.notes == ()
    merged = world.checked_out("m")
    assert (HEAD in merged) == (order[0] == "twice")
    assert torch.equal(merged.get(HEAD, merged[EMBED]), merged[EMBED])
    if strategy == "average":
        assert torch.allclose(merged[EMBED], (one[EMBED] + two[EMBED]) / 2, atol=0.05)


def test_all_copies_of_one_embedding(tmp_path: Path) -> None:
    shared = noise(20, 8)
    world = World(tmp_path, {"shared.weight": shared, "layer.weight": noise(8, 8)})
    value = shared + 0.1 * noise(20, 8, seed=3)
    names = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", HEAD]
    done = commit(world, "twice", {name: value.clone() for name in names})
    assert "whole" not in done.tensors
    assert world.checked_out("twice").keys() == {*names, "layer.weight"}


def test_a_vocabulary_that_grew_on_both_sides(world: World) -> None:
    grown = torch.cat([tuned(world, 1)[EMBED], noise(2, 8, seed=9)])
    done = commit(world, "twice", {EMBED: grown, HEAD: grown.clone()})
    assert done.tensors["added rows"] == 1
    assert "whole" not in done.tensors
    assert torch.equal(world.checked_out("twice")[HEAD][20:], grown[20:])


@pytest.mark.parametrize("choice", ["ours", "theirs", "drop"])
@pytest.mark.parametrize("order", [("twice", "untied"), ("untied", "twice")])
def test_a_head_that_differs_is_its_own_tensor(world: World, choice: str, order: tuple[str, str]) -> None:
    tensors = tuned(world, 1)
    commit(world, "twice", tensors | {HEAD: tensors[EMBED].clone()})
    head = noise(20, 8, seed=5)
    done = commit(world, "untied", tuned(world, 2, lm_head__weight=head))
    assert done.notes == (
        f"'{HEAD}' differs from '{EMBED}', and the base has it in that tensor: it is kept as a separate tensor.",
    )
    with pytest.raises(CombinationError, match=HEAD):
        world.store.merge(order, name="m")
    world.store.merge(order, name="m", choose=choice)
    merged = world.checked_out("m")
    assert torch.equal(merged[HEAD], merged[EMBED] if choice == "drop" else head)
    assert world.store.fsck(deep=True).clean


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_base", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_head_that_is_dropped_or_chosen_loads_in_transformers(tmp_path: Path, kind: str, in_base: bool) -> None:
    """Dropped, it is the embedding again, as config.json says; chosen, it is that variant's and no half of it."""
    store = Store.init(tmp_path / "store")
    tied, untied = (tiny(kind, is_tied=is_tied, seed=int(not is_tied)) for is_tied in (True, False))
    tiny(kind, is_tied=True).save_pretrained(tmp_path / "base")
    if in_base:
        path = tmp_path / "base" / "model.safetensors"
        tensors = load_file(path)
        (name,) = (name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
        save_file(tensors | {HEAD: tensors[name].clone()}, path, metadata={"format": "pt"})
    for name, model in (("tied", tied), ("untied", untied)):
        model.save_pretrained(tmp_path / name)
        store.commit(tmp_path / name, base=str(tmp_path / "base") if name == "tied" else None, name=name)
    stored = store.state_dict("untied")[HEAD]
    for choice in ("drop", "ours"):
        store.merge(["untied", "tied"], name=choice, choose=choice)
        store.checkout(choice, tmp_path / choice)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / choice, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        wanted = stored if choice == "ours" else model.get_input_embeddings().weight
        assert torch.equal(model.lm_head.weight, wanted)


def tiny(kind: str, *, is_tied: bool, seed: int | None = None) -> torch.nn.Module:
    """Return a model of which the weights are those of seed 0, a little changed by `seed`."""
    settings = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **settings, intermediate_size=24, tie_word_embeddings=is_tied)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        if not is_tied:
            model.lm_head.weight.copy_(model.get_input_embeddings().weight)
        if seed is not None:
            for number, parameter in enumerate(model.parameters()):
                parameter.add_(0.01 * noise(*parameter.shape, seed=100 * seed + number))
    return model


def test_a_head_that_was_equal_in_the_base_and_no_longer_is(tmp_path: Path) -> None:
    embedding = noise(20, 8)
    world = World(tmp_path, {EMBED: embedding, HEAD: embedding.clone(), "layer.weight": noise(8, 8)})
    done = commit(world, "untied", tuned(world, 1, lm_head__weight=embedding + 0.1 * noise(20, 8, seed=2)))
    assert len(done.notes) == 1
    assert "the base ties it to that tensor" in done.notes[0]
    assert "whole" not in done.tensors


def test_equal_tensors_that_are_no_copies(world: World) -> None:
    value = noise(20, 8, seed=1)
    same = {"first.weight": value, "second.weight": value.clone(), "other.embed_tokens.weight": torch.zeros(20, 8)}
    done = commit(world, "x", same | {EMBED: torch.zeros(20, 8)})
    assert done.tensors["whole"] == 3
