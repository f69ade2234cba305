"""Folders of adapters with other files beside them, in subfolders, or incomplete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.checkpoint.open import open_checkpoint
from erestore.checkpoint.peft import PeftCheckpoint
from erestore.errors import CheckpointError

BASE = {"q.weight": torch.ones(8, 8), "mm_projector.0.weight": torch.ones(8, 8)}


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    factors = {
        "base_model.model.q.lora_A.weight": torch.ones(2, 8),
        "base_model.model.q.lora_B.weight": torch.ones(8, 2),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "base").mkdir()
    save_file(BASE, tmp_path / "base" / "model.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base", name="base")
    return store


@pytest.mark.parametrize(
    "name", ["value_head.safetensors", "vit.safetensors", "new_embeddings.safetensors", "0000100_adapters.safetensors"]
)
def test_another_file_of_weights_is_kept_with_a_note(tmp_path: Path, store: Store, name: str) -> None:
    folder = adapter(tmp_path / "tuned")
    save_file({"v_head.summary.weight": torch.ones(1, 8)}, folder / name)
    result = store.commit(folder, base="base")
    assert any(name in note and "not applied" in note for note in result.notes)
    store.checkout("tuned", tmp_path / "out")
    assert (tmp_path / "out" / "adapter" / name).read_bytes() == (folder / name).read_bytes()
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["q.weight"], torch.full((8, 8), 5.0))


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
def test_what_llava_trains_beside_an_adapter_is_applied(tmp_path: Path, store: Store, prefix: str) -> None:
    folder = adapter(tmp_path / "llava")
    torch.save({f"{prefix}mm_projector.0.weight": torch.full((8, 8), 3.0)}, folder / "non_lora_trainables.bin")
    torch.save({"args": 1}, folder / "training_args.bin")
    result = store.commit(folder, base="base")
    (note,) = result.notes
    assert "non_lora_trainables.bin" in note
    store.checkout("llava", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["mm_projector.0.weight"], torch.full((8, 8), 3.0))
    assert torch.equal(written["q.weight"], torch.full((8, 8), 5.0))


@pytest.mark.parametrize("inner", ["mine", "checkpoint-500"])
def test_adapters_in_subfolders_are_named(tmp_path: Path, inner: str) -> None:
    adapter(tmp_path / "run" / inner)
    with pytest.raises(CheckpointError, match=f"its directories {inner} do"):
        open_checkpoint(tmp_path / "run")
    with open_checkpoint(tmp_path / "run" / inner) as checkpoint:
        assert isinstance(checkpoint, PeftCheckpoint)


def test_an_adapter_without_its_configuration(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "bare")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=re.escape("without its 'adapter_config.json'")):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="its directories bare do"):
        open_checkpoint(tmp_path)
