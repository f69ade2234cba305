"""Weights of modules in folders, as sentence-transformers 6.2 writes them: what is read, its names, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints import write_again
from safetensors.torch import load_file, save_file

from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError

ROOT = {"q.weight": torch.arange(16.0).view(4, 4)}
DENSE = {"linear.weight": torch.ones(2, 4), "linear.bias": torch.zeros(2)}


class Custom:
    """What a pickle that is not read holds."""


def write(root: Path, *, modules: list[str] | None, weights: dict[str, dict[str, torch.Tensor] | object]) -> Path:
    for name, tensors in weights.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (save_file if name.endswith(".safetensors") else torch.save)(tensors, path)
    if modules is not None:
        listed = [{"idx": at, "name": str(at), "path": path, "type": "T"} for at, path in enumerate(modules)]
        (root / "modules.json").write_text(json.dumps(listed))
    return root


def names(root: Path) -> tuple[list[str], list[str]]:
    """Return the tensors' names and the side files."""
    with open_checkpoint(root) as checkpoint:
        return list(checkpoint.tensors), sorted(checkpoint.side_files)


def test_modules_that_are_listed_are_weights_and_no_others(tmp_path: Path) -> None:
    write(
        tmp_path,
        modules=["", "1_Pooling", "2_Dense"],
        weights={"model.safetensors": ROOT, "2_Dense/model.safetensors": DENSE, "3_Dense/model.safetensors": DENSE},
    )
    found, side = names(tmp_path)
    assert found == ["q.weight", "2_Dense/linear.bias", "2_Dense/linear.weight"]
    assert side == ["3_Dense/model.safetensors", "modules.json"]
    with open_checkpoint(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.read("2_Dense/linear.weight"), DENSE["linear.weight"])
        assert torch.equal(checkpoint.rows("2_Dense/linear.weight", 1, 2), DENSE["linear.weight"][1:])


@pytest.mark.parametrize("path", ["2_Dense/", "./2_Dense", ".//2_Dense/./"])
def test_a_folder_is_the_same_however_its_path_is_written(tmp_path: Path, path: str) -> None:
    weights = {"model.safetensors": ROOT, "2_Dense/model.safetensors": DENSE}
    write(tmp_path, modules=["./", path], weights=weights)
    assert names(tmp_path)[0] == ["q.weight", "2_Dense/linear.bias", "2_Dense/linear.weight"]


def test_without_a_list_the_form_of_the_name_says_what_a_module_is(tmp_path: Path) -> None:
    write(
        tmp_path,
        modules=None,
        weights={
            "model.safetensors": ROOT,
            "2_CNN/model.safetensors": DENSE,
            "original/model.safetensors": DENSE,
            "4_Notes/other.safetensors": DENSE,
        },
    )
    found, side = names(tmp_path)
    assert found == ["q.weight", "2_CNN/linear.bias", "2_CNN/linear.weight"]
    assert side == ["4_Notes/other.safetensors", "original/model.safetensors"]


def test_a_router_has_its_trunks_in_its_folder_and_no_model_at_the_root(tmp_path: Path) -> None:
    trunks = ["query_0_StaticEmbedding", "document_0_Transformer"]
    write(
        tmp_path,
        modules=["0_Router", "1_Normalize"],
        weights={f"0_Router/{trunk}/model.safetensors": ROOT for trunk in trunks},
    )
    (tmp_path / "0_Router/router_config.json").write_text(json.dumps({"types": dict.fromkeys(trunks, "T")}))
    found, side = names(tmp_path)
    assert found == [f"0_Router/{trunk}/q.weight" for trunk in sorted(trunks)]
    assert side == ["0_Router/router_config.json", "modules.json"]


