"""Adapters through commit and checkout compute what PEFT's model computes with the adapter in place, not what it merges to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.errors import CheckpointError

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
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


class Bases:
    """Tiny models on disk, each in a store of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        folder = self.root / name
        if not folder.exists():
            torch.manual_seed(0)
            self._make(name).save_pretrained(folder, max_shard_size="8KB" if name.endswith("sharded") else "1GB")
            Store.init(self.root / f"{name}-store").import_base(folder, name="base")
        return folder

    def store(self, name: str) -> Store:
        self.folder(name)
        return Store.open(self.root / f"{name}-store")

    def _make(self, name: str) -> torch.nn.Module:
        if name == "gpt2":
            return transformers.GPT2LMHeadModel(
                transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=60, n_positions=16)
            )
        if name == "mixtral":
            return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, num_local_experts=4))
        settings = {"tie_word_embeddings": name.startswith("tied"), "attention_bias": name == "biased"}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **settings))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2)
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def loaded(folder: Path, grown: int = 0, kind: str = "AutoModelForCausalLM") -> torch.nn.Module:
    model = getattr(transformers, kind).from_pretrained(folder)
    if grown:
        torch.manual_seed(2)
        model.resize_token_embeddings(SIZES["vocab_size"] + grown, mean_resizing=False)
    return model


def held_against_peft(
    bases: Bases,
    base: str,
    folder: Path,
    *,
    grown: int = 0,
    kind: str = "AutoModelForCausalLM",
    edit: Callable[[Path], object] = lambda _: None,
    **settings: Any,
) -> tuple[Store, Any]:
    """Commit an adapter, check it out and compare logits; return the store and the result of the commit."""
    model = randomise(peft.get_peft_model(loaded(bases.folder(base), grown, kind), peft.LoraConfig(r=2, **settings)))
    model.save_pretrained(folder / "adapter")
    wanted = logits(model)
    edit(folder / "adapter")
    again = peft.PeftModel.from_pretrained(loaded(bases.folder(base), grown, kind), folder / "adapter").eval()
    assert torch.equal(logits(again), wanted)
    store = bases.store(base)
    result = store.commit(folder / "adapter", base="base", name=folder.name)
    store.checkout(folder.name, folder / "out")
    out = loaded(folder / "out", kind=kind).eval()
    assert (logits(out) - wanted).abs().max() < 1e-5
    return store, result


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "config.json").read_text())


def names(folder: Path) -> set[str]:
    return set(load_file(folder / "out" / "model.safetensors"))


