"""Merging an adapter in PEFT is advised where that works and makes the same model, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = torch.arange(10)[None]
SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
ON_Q = {"r": 2, "target_modules": ["q_proj"]}
KINDS = {
    "dora": LoraConfig(use_dora=True, **ON_Q),
    "kasa": LoraConfig(kasa_config=KasaConfig(), **ON_Q),
    "bdlora": LoraConfig(use_bdlora=BdLoraConfig(nblocks=2, target_modules_bd_b=["q_proj"]), **ON_Q),
    "trainable tokens": LoraConfig(trainable_token_indices=[1, 2], **ON_Q),
    "experts": LoraConfig(target_parameters=["mlp.experts.gate_up_proj"], **ON_Q),
    "pissa": LoraConfig(init_lora_weights="pissa", **ON_Q),
    "ia3": IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    "loha": LoHaConfig(r=2, target_modules=["q_proj"]),
    "prompt": PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "alora": LoraConfig(alora_invocation_tokens=[5], task_type="CAUSAL_LM", **ON_Q),
    "replication": LoraConfig(layer_replication=[[0, 2], [1, 2]], **ON_Q),
}


def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "experts":
        return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2))
    return LlamaForCausalLM(LlamaConfig(**SIZES))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_advised_where_it_is_the_same_model(tmp_path: Path, kind: str) -> None:
    adapted = get_peft_model(model(kind), KINDS[kind]).eval()
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        wanted = adapted(TOKENS).logits
        try:
            is_same = bool((adapted.merge_and_unload()(TOKENS).logits - wanted).abs().max() < 1e-4)
        except (AttributeError, NotImplementedError, RuntimeError):
            is_same = False
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert ("merge_and_unload" in (caught.value.hint or "")) is is_same


@pytest.mark.parametrize("start", ["corda", "lora_ga", "pissa_niter_4"])
def test_a_start_that_cannot_be_repeated_is_converted(tmp_path: Path, start: str) -> None:
    get_peft_model(model("plain"), LoraConfig(**ON_Q)).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": start}))
    with pytest.raises(CheckpointError, match=f"initialised by '{start}'") as caught:
        open_checkpoint(tmp_path)
    assert "path_initial_model_for_weight_conversion" in (caught.value.hint or "")
    assert "merge" not in (caught.value.hint or "")


def test_a_tied_end_is_untied_before_it_is_merged(tmp_path: Path) -> None:
    get_peft_model(model("plain"), LoraConfig(r=2, target_modules=["lm_head"], use_dora=True)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="use_dora") as caught:
        open_checkpoint(tmp_path)
    assert "tie_word_embeddings" in (caught.value.hint or "")
