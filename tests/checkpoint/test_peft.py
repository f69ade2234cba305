"""LoRA adapters against the weights that the real PEFT merges."""

import json
import warnings
from fractions import Fraction

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2LMHeadModel

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import describe
from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.peft import LoraFactors, PeftCheckpoint
from erestore.errors import CheckpointError


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Conv2d(3, 6, 3)
        self.point = torch.nn.Conv2d(6, 6, 1)
        self.line = torch.nn.Conv1d(6, 4, 5)
        self.grouped = torch.nn.Conv2d(6, 6, 3, groups=2)
        self.config = {"model_type": "custom"}

    def forward(self, x):
        return self.line(self.point(self.wide(x)).flatten(2))


def bert():
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
    )


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=10, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


CASES = {
    "linear": (bert, {"target_modules": ["query", "value", "dense"]}),
    "all-linear": (bert, {"target_modules": "all-linear", "lora_alpha": 3}),
    "rslora": (bert, {"target_modules": ["query"], "use_rslora": True, "lora_alpha": 5}),
    "patterns": (
        bert,
        {
            "target_modules": ["query", "key", "dense"],
            "rank_pattern": {"layer.0.attention.self.query": 2, "output.dense": 5},
            "alpha_pattern": {r"layer\.1\..*": 7, "key": 0.3},
        },
    ),
    "embedding": (bert, {"target_modules": ["word_embeddings", "position_embeddings", "query"]}),
    "saved modules": (bert, {"target_modules": ["query"], "modules_to_save": ["classifier", "pooler"]}),
    "all biases": (bert, {"target_modules": ["query"], "bias": "all", "modules_to_save": ["pooler"]}),
    "own biases": (bert, {"target_modules": ["query", "dense"], "bias": "lora_only"}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "gpt2 without the flag": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "convolutions": (Convolutions, {"target_modules": ["wide", "point", "line"]}),
}


def adapt(make, directory, **options):
    """Train nothing, but give every trainable number a value of its own; return the base's and the merged weights."""
    torch.manual_seed(0)
    model = make()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's remarks on flags that do not fit the modules
        adapted = get_peft_model(model, LoraConfig(**{"r": 3, **options}))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn_like(parameter)
        adapted.save_pretrained(directory)
        torch.manual_seed(0)
        loaded = PeftModel.from_pretrained(make(), directory)
        return base, loaded.merge_and_unload().state_dict()


def infos(state):
    return {name: TensorInfo(name, *describe(tensor, name)) for name, tensor in state.items()}


def delta(checkpoint: PeftCheckpoint, factors: LoraFactors) -> torch.Tensor:
    down = checkpoint.read(factors.down).double().flatten(1)
    product = float(factors.scaling) * (checkpoint.read(factors.up).double().flatten(1) @ down)
    return (product.T if factors.transpose else product).reshape(factors.shape)


@pytest.mark.parametrize("flag", ["as saved", "turned"])
@pytest.mark.parametrize("case", CASES)
def test_merged_weights_are_those_of_peft(tmp_path, case, flag):
    make, options = CASES[case]
    base, merged = adapt(make, tmp_path, **options)
    if flag == "turned":  # PEFT saves what it last set the flag to, and goes by the modules when it loads
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        settings["fan_in_fan_out"] = not settings["fan_in_fan_out"]
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with open_checkpoint(tmp_path) as checkpoint:
        assert isinstance(checkpoint, PeftCheckpoint)
        assert checkpoint.format == "peft"
        assert "adapter_config.json" in checkpoint.side_files
        found = checkpoint.match(infos(base))
        assert not found.additions
        assert not any("modules_to_save" in name for name in found.replacements.values())
        expected = {name: tensor.double() for name, tensor in base.items()}
        for key, name in found.replacements.items():
            expected[key] = checkpoint.read(name).double()
        for key, factors in found.factors.items():
            expected[key] = expected[key] + delta(checkpoint, factors)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed <= set(found.factors) | set(found.replacements)
    assert set(found.factors) <= changed
    for name, tensor in merged.items():
        torch.testing.assert_close(expected[name].to(tensor.dtype), tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_adapter_of_torch(tmp_path):
    adapt(bert, tmp_path, target_modules=["query"])
    with open_checkpoint(tmp_path) as checkpoint:
        expected = {name: checkpoint.read(name) for name in checkpoint.tensors}
        adapters = checkpoint.parts.factors
    torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "peft"
        assert checkpoint.parts.factors == adapters
        assert all(torch.equal(checkpoint.read(name), expected[name]) for name in expected)


def test_scaling_is_exact(tmp_path):
    adapt(bert, tmp_path, target_modules=["query"], lora_alpha=7)
    with open_checkpoint(tmp_path) as checkpoint:
        assert {factors.scaling for factors in checkpoint.parts.factors.values()} == {Fraction(7, 3)}


def test_base_under_another_prefix(tmp_path):
    adapt(bert, tmp_path, target_modules=["query", "dense"], bias="lora_only", modules_to_save=["classifier"])
    bare = BertModel(bert().config).state_dict()
    with open_checkpoint(tmp_path) as checkpoint:
        found = checkpoint.match(infos(bare))
        assert "encoder.layer.0.attention.self.query.weight" in found.factors
        assert "encoder.layer.0.attention.self.query.bias" in found.replacements
        assert set(found.additions) == {"classifier.weight", "classifier.bias"}


def test_wrong_base(tmp_path):
    adapt(bert, tmp_path, target_modules=["query", "dense"])
    with open_checkpoint(tmp_path) as checkpoint:
        with pytest.raises(CheckpointError, match=r"The adapter changes 'bert"):
            checkpoint.match(infos(gpt2().state_dict()))
        smaller = {name: tensor for name, tensor in bert().state_dict().items() if "layer.1.attention" not in name}
        with pytest.raises(CheckpointError, match=r"changes 'bert\.encoder\.layer\.1\.attention"):
            checkpoint.match(infos(smaller))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "'use_dora'"),
        ({"trainable_token_indices": {"word_embeddings": [1]}}, "'trainable_token_indices'"),
        ({"init_lora_weights": "olora"}, "initialised by 'olora'"),
        ({"init_lora_weights": "pissa"}, "initialised by 'pissa'"),
    ],
)
def test_more_than_plain_factors_is_refused_by_name(tmp_path, options, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"], **options)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        open_checkpoint(tmp_path)
    assert "erg" in caught.value.hint


def test_other_kinds_are_refused_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(bert(), IA3Config(target_modules=["query"], feedforward_modules=[])).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type IA3, not LoRA"):
        open_checkpoint(tmp_path)


def test_grouped_convolution_is_refused_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(Convolutions(), LoraConfig(r=2, target_modules=["grouped"])).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'grouped' is a grouped convolution"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens'"),
        ({"layer_replication": [[0, 1]]}, "'layer_replication'"),
        ({"setting_of_the_future": 1}, "'setting_of_the_future'"),
        ({"lora_alpha": "many"}, "malformed"),
        ({"lora_alpha": float("nan")}, "malformed"),
        ({"alpha_pattern": {"(": 3}}, "malformed"),
        ({"alpha_pattern": [1]}, "malformed"),
        ({"peft_type": None}, "type None"),
    ],
)
def test_settings_that_change_the_meaning(tmp_path, changes, reason):
    adapt(bert, tmp_path, target_modules=["query"])
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("base_model.model.q.lora_A.weight"), "does not have one A and one B"),
        (lambda t: t.update({"base_model.model.q.lora_A.weight": torch.ones(4, 5)}), "factors of an unknown form"),
        (lambda t: t.update({"base_model.model.q.lora_A.weight": torch.ones(2)}), "factors of an unknown form"),
        (lambda t: t.update({"base_model.model.q.lora_magnitude_vector": torch.ones(2)}), "lora_magnitude_vector"),
        (lambda t: t.update({"base_model.model.q.lora_embedding_A": torch.ones(2, 2)}), "one A and one B"),
        (lambda t: (t.clear(), t.update(w=torch.ones(1))), "no LoRA factors"),
    ],
)
def test_tensors_that_are_no_factors(tmp_path, change, reason):
    tensors = {
        "base_model.model.q.lora_A.weight": torch.ones(2, 5),
        "base_model.model.q.lora_B.weight": torch.ones(4, 2),
    }
    change(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 1, "r": 2}')
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(tmp_path)
