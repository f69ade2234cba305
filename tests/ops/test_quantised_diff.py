"""Quantised weights are compared by what they stand for; `show` names their scheme; adapters on them are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from quantised import bitsandbytes_4bit, fp8, gptq, mxfp4, plain
from safetensors.torch import save_file

from erestore import Store
from erestore.errors import CheckpointError

SAMPLES = [
    lambda seed: fp8((32, 32), (16, 16), seed=seed),
    mxfp4,
    gptq,
    lambda seed: bitsandbytes_4bit(nested=True, seed=seed),
]


def store_of(folder: Path, sample, seeds=(1, 2)) -> Store:
    store = Store.init(folder / "store")
    for name, seed in zip(("base", "tuned"), seeds, strict=True):
        save_file(sample(seed)[0] | plain(), folder / f"{name}.safetensors")
    store.import_base(folder / "base.safetensors", name="base")
    store.commit(folder / "tuned.safetensors", base="base", name="tuned")
    return store


@pytest.mark.parametrize("sample", SAMPLES)
def test_diff_is_of_the_weights(tmp_path, sample):
    store, before, after = store_of(tmp_path, sample), sample(1)[1], sample(2)[1]
    for side in ("tuned", str(tmp_path / "tuned.safetensors")):
        tensors = {tensor.name: tensor for tensor in store.diff("base", side).tensors}
        (codes,) = (tensor for tensor in tensors.values() if tensor.computed_from == "dequantised")
        assert codes.norm == pytest.approx(np.linalg.norm(after - before), rel=1e-5)
        assert codes.norm_before == pytest.approx(np.linalg.norm(before), rel=1e-5)
        assert codes.share == pytest.approx(1)
        others = [tensor for name, tensor in tensors.items() if name.startswith("a.") and tensor is not codes]
        assert all(tensor.norm in (None, 0) and tensor.status in ("replaced", "unchanged") for tensor in others)
    assert all(tensor.status == "unchanged" for tensor in store.diff("tuned", "tuned").tensors)


def test_one_weight_in_two_scalings_is_the_same_weight(tmp_path):
    def sample(seed):
        tensors, wanted, scheme = fp8((32, 32), (16, 16))
        if seed == 2:
            tensors["a.weight"] = (tensors["a.weight"].float() / 2).to(torch.float8_e4m3fn)
            tensors["a.weight_scale_inv"] = tensors["a.weight_scale_inv"] * 2
        return tensors, wanted, scheme

    tensors = {tensor.name: tensor for tensor in store_of(tmp_path, sample).diff("base", "tuned").tensors}
    assert (tensors["a.weight"].relative_norm or 0) < 1e-3
    assert tensors["a.weight_scale_inv"].status == "replaced"


def test_a_quantised_save_against_its_original(tmp_path):
    sample = fp8((32, 32), (16, 16))
    save_file({"a.weight": torch.from_numpy(sample[1]).float()}, tmp_path / "plain.safetensors")
    store = store_of(tmp_path, lambda _: sample)
    (tensor,) = store.diff("base", tmp_path / "plain.safetensors", tensors="a.weight").tensors
    assert (tensor.relative_norm or 0) < 1e-6


@pytest.mark.parametrize("sample", SAMPLES)
def test_similar_is_over_the_weights(tmp_path, sample):
    store = store_of(tmp_path, sample)
    save_file(sample(3)[0] | plain(), tmp_path / "other.safetensors")
    store.commit(tmp_path / "other.safetensors", base="base", name="other")
    found = store.similar(["tuned", "other"])
    one, two = (sample(seed)[1] - sample(1)[1] for seed in (2, 3))
    np.testing.assert_allclose(
        found.gram, [[(one * one).sum(), (one * two).sum()], [(one * two).sum(), (two * two).sum()]], rtol=1e-4
    )
    assert not found.whole


def test_show_names_the_scheme(tmp_path):
    store = store_of(tmp_path, SAMPLES[0])
    assert store.show("base").quantised == store.show("tuned").quantised == {"fp8 (blocks of 16 × 16)": 1}


def write_adapter(folder: Path, shape, **settings) -> None:
    folder.mkdir()
    configuration = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["a"]} | settings
    (folder / "adapter_config.json").write_text(json.dumps(configuration))
    factors = {"lora_A": torch.ones(2, shape[1]), "lora_B": torch.ones(shape[0], 2)}
    names = {f"base_model.model.a.{side}.weight": factor for side, factor in factors.items()}
    save_file(names, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("sample", SAMPLES[:1] + SAMPLES[2:])
def test_an_adapter_on_codes_is_refused_with_the_way_out(tmp_path, sample):
    store, shape = store_of(tmp_path, sample), sample(1)[1].shape
    write_adapter(tmp_path / "adapter", shape)
    with pytest.raises(CheckpointError, match="which the base holds in") as error:
        store.commit(tmp_path / "adapter", base="base", name="adapted")
    assert "quantised from" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("name", "card", "over"),
    [
        ("unsloth/tiny-bnb-4bit", "", "unsloth/tiny-bnb-4bit"),
        (
            "org/tiny",
            "The following `bitsandbytes` quantization config was used during training:",
            "bitsandbytes codes",
        ),
        ("org/tiny-48bits", "A card.", ""),
    ],
)
def test_what_an_adapter_was_trained_over_is_said(tmp_path, name, card, over):
    save_file({"a.weight": torch.ones(6, 4)}, tmp_path / "base.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    write_adapter(tmp_path / "adapter", (6, 4), base_model_name_or_path=name)
    (tmp_path / "adapter" / "README.md").write_text(card)
    assert store.commit(tmp_path / "adapter", base="base", name="adapted").trained_over == over
    assert store.show("adapted").quality.get("trained_over", "") == over