TIED: dict[str, tuple[dict[str, Any], bool]] = {
    "head": ({"target_modules": ["lm_head"]}, False),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, False),
    "both": ({"target_modules": ["embed_tokens", "lm_head"]}, False),
    "saved embedding": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "saved head": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "saved both": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "kept tied": ({"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}, True),
    "saved, kept tied": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        True,
    ),
    "saved embedding, LoRA on the head": ({"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]}, False),
}


# PEFT 0.21.2 loses the head's factors of GPT-2 with ensure_weight_tying when it loads what it saved.
@pytest.mark.parametrize(
    ("base", "case"), [("tied", case) for case in TIED] + [("gpt2", case) for case in TIED if "tied" not in case]
)
def test_tied_models_are_what_peft_computes(bases: Bases, tmp_path: Path, base: str, case: str) -> None:
    settings, stays_tied = TIED[case]
    if base == "gpt2":
        text = json.dumps(settings).replace("embed_tokens", "wte").replace("q_proj", "c_attn")
        settings = json.loads(text)
    _, result = held_against_peft(bases, base, tmp_path, **settings)
    assert config(tmp_path).get("tie_word_embeddings", True) is stays_tied
    assert any("tie_word_embeddings" in note for note in result.notes) is not stays_tied
    assert ("lm_head.weight" in names(tmp_path)) is not stays_tied


GROWN: dict[str, dict[str, Any]] = {
    "LoRA on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "LoRA on the head": {"target_modules": ["lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "neither": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("base", ["plain", "tied"])
@pytest.mark.parametrize("case", GROWN)
def test_more_rows_than_the_base(bases: Bases, tmp_path: Path, base: str, case: str) -> None:
    settings = GROWN[case]
    if base == "plain" and case.startswith("LoRA on the"):
        # PEFT saves the one that is targeted; the other's new rows are random, and nobody has them.
        settings = {"target_modules": ["embed_tokens", "lm_head"]}
    held_against_peft(bases, base, tmp_path, grown=3, **settings)
    assert config(tmp_path)["vocab_size"] == 63


def test_one_grown_end_alone_is_refused_by_name(bases: Bases, tmp_path: Path) -> None:
    """The head's new rows are in no file, so that nothing computes what the adapter was trained with."""
    model = peft.get_peft_model(loaded(bases.folder("plain"), 3), peft.LoraConfig(r=2, target_modules=["embed_tokens"]))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(
        CheckpointError, match=r"'model.embed_tokens.weight' 63 rows, but holds nothing of 'lm_head.weight'"
    ):
        bases.store("plain").commit(tmp_path / "adapter", base="base", name="half")


PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "mica": ("plain", {"init_lora_weights": "mica"}),
    "velora": ("plain", {"velora_config": "VeloraConfig"}),
    "monteclora": ("plain", {"monteclora_config": "MontecloraConfig"}),
    "bias of B": ("biased", {"lora_bias": True, "target_modules": ["q_proj", "o_proj"]}),
    "scaled bias of B": ("biased", {"lora_bias": True, "lora_alpha": 5, "use_rslora": True}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_other_kinds_of_plain_factors(bases: Bases, tmp_path: Path, case: str) -> None:
    base, settings = PLAIN[case]
    from peft.tuners.lora import config as configurations

    settings = {
        name: getattr(configurations, value)() if name.endswith("_config") else value
        for name, value in settings.items()
    }
    _, result = held_against_peft(bases, base, tmp_path, **{"target_modules": ["q_proj"], **settings})
    assert result.exact
    assert result.tensors["factors"]


def edited(**changes: Any) -> Callable[[Path], None]:
    """Return what changes an adapter's configuration, as trainers do and PEFT's conversion leaves it."""

    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_ga_config": {"direction": "ArB2r", "scale": "stable", "stable_gamma": 16}},
        {"corda_config": {"corda_method": "ipm"}},
        {"nvfp4_merge_aware": True},
        {"lora_B_layout": "rank_major", "unsloth_fused_expert_lora": True},
    ],
)
def test_settings_that_say_nothing_about_plain_factors(bases: Bases, tmp_path: Path, changes: dict[str, Any]) -> None:
    held_against_peft(bases, "plain", tmp_path, target_modules=["q_proj"], edit=edited(**changes))


def test_bias_of_b_that_peft_would_leave_out(bases: Bases, tmp_path: Path) -> None:
    """mergekit-extract-lora writes the change of every bias so, without saying lora_bias."""
    model = randomise(
        peft.get_peft_model(
            loaded(bases.folder("biased")), peft.LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"])
        )
    )
    model.save_pretrained(tmp_path / "adapter")
    edited(lora_bias=False)(tmp_path / "adapter")
    store = bases.store("biased")
    store.commit(tmp_path / "adapter", base="base", name="extracted")
    store.checkout("extracted", tmp_path / "out")
    assert (logits(loaded(tmp_path / "out")) - logits(model)).abs().max() < 1e-5


def test_bias_without_a_counterpart_is_refused(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a bias that the base's layer does not have") as caught:
        held_against_peft(bases, "plain", tmp_path, target_modules=["q_proj"], lora_bias=True)
    assert "merge" not in (caught.value.hint or "")


@pytest.mark.parametrize("base", ["sharded", "tied-sharded"])
def test_new_head_on_a_base_of_several_files(bases: Bases, tmp_path: Path, base: str) -> None:
    kind = "AutoModelForSequenceClassification"
    torch.manual_seed(5)
    held_against_peft(bases, base, tmp_path, kind=kind, target_modules=["q_proj"], task_type="SEQ_CLS")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert "score.weight" in index["weight_map"]


def test_untouched_embeddings_are_not_kept_again(bases: Bases, tmp_path: Path) -> None:
    """PEFT saves the weights below factors on an embedding; they are the base's."""
    _, result = held_against_peft(bases, "plain", tmp_path, target_modules=["embed_tokens", "lm_head"])
    assert set(result.tensors) == {"factors"}


def test_router_is_matched_to_its_name_on_disk(bases: Bases, tmp_path: Path) -> None:
    held_against_peft(bases, "mixtral", tmp_path, target_modules=["q_proj"], modules_to_save=["gate"])
    assert not any(".mlp.gate." in name for name in names(tmp_path))


def test_layer_norms_are_matched_to_gamma_and_beta(tmp_path: Path) -> None:
    """BERTs that were converted from TensorFlow have them so on disk."""
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    legacy = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(legacy, path, {"format": "pt"})
    settings = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["LayerNorm", "classifier"])
    adapted = randomise(peft.get_peft_model(model, settings))
    adapted.save_pretrained(tmp_path / "adapter")
    store = Store.init(tmp_path / "store")
    store.commit(tmp_path / "adapter", base=str(tmp_path / "base"), name="a")
    store.checkout("a", tmp_path / "out")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(legacy)
    out = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert (logits(out) - logits(adapted)).abs().max() < 1e-5


def test_a_trained_part_of_a_layer_is_never_an_addition(bases: Bases, tmp_path: Path) -> None:
    """Where no library tells what the base calls it, it is refused, not put beside the untrained one."""
    model = peft.get_peft_model(loaded(bases.folder("plain")), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.model.layers.1.mlp.gate.weight": torch.ones(4, 16)}, path)
    with pytest.raises(CheckpointError, match=r"a trained 'model\.layers\.1\.mlp\.gate\.weight'"):
        bases.store("plain").commit(tmp_path / "adapter", base="base", name="router")


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(16, 2)
        self.config = {"model_type": "custom"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("options", [{}, {"lora_alpha": 3, "use_rslora": True}])
def test_attention_of_torch(tmp_path: Path, options: dict[str, Any]) -> None:
    """Its input projection is no module, and PEFT adds the factors of its output projection twice."""
    torch.manual_seed(0)
    model = Attention()
    save_file(model.state_dict(), tmp_path / "base.safetensors")
    adapted = randomise(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["attention"], **options)))
    adapted.save_pretrained(tmp_path / "adapter")
    x = torch.randn(3, 1, 16)
    wanted = adapted(x)
    store = Store.init(tmp_path / "store")
    store.commit(tmp_path / "adapter", base=str(tmp_path / "base.safetensors"), name="a")
    store.checkout("a", tmp_path / "out.safetensors")
    again = Attention()
    again.load_state_dict(load_file(tmp_path / "out.safetensors"))
    assert (again.eval()(x) - wanted).abs().max() < 1e-5


def test_adapter_on_a_variant_with_a_head_of_its_own(bases: Bases, tmp_path: Path) -> None:
    """What a parent keeps whole is adapted as well: here the head that the first adapter untied."""
    held_against_peft(bases, "tied", tmp_path, target_modules=["lm_head"])
    parent = tmp_path / "out"
    model = randomise(peft.get_peft_model(loaded(parent), peft.LoraConfig(r=2, target_modules=["lm_head", "q_proj"])))
    model.save_pretrained(tmp_path / "second")
    store = bases.store("tied")
    store.commit(tmp_path / "second", parent=tmp_path.name, name="second")
    store.checkout("second", tmp_path / "again")
    assert (logits(loaded(tmp_path / "again")) - logits(model)).abs().max() < 1e-5


def test_tied_torch_file(bases: Bases, tmp_path: Path) -> None:
    """A base that shares memory between two names no longer does so where an adapter changes one of them."""
    shutil.copytree(bases.folder("tied"), tmp_path / "base")
    model = loaded(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "base" / "pytorch_model.bin")
    adapted = randomise(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head"])))
    adapted.save_pretrained(tmp_path / "adapter")
    store = Store.init(tmp_path / "store")
    store.commit(tmp_path / "adapter", base=str(tmp_path / "base"), name="a")
    store.checkout("a", tmp_path / "out")
    assert (logits(loaded(tmp_path / "out")) - logits(adapted)).abs().max() < 1e-5
