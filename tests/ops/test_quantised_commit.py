"""Commits of quantised weights: codes and scales come back bit for bit, everything else within the bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from quantised import OPAQUE, bitsandbytes_4bit, fp8, gptq, int8, mxfp4, nvfp4, opaque, plain
from safetensors.torch import load_file, save_file

from erestore import Store
from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError, CombinationError, UsageError


def commit(folder: Path, base, tuned, quality: Quality | None = None):
    save_file(base, folder / "base.safetensors")
    save_file(tuned, folder / "tuned.safetensors")
    store = Store.init(folder / "store")
    store.import_base(folder / "base.safetensors", name="base")
    done = store.commit(folder / "tuned.safetensors", base="base", name="tuned", quality=quality)
    store.checkout("tuned", folder / "out.safetensors")
    return store, done, load_file(folder / "out.safetensors")


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (one, two)))


@pytest.mark.parametrize(
    "tensors",
    [
        lambda seed: fp8((64, 64), (16, 16), seed=seed)[0],
        lambda seed: (
            fp8((64, 64), (64, 64), scale="a.weight_scale", seed=seed)[0] | {"a.input_scale": torch.tensor(float(seed))}
        ),
        lambda seed: fp8((64, 64), (16, 16), exponents=True, seed=seed)[0],
        lambda seed: mxfp4(seed)[0],
        lambda seed: gptq(seed)[0],
        lambda seed: bitsandbytes_4bit(seed=seed)[0],
    ],
)
@pytest.mark.parametrize(
    "quality", [Quality(), Quality(codec="ere", rank=2), Quality(objective="frobenius"), Quality(exact=True)]
)
def test_codes_and_scales_come_back(tmp_path, tensors, quality):
    base, tuned = tensors(1) | plain(), tensors(2) | plain(1)
    _, done, out = commit(tmp_path, base, tuned, quality)
    assert all(same_bits(out[name], tuned[name]) for name in tuned if name.startswith("a."))
    lost = (out["embed.weight"] - tuned["embed.weight"]).norm() ** 2
    change = (tuned["embed.weight"] - base["embed.weight"]).norm() ** 2
    assert float(lost / change) <= (1e-12 if quality.exact else 0.5 if quality.codec == "ere" else 0.011)
    assert done.relative_error == pytest.approx(float(lost / change), rel=1e-3, abs=1e-12)


def test_few_changed_codes_take_little(tmp_path):
    """0.1 % of the codes: a fiftieth of the tensor at most."""
    base = fp8((512, 512), (128, 128))[0]
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    places = torch.arange(0, 512 * 512, 1000)
    base["a.weight"].view(torch.uint8)[0, :5] = torch.tensor([0, 0x80, 0x80, 0x80, 1], dtype=torch.uint8)
    tuned["a.weight"].view(torch.uint8)[0, :5] = torch.tensor([0, 0x80, 0, 1, 0], dtype=torch.uint8)
    tuned["a.weight"].view(torch.uint8).view(-1)[places[1:]] = torch.tensor(56, dtype=torch.uint8)  # 1.0
    _, done, out = commit(tmp_path, base, tuned)
    assert same_bits(out["a.weight"], tuned["a.weight"])
    assert done.tensors == {"dense": 1, "unchanged": 1}
    assert done.stored_bytes < 512 * 512 / 50


def test_codes_that_differ_everywhere_are_whole(tmp_path):
    base, tuned = (fp8((64, 64), (16, 16), seed=seed)[0] for seed in (1, 2))
    tuned["a.weight_scale_inv"] = base["a.weight_scale_inv"]
    tuned["a.weight"].view(torch.uint8)[0, 0] = 0x80  # a zero with a sign
    _, done, out = commit(tmp_path, base, tuned)
    assert done.tensors == {"codes": 1, "unchanged": 1}
    assert same_bits(out["a.weight"], tuned["a.weight"])


def bfloat16(tensors):
    return {name: tensor.float().bfloat16() for name, tensor in tensors.items() if name.endswith(".weight")}


def test_plain_weights_on_a_quantised_base_are_refused_in_its_words(tmp_path):
    base = fp8((64, 64), (16, 16))[0]
    with pytest.raises(CheckpointError, match="not quantised and its base is") as error:
        commit(tmp_path, base, bfloat16(base))
    assert "'a.weight' is BF16 [64, 64] here and fp8 codes (F8_E4M3 [64, 64]) in the base" in error.value.message
    assert "--base" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("tensors", "form"),
    [
        (
            lambda: int8("a.SCB", "bitsandbytes int8", 127)[0],
            "bitsandbytes int8 codes (I8 [4, 8]) here and BF16 [4, 8]",
        ),
        (lambda: fp8((6, 8), (2, 4))[0], "fp8 codes (F8_E4M3 [6, 8]) here and BF16 [6, 8]"),
        (lambda: nvfp4("a.weight", "a.weight_scale_2")[0], "nvfp4 codes (U8 [3, 16]) here and BF16 [3, 16]"),
    ],
)
def test_a_quantised_save_on_plain_weights_is_refused_in_its_words(tmp_path, tensors, form):
    with pytest.raises(CheckpointError, match="is quantised and its base is not") as error:
        commit(tmp_path, bfloat16(tensors()), tensors())
    assert form in error.value.message


def test_data_types_are_said_where_shapes_are_equal(tmp_path):
    tensors = {"a.weight": torch.ones(8, 8)}
    with pytest.raises(CheckpointError) as error:
        commit(tmp_path, tensors, {"a.weight": torch.ones(8, 8, dtype=torch.int32)})
    assert "'a.weight' is I32 [8, 8] here and F32 [8, 8] in the base" in error.value.message


@pytest.mark.parametrize("scheme", OPAQUE)
def test_codes_of_any_scheme_are_exact_and_taken_together(tmp_path, scheme):
    store = Store.init(tmp_path / "store")
    variants = {name: opaque(scheme, seed) | plain(seed) for seed, name in enumerate(("base", "a", "b"))}
    for name, tensors in variants.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": scheme}}))
    store.import_base(tmp_path / "base", name="base")
    for name in "ab":
        store.commit(tmp_path / name, base="base", name=name)
    with pytest.raises(CombinationError, match=f"its {scheme} codes or scales differ") as error:
        store.merge(["a", "b"], name="mean")
    assert {conflict.kind for conflict in error.value.conflicts} == {"quantised"}
    store.merge(["a", "b"], name="theirs", choose="theirs")
    for revision, name in (("a", "a"), ("theirs", "b")):
        out = store.state_dict(revision)
        assert all(same_bits(out[key], variants[name][key]) for key in opaque(scheme, 1))
    assert store.show("a").quantised == {scheme: 1}


def test_codes_are_not_read_in_part(tmp_path):
    """New codes that are held whole would stand under the base's scales, which are in a residual."""
    base = fp8((64, 64), (16, 16))[0] | plain()
    tuned = fp8((64, 64), (16, 16), seed=2)[0] | plain(1)
    base["a.weight_scale_inv"] = base["a.weight_scale_inv"].mul(1024).round() / 1024
    tuned["a.weight_scale_inv"] = base["a.weight_scale_inv"] + 1
    store, done, _ = commit(tmp_path, base, tuned)
    assert (done.tensors["codes"], done.tensors["dense"]) == (1, 1)
    with pytest.raises(UsageError, match="cannot be read in part") as error:
        store.checkout("tuned", tmp_path / "part.safetensors", max_bytes=0)
    least = int((error.value.hint or "").split()[2])
    part = store.checkout("tuned", tmp_path / "part.safetensors", max_bytes=least)
    assert part.residual_bytes_read == least
    store.checkout("tuned", tmp_path / "rank.safetensors", max_rank=0)
    for name in ("part", "rank"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert all(same_bits(found[key], tuned[key]) for key in tuned if key.startswith("a."))
