"""Checkpoints as transformers wrote them before 5.0 and as its modules call their tensors now."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, ViTConfig, ViTForImageClassification, ViTModel

from erestore.api import Store
from erestore.checkpoint.names import match_names
from erestore.checkpoint.open import open_checkpoint
from erestore.integrations.name_conversions import library_spelling

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT = ViTConfig(**SIZES, image_size=8, patch_size=4)
MODELS = {
    "classifier": lambda: ViTForImageClassification(VIT),
    "bare": lambda: ViTModel(VIT, add_pooling_layer=False),
    "text": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=40, **SIZES)),
}


@pytest.fixture(scope="module", params=MODELS)
def folders(request, tmp_path_factory) -> tuple[Path, Path]:
    """One model under the names of its original checkpoints, and moved a little under those of its modules."""
    torch.manual_seed(0)
    place, model = tmp_path_factory.mktemp(request.param), MODELS[request.param]()
    model.save_pretrained(place / "old")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    model.save_pretrained(place / "new", save_original_format=False)
    return place / "old", place / "new"


def test_what_the_library_takes_for_one_tensor_is_one(folders):
    config = json.loads((folders[0] / "config.json").read_text())
    with open_checkpoint(folders[0]) as old, open_checkpoint(folders[1]) as new:
        assert old.tensors.keys() != new.tensors.keys()
        for own, base in ((old, new), (new, old)):
            match = match_names(own.tensors, base.tensors, lambda: library_spelling(config))
            assert match.unmatched_own == match.unmatched_base == ()


def test_a_fine_tune_of_the_new_names_on_a_base_of_the_old(folders, tmp_path):
    old, new = folders
    store = Store.init(tmp_path / "store")
    store.import_base(old, name="base")
    done = store.commit(new, base="base", name="ft")
    assert "whole" not in done.tensors
    store.checkout("ft", tmp_path / "out")
    with open_checkpoint(new) as original, open_checkpoint(tmp_path / "out") as out:
        assert out.tensors.keys() == original.tensors.keys()
    assert store.identify(new).base == "base"


def test_a_mapping_of_a_class_as_before_5_0(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.core_model_loading", None)
    config = {"model_type": "vit", "architectures": ["ViTModel"]}
    assert library_spelling(config) is None
    mapping = {"^visual": "model.visual", r"^model(?!\.(language_model|visual))": "model.language_model"}
    monkeypatch.setattr(transformers.ViTModel, "_checkpoint_conversion_mapping", mapping, raising=False)
    spelling = library_spelling(config)
    assert spelling is not None
    assert spelling(["visual.x", "model._orig_mod.norm", "model.visual.x"]) == {
        "visual.x": "model.visual.x",
        "model._orig_mod.norm": "model.language_model.norm",
        "model.visual.x": "model.visual.x",
    }


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": 3},
        {"model_type": "no_such"},
        {"model_type": "llama", "architectures": [5, "os.path"]},
        {"model_type": "llama", "architectures": "LlamaModel"},
        {"model_type": "vit", "architectures": 7},
    ],
)
def test_configurations_without_a_table_or_that_are_none(config):
    library_spelling(config)
