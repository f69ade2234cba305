"""Adapters of PEFT through commit and checkout, held against PEFT's own merge."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError, UsageError
from erestore.objects.residual import Residual

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny_bert(labels: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=97,
        num_labels=labels,
        max_position_embeddings=16,
    )
    return transformers.BertForSequenceClassification(config)


def tiny_gpt2() -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=97, n_positions=16)
    )


def adapter(model: torch.nn.Module, folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    """Save base and a random adapter of it; return what PEFT merges them to."""
    model.save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder / "adapter")
    return adapted.merge_and_unload().state_dict()


CASES = {
    "linear": (tiny_bert, {"r": 4, "lora_alpha": 6, "target_modules": ["query", "value"]}),
    "rank stabilised": (tiny_bert, {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": ["dense"]}),
    "patterns": (
        tiny_bert,
        {
            "r": 4,
            "lora_alpha": 4,
            "target_modules": ["query", "key"],
            "rank_pattern": {"query": 2},
            "alpha_pattern": {"key": 7},
        },
    ),
    "embedding": (tiny_bert, {"r": 4, "lora_alpha": 6, "target_modules": ["word_embeddings", "query"]}),
    "head": (tiny_bert, {"r": 4, "lora_alpha": 6, "target_modules": ["query"], "task_type": "SEQ_CLS"}),
    "Conv1D": (tiny_gpt2, {"r": 4, "lora_alpha": 6, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_checkout_is_what_peft_merges(case: str, tmp_path: Path) -> None:
    make, settings = CASES[case]
    merged = adapter(make(), tmp_path, **settings)
    store = Store.init(tmp_path / "store")
    result = store.commit(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert result.relative_error == 0
    assert result.exact
    assert result.tensors["factors"] > 0
    store.checkout("adapter", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(load_file(tmp_path / "base" / "model.safetensors"))
    for name, tensor in written.items():
        assert torch.allclose(tensor, merged[name], rtol=1e-5, atol=1e-6), name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        type(make()).from_pretrained(tmp_path / "out")


def test_factors_are_kept_bit_for_bit(tmp_path: Path) -> None:
    adapter(tiny_bert(), tmp_path, r=4, lora_alpha=6, target_modules=["query"])
    store = Store.init(tmp_path / "store")
    commit = store.commit_record(store.commit(tmp_path / "adapter", base=str(tmp_path / "base")).commit)
    residual = Residual.open(store.objects, commit.own[0])
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    key = "bert.encoder.layer.0.attention.self.query.weight"
    (section,) = residual.sections(key)
    prefix = "base_model.model." + key.removesuffix(".weight")
    assert np.array_equal(section.left, saved[f"{prefix}.lora_B.weight"])
    assert np.array_equal(section.right, saved[f"{prefix}.lora_A.weight"])
    assert section.scaling == 1.5


def test_adapter_on_a_variant_continues_it(tmp_path: Path) -> None:
    model = tiny_bert()
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    tuned = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "tuned")
    store = Store.init(tmp_path / "store")
    store.commit(tmp_path / "tuned", base=str(tmp_path / "base"), name="tuned")
    folder = tmp_path / "more"
    merged = adapter(model, folder, r=2, lora_alpha=2, target_modules=["query"])
    store.commit(folder / "adapter", parent="tuned", name="more")
    value = store.state_dict("more")["bert.encoder.layer.1.attention.self.query.weight"]
    before = store.state_dict("tuned")["bert.encoder.layer.1.attention.self.query.weight"]
    name = "bert.encoder.layer.1.attention.self.query.weight"
    assert torch.allclose(value - before, merged[name] - tuned[name], atol=1e-5)


def test_more_than_lora_is_refused_by_name(tmp_path: Path) -> None:
    adapter(tiny_bert(), tmp_path, r=4, lora_alpha=6, target_modules=["query"], use_dora=True)
    store = Store.init(tmp_path / "store")
    with pytest.raises(CheckpointError, match=re.compile("dora", re.IGNORECASE)):
        store.commit(tmp_path / "adapter", base=str(tmp_path / "base"))


def test_failed_training_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapter(tiny_bert(), tmp_path, r=4, lora_alpha=6, target_modules=["query"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    saved = load_file(path)
    saved[next(iter(saved))][0, 0] = float("nan")
    save_file(saved, path)
    store = Store.init(tmp_path / "store")
    with pytest.raises(CheckpointError, match="NaN"):
        store.commit(tmp_path / "adapter", base=str(tmp_path / "base"))


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    adapter(tiny_bert(), tmp_path, r=4, lora_alpha=6, target_modules=["query"])
    store = Store.init(tmp_path / "store")
    with pytest.raises(CheckpointError, match="adapter"):
        store.import_base(tmp_path / "adapter", name="a")


def test_an_adapter_needs_a_parent_with_a_linear_part(tmp_path: Path) -> None:
    """On a parent that is all exact remainder it would stand on the base, and lose all that the parent changed."""
    adapter(tiny_bert(), tmp_path, r=4, lora_alpha=6, target_modules=["query"])
    tuned = {name: tensor + 0.01 for name, tensor in load_file(tmp_path / "base" / "model.safetensors").items()}
    shutil.copytree(tmp_path / "base", tmp_path / "ft")
    save_file(tuned, tmp_path / "ft" / "model.safetensors", metadata={"format": "pt"})
    store = Store.init(tmp_path / "store")
    archived = store.commit(
        tmp_path / "ft", base=str(tmp_path / "base"), name="archive", quality=Quality(exact_only=True)
    )
    assert float(store.commit_record(archived.commit).quality["linear_error"]) == 1
    with pytest.raises(UsageError, match="has no lossy part"):
        store.commit(tmp_path / "adapter", parent="archive", name="child")
    store.commit(tmp_path / "ft", parent="archive", name="kept", quality=Quality(exact=True))
    assert store.commit(tmp_path / "adapter", parent="kept", name="child").relative_error < 0.02
