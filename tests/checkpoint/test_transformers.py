"""Real models of transformers, made from small configurations, through a checkout and back into from_pretrained."""

import json

import pytest
import torch
from checkpoints import assert_same, write_again
from safetensors.torch import load_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from erestore.checkpoint.names import match_names
from erestore.checkpoint.open import open_checkpoint

BERT = BertConfig(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=40,
)
GPT2 = GPT2Config(vocab_size=90, n_positions=20, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)


def same_model(one, two):
    one, two = one.state_dict(), two.state_dict()
    assert list(one) == list(two)
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("shards", [None, "20KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_safetensors_directory(tmp_path, shards, dtype):
    model = BertForSequenceClassification(BERT).to(dtype)
    model.save_pretrained(tmp_path / "in", **({"max_shard_size": shards} if shards else {}))
    with open_checkpoint(tmp_path / "in") as checkpoint:
        assert (len(checkpoint.files) > 2) is bool(shards)
        assert set(checkpoint.tensors) == set(model.state_dict())
    write_again(tmp_path / "in", tmp_path / "out")
    assert_same(tmp_path / "in", tmp_path / "out")
    same_model(model, BertForSequenceClassification.from_pretrained(tmp_path / "out", dtype=dtype))


@pytest.mark.parametrize("shards", [False, True])
def test_torch_directory_and_conversion(tmp_path, shards):
    model = GPT2LMHeadModel(GPT2)
    state = model.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    source = tmp_path / "in"
    source.mkdir()
    model.config.save_pretrained(source)
    if shards:
        names = list(state)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        weight_map = {}
        for i, half in enumerate(halves, 1):
            file = f"pytorch_model-0000{i}-of-00002.bin"
            torch.save({name: state[name] for name in half}, source / file)
            weight_map |= dict.fromkeys(half, file)
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    else:
        torch.save(state, source / "pytorch_model.bin")
        with open_checkpoint(source) as checkpoint:
            assert checkpoint.ties == (("transformer.wte.weight", "lm_head.weight"),)
    write_again(source, tmp_path / "same")
    assert_same(source, tmp_path / "same")
    same_model(model, GPT2LMHeadModel.from_pretrained(tmp_path / "same"))
    write_again(source, tmp_path / "converted", format="safetensors")
    same_model(model, GPT2LMHeadModel.from_pretrained(tmp_path / "converted"))
    if not shards:
        fresh = GPT2LMHeadModel(GPT2)
        load_model(fresh, tmp_path / "converted" / "model.safetensors")
        same_model(model, fresh)
    write_again(tmp_path / "converted", tmp_path / "back", format="torch")
    same_model(model, GPT2LMHeadModel.from_pretrained(tmp_path / "back"))


def test_metadata_of_a_module_survives(tmp_path):
    state = BertModel(BERT).state_dict()
    torch.save(state, tmp_path / "a.bin")
    write_again(tmp_path / "a.bin", tmp_path / "b.bin")
    again = torch.load(tmp_path / "b.bin", weights_only=True)
    assert type(again) is type(state)
    assert again._metadata == state._metadata


def infos(model):
    class Info:
        def __init__(self, tensor):
            self.dtype, self.shape = "F32", tuple(tensor.shape)

    return {name: Info(tensor) for name, tensor in model.state_dict().items()}


def test_trunk_is_found_under_other_prefixes():
    bare, classifier, masked = BertModel(BERT), BertForSequenceClassification(BERT), BertForMaskedLM(BERT)
    match = match_names(infos(classifier), infos(bare))
    assert match.description == "'bert.' → ''"
    assert match.unmatched_own == ("classifier.weight", "classifier.bias")
    assert match.unmatched_base == ()
    match = match_names(infos(bare), infos(masked))
    assert match.description == "'' → 'bert.'"
    assert match.keys["encoder.layer.0.output.dense.weight"] == "bert.encoder.layer.0.output.dense.weight"
    assert match.unmatched_own == ("pooler.dense.weight", "pooler.dense.bias")
    match = match_names(infos(classifier), infos(masked))
    assert match.prefixes == ()
    wrapped = {f"_orig_mod.module.{name}": info for name, info in infos(classifier).items()}
    match = match_names(wrapped, infos(bare))
    assert match.description == "'bert.' → '', '_orig_mod.' → '', 'module.' → ''"
    match.require_same_architecture()