def test_a_second_copy_in_a_module_is_left_out_and_a_pickle_that_runs_code_is_kept_as_it_is(tmp_path: Path) -> None:
    weights = {"model.safetensors": ROOT, "1_Dense/model.safetensors": DENSE, "1_Dense/pytorch_model.bin": DENSE}
    write(tmp_path, modules=["", "1_Dense", "2_Own"], weights=weights | {"2_Own/pytorch_model.bin": Custom()})
    found, side = names(tmp_path)
    assert found == ["q.weight", "1_Dense/linear.bias", "1_Dense/linear.weight"]
    assert side == ["2_Own/pytorch_model.bin", "modules.json"]
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.left_out == {"1_Dense/pytorch_model.bin": "'1_Dense/model.safetensors' holds the weights"}


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    write(tmp_path, modules=["", "2_Dense"], weights={"model.safetensors": ROOT, "2_Dense/model.safetensors": DENSE})
    content = (tmp_path / "2_Dense/model.safetensors").read_bytes()
    (tmp_path / "2_Dense/model.safetensors").write_bytes(content[:-4])
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    (tmp_path / "modules.json").write_text('[{"idx": 0}]')
    with pytest.raises(CheckpointError, match=r"'modules\.json' is malformed"):
        open_checkpoint(tmp_path)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Modules in both formats, one with tied tensors, one in two shards."""
    tied = torch.ones(3, 4)
    root = write(
        tmp_path / "mixed",
        modules=["", "1_Dense", "2_LSTM", "3_Transformer"],
        weights={
            "model.safetensors": ROOT,
            "1_Dense/model.safetensors": DENSE,
            "2_LSTM/pytorch_model.bin": {"encoder.weight_ih": tied, "encoder.weight_hh": tied},
            "3_Transformer/model-00001-of-00002.safetensors": {"a": torch.ones(2)},
            "3_Transformer/model-00002-of-00002.safetensors": {"b": torch.zeros(2)},
        },
    )
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (root / "3_Transformer/model.safetensors.index.json").write_text(index)
    return root


def test_each_file_comes_back_in_its_own_format(mixed: Path, tmp_path: Path) -> None:
    write_again(mixed, tmp_path / "again")
    files = sorted(path.relative_to(mixed).as_posix() for path in mixed.rglob("*") if path.is_file())
    again = tmp_path / "again"
    assert sorted(path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()) == files
    assert load_file(again / "1_Dense/model.safetensors").keys() == DENSE.keys()
    state = torch.load(again / "2_LSTM/pytorch_model.bin", weights_only=True)
    assert state["encoder.weight_ih"].data_ptr() == state["encoder.weight_hh"].data_ptr()


def test_converted_files_have_the_names_that_the_library_looks_for(mixed: Path, tmp_path: Path) -> None:
    write_again(mixed, tmp_path / "torch", format="torch")
    torch_files = {path.relative_to(tmp_path / "torch").as_posix() for path in (tmp_path / "torch").rglob("*.*")}
    assert torch_files == {
        "modules.json",
        "pytorch_model.bin",
        "1_Dense/pytorch_model.bin",
        "2_LSTM/pytorch_model.bin",
        "3_Transformer/pytorch_model-00001-of-00002.bin",
        "3_Transformer/pytorch_model-00002-of-00002.bin",
        "3_Transformer/pytorch_model.bin.index.json",
    }
    index = json.loads((tmp_path / "torch/3_Transformer/pytorch_model.bin.index.json").read_text())
    assert index["weight_map"] == {
        "a": "pytorch_model-00001-of-00002.bin",
        "b": "pytorch_model-00002-of-00002.bin",
    }
    write_again(tmp_path / "torch", tmp_path / "safe", format="safetensors")
    lstm = load_file(tmp_path / "safe/2_LSTM/model.safetensors")
    assert list(lstm) == ["encoder.weight_ih"]
    assert (tmp_path / "safe/3_Transformer/model.safetensors.index.json").is_file()
    assert not (tmp_path / "safe/3_Transformer/pytorch_model.bin.index.json").exists()


@pytest.mark.parametrize(
    ("safetensors", "torch_name"),
    [
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("model.fp16.safetensors", "pytorch_model.fp16.bin"),
        ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        ("my_model.safetensors", "my_model.bin"),
    ],
)
def test_a_file_is_called_what_its_library_calls_it(tmp_path: Path, safetensors: str, torch_name: str) -> None:
    write(tmp_path / "one", modules=None, weights={safetensors: ROOT})
    write_again(tmp_path / "one", tmp_path / "two", format="torch")
    assert [path.name for path in (tmp_path / "two").iterdir()] == [torch_name]
    write_again(tmp_path / "two", tmp_path / "three", format="safetensors")
    assert [path.name for path in (tmp_path / "three").iterdir()] == [safetensors]


def test_the_index_of_a_pipelines_component_keeps_its_name(tmp_path: Path) -> None:
    stem = "diffusion_pytorch_model"
    shards = [f"{stem}-0000{at}-of-00002.safetensors" for at in (1, 2)]
    weights = {shard: {f"t{at}": torch.ones(2)} for at, shard in enumerate(shards)}
    write(tmp_path / "one", modules=None, weights=weights)
    index = {"metadata": {}, "weight_map": {f"t{at}": shard for at, shard in enumerate(shards)}}
    (tmp_path / "one" / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    write_again(tmp_path / "one", tmp_path / "two", format="torch")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        f"{stem}-00001-of-00002.bin",
        f"{stem}-00002-of-00002.bin",
        f"{stem}.bin.index.json",
    ]
