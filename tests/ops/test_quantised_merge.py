"""Merges of quantised weights: one variant's codes and scales together, or a conflict that names the scheme."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from quantised import bitsandbytes_4bit, fp8, gptq, mxfp4, plain
from safetensors.torch import load_file, save_file

from erestore import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError

Tensors = Mapping[str, torch.Tensor]
SCHEMES = {
    "fp8": lambda seed: fp8((32, 32), (16, 16), seed=seed)[0],
    "mxfp4": lambda seed: mxfp4(seed)[0],
    "gptq": lambda seed: gptq(seed)[0],
    "bitsandbytes 4-bit": lambda seed: bitsandbytes_4bit(seed=seed)[0],
}


@pytest.fixture(scope="module", params=SCHEMES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, str]:
    """Variants a and b with the same new codes, c with others, and d with the base's."""
    folder, codes = tmp_path_factory.mktemp("quantised"), SCHEMES[request.param]
    store = Store.init(folder / "store")
    base = codes(1) | plain()
    save_file(base, folder / "base.safetensors")
    store.import_base(folder / "base.safetensors", name="base")
    for number, (name, seed) in enumerate((("a", 2), ("b", 2), ("c", 3), ("d", 1)), 1):
        save_file(codes(seed) | plain(number), folder / f"{name}.safetensors")
        store.commit(folder / f"{name}.safetensors", base="base", name=name, quality=Quality(max_error=1e-6))
    return store, folder, request.param


def read(world: tuple[Store, Path, str], name: str) -> Tensors:
    store, folder, _ = world
    store.checkout(name, folder / f"{name}.out", force=True)
    return load_file(folder / f"{name}.out")


def same_codes(one: Tensors, two: Tensors) -> bool:
    names = [name for name in one if name.startswith("a.")]
    return all(torch.equal(one[name].view(torch.uint8), two[name].view(torch.uint8)) for name in names)


def test_equal_codes_stay_and_the_other_floats_are_averaged(world):
    store, folder, _ = world
    store.merge(["a", "b"], name="mean")
    merged, a, b = read(world, "mean"), *(load_file(folder / f"{name}.safetensors") for name in "ab")
    assert same_codes(merged, a)
    torch.testing.assert_close(merged["embed.weight"], (a["embed.weight"] + b["embed.weight"]) / 2, atol=5e-3, rtol=0)
    store.merge(["mean", "a"], name="again")
    assert same_codes(read(world, "again"), a)


def test_other_codes_are_a_conflict_that_names_the_scheme_and_the_way_out(world):
    store, _, scheme = world
    with pytest.raises(CombinationError, match=f"its {scheme} codes or scales differ") as error:
        store.merge(["a", "c"], name="bad")
    assert {conflict.kind for conflict in error.value.conflicts} == {"quantised"}
    assert "Dequantise" in (error.value.hint or "")
    with pytest.raises(CombinationError, match="codes or scales differ"):
        store.merge(["a", "c"], name="bad", strategy="ties")
    with pytest.raises(CombinationError, match="codes or scales differ"):
        store.merge(["2*a"], name="bad")
    with pytest.raises(CombinationError, match="codes or scales differ"):
        store.state_dict("0.5*a + 0.5*d")


def test_what_cancels_leaves_one_value(world):
    store, folder, _ = world
    store.merge(["c + a - b"], name="moved")
    assert same_codes(read(world, "moved"), load_file(folder / "c.safetensors"))


@pytest.mark.parametrize(("choose", "winner"), [("ours", "a"), ("theirs", "c")])
def test_a_choice_takes_codes_and_scales_of_one_variant(world, choose, winner):
    store, folder, _ = world
    store.merge(["a", "c"], name=f"chosen-{choose}", choose=choose)
    merged = read(world, f"chosen-{choose}")
    assert same_codes(merged, load_file(folder / f"{winner}.safetensors"))
    a, c = (load_file(folder / f"{name}.safetensors") for name in "ac")
    torch.testing.assert_close(merged["embed.weight"], (a["embed.weight"] + c["embed.weight"]) / 2, atol=5e-3, rtol=0)


def test_strategies_that_are_not_linear_leave_equal_codes_alone(world):
    store, folder, _ = world
    store.merge(["a", "b"], name="ties", strategy="ties")
    assert same_codes(read(world, "ties"), load_file(folder / "a.safetensors"))


def test_what_is_dropped_is_left_out_with_its_scales(world):
    store, *_ = world
    store.merge(["a", "c"], name="dropped", choose="drop")
    assert set(read(world, "dropped")) == set(plain())


def test_a_change_is_carried_where_two_of_three_have_the_same_codes(world):
    store, folder, scheme = world
    for name, seed in (("same", 1), ("other", 4)):
        save_file(SCHEMES[scheme](seed) | plain(7), folder / f"{name}.safetensors")
        store.import_base(folder / f"{name}.safetensors", name=name)
    with pytest.raises(CombinationError) as error:
        store.rebase("a", onto="other", name="bad", carry=True)
    assert {conflict.kind for conflict in error.value.conflicts} == {"quantised"}
    for variant, base, codes in (("a", "same", "a"), ("d", "other", "other")):
        store.rebase(variant, onto=base, name=f"{variant}-moved", carry=True)
        assert same_codes(read(world, f"{variant}-moved"), load_file(folder / f"{codes}.safetensors"))
