"""Which file of a folder is the model, and what becomes of the others: docs/reference/which-file.md."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.checkpoint.default_name import default_name
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layers.{i}.weight": torch.randn(16, 8, generator=generator) for i in range(4)}


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write a weight file in the format of its name, or an index of one shard that holds the tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".json"):
        shard = path.name.replace(".safetensors.index.json", "-00001-of-00001.safetensors")
        shard = shard.replace(".bin.index.json", "-00001-of-00001.bin")
        path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}))
        write(path.parent / shard, tensors)
    elif path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"} | (metadata or {}))
    else:
        torch.save(tensors, path)
    return path


def opened_value(root: Path) -> torch.Tensor:
    with open_checkpoint(root) as checkpoint:
        return checkpoint.read("layers.0.weight").clone()


ORDERS = {
    "transformers": (
        "{}",
        "model.safetensors model.safetensors.index.json pytorch_model.bin pytorch_model.bin.index.json",
    ),
    "diffusers": (
        '{"_class_name": "UNet2DConditionModel"}',
        "diffusion_pytorch_model.safetensors.index.json diffusion_pytorch_model.safetensors diffusion_pytorch_model.bin",
    ),
    "open_clip": (None, "open_clip_model.safetensors open_clip_pytorch_model.bin model.safetensors pytorch_model.bin"),
    "timm": (
        '{"architecture": "resnet10t"}',
        "model.safetensors pytorch_model.bin open_clip_model.safetensors model.pth",
    ),
    "variants": ("{}", "model.safetensors pytorch_model.bin model.fp16.safetensors"),
    "loose": ("{}", "unet.safetensors unet.fp16.safetensors"),
    "mlx-lm": ("{}", "adapters.safetensors 0000100_adapters.safetensors"),
}


@pytest.mark.parametrize("library", ORDERS)
def test_order_of_each_library(tmp_path, library):
    configuration, files = ORDERS[library]
    if configuration is None:
        (tmp_path / "open_clip_config.json").write_text("{}")
    else:
        (tmp_path / "config.json").write_text(configuration)
    order = files.split()
    for seed, file in enumerate(order):
        write(tmp_path / file, weights(seed))
    for seed, file in enumerate(order):
        assert torch.equal(opened_value(tmp_path), weights(seed)["layers.0.weight"]), file
        with open_checkpoint(tmp_path) as checkpoint:
            assert set(order[seed + 1 :]) <= set(checkpoint.left_out)
            assert not any(name.endswith((".safetensors", ".bin", ".pth")) for name in checkpoint.side_files)
        (tmp_path / file).unlink()
        for shard in tmp_path.glob(f"*-of-*.{file.split('.')[1]}") if file.endswith(".json") else ():
            shard.unlink()


@pytest.mark.parametrize(
    "files",
    [
        ("model.safetensors", "model.safetensors.index.json"),
        ("model.safetensors.index.json", "pytorch_model.bin"),
        ("pytorch_model.bin", "model.fp16.safetensors"),
    ],
)
def test_transformers_loads_what_is_opened(tmp_path, files):
    from transformers import BertConfig, BertModel

    configuration = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        write(
            tmp_path / file, {k: v for k, v in BertModel(configuration).state_dict().items() if "position_ids" not in k}
        )
    configuration.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path).state_dict()
    with open_checkpoint(tmp_path) as checkpoint:
        assert all(torch.equal(checkpoint.read(name), loaded[name]) for name in checkpoint.tensors)


def test_file_that_the_configuration_names(tmp_path):
    write(tmp_path / "model.safetensors", weights(0))
    write(tmp_path / "other.safetensors", weights(1))
    (tmp_path / "config.json").write_text('{"transformers_weights": "other.safetensors"}')
    assert torch.equal(opened_value(tmp_path), weights(1)["layers.0.weight"])


def test_index_of_shards_that_are_gone(tmp_path):
    write(tmp_path / "model.safetensors.index.json", weights(0))
    (tmp_path / "model-00001-of-00001.safetensors").unlink()
    write(tmp_path / "model.safetensors", weights(1))
    assert torch.equal(opened_value(tmp_path), weights(1)["layers.0.weight"])
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="which is missing") as caught:
        open_checkpoint(tmp_path)
    assert "remove 'model.safetensors.index.json' if 'pytorch_model.bin' is the model" in caught.value.hint


@pytest.mark.parametrize("present", ["1 3", "2", "1 2"])
def test_missing_shards_without_an_index(tmp_path, present):
    for number in map(int, present.split()):
        write(tmp_path / f"model-0000{number}-of-00003.safetensors", {f"{number}": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"is one of 3 shards, of which 'model-0000\d-of-00003.safetensors'"):
        open_checkpoint(tmp_path)
    for number in (1, 2, 3):
        write(tmp_path / f"model-0000{number}-of-00003.safetensors", {f"{number}": torch.ones(1)})
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["1", "2", "3"]


def test_partial_downloads(tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("a" * 40)
    write(snapshot / "model.safetensors.index.json", weights())
    (snapshot / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="which is missing") as caught:
        open_checkpoint(snapshot)
    assert "`hf download org/name`" in caught.value.hint
    (snapshot / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="holds no weights") as caught:
        open_checkpoint(snapshot)
    assert "`hf download org/name`" in caught.value.hint
    unfinished = tmp_path / "here" / ".cache" / "huggingface" / "download" / "model.safetensors.abc.incomplete"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    with pytest.raises(CheckpointError, match="holds no weights") as caught:
        open_checkpoint(tmp_path / "here")
    assert "not complete" in caught.value.hint


COPIES = {
    "prefix": ("copy.safetensors", lambda w: {f"clip.{k}": v for k, v in w.items()}),
    "torch": ("open_clip_pytorch_model.bin", lambda w: w),
    "half": ("model.fp16.safetensors", lambda w: {k: v.half() for k, v in w.items()}),
    "folder": ("sharded/all.safetensors", lambda w: w),
    "Meta": ("original/consolidated.00.pth", lambda w: {"other": torch.ones(30, 30)}),
    "state dict": ("last.ckpt", lambda w: {"state_dict": w, "epoch": 3}),
}


@pytest.mark.parametrize("kind", COPIES)
def test_second_copies_are_left_out(tmp_path, kind):
    name, change = COPIES[kind]
    write(tmp_path / "model.safetensors", weights())
    write(tmp_path / name, change(weights()))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.left_out == {name: "'model.safetensors' holds the weights"}
        assert not checkpoint.side_files


def test_copy_in_shards(tmp_path):
    write(tmp_path / "model.safetensors", weights())
    for number, (name, tensor) in enumerate(weights().items()):
        write(tmp_path / "backup" / f"part{number}.safetensors", {name: tensor})
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.left_out) == {f"backup/part{number}.safetensors" for number in range(4)}


def test_other_values_are_named_and_can_be_kept(tmp_path):
    base, folder = write(tmp_path / "base.safetensors", weights(0)), tmp_path / "ft"
    tuned = {name: tensor + torch.outer(torch.arange(16.0), torch.ones(8)) / 99 for name, tensor in weights(0).items()}
    write(folder / "model.safetensors", tuned)
    average = {name: 0.9 * tensor + 0.1 * weights(0)[name] for name, tensor in tuned.items()}
    write(folder / "ema.safetensors", average)
    store = Store.init(tmp_path / "store")
    done = store.commit(folder, base=str(base), name="ft")
    assert "other values" in done.left_out["ema.safetensors"]
    assert "commit it by its path, with --parent" in done.left_out["ema.safetensors"]
    kept = store.commit(folder / "ema.safetensors", parent="ft", name="ft-ema")
    assert kept.parents == (done.commit,)
    store.merge(["ft", "base"], name="mean")
    assert not [path for path in Path(store.checkout("mean", tmp_path / "out").path).iterdir() if "ema" in path.name]


def test_more_than_the_weights(tmp_path):
    write(tmp_path / "model.safetensors", weights())
    moments = {f"m{i}": torch.ones(16, 8) for i in range(3)}
    write(tmp_path / "run.ckpt", {"state_dict": weights(), "optimizer_states": moments})
    with open_checkpoint(tmp_path) as checkpoint:
        assert "other tensors, such as 'optimizer_states/m0'" in checkpoint.left_out["run.ckpt"]


@pytest.mark.parametrize(
    "tensors",
    [
        {"linear.weight": torch.ones(16, 8)},
        {f"layers.{i}.weight": torch.ones(8, 8) for i in range(4)},
        {"layers.0.weight": weights()["layers.0.weight"], "layers.1.weight": weights()["layers.1.weight"]},
    ],
)
def test_other_models_are_no_copies(tmp_path, tensors):
    write(tmp_path / "model.safetensors", weights())
    write(tmp_path / "other.safetensors", tensors)
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.side_files) == {"other.safetensors"}


def test_adapter_beside_the_model(tmp_path):
    write(tmp_path / "model.safetensors", weights())
    write(tmp_path / "adapter_model.safetensors", {"base_model.model.x.lora_A.weight": torch.ones(4, 8)})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    (tmp_path / "README.md").write_text("")
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.left_out) == {"adapter_config.json", "adapter_model.safetensors"}
        assert "from_pretrained adds this adapter" in checkpoint.left_out["adapter_config.json"]
        assert set(checkpoint.side_files) == {"README.md"}


def rank_files(folder: Path, tensors: dict[str, torch.Tensor], ranks: int, dimension: int = 0) -> None:
    """Write the files of torch's HuggingFaceStorageWriter with save_distributed=True."""
    for rank in range(ranks):
        parts = {name: tensor.tensor_split(ranks, dimension)[rank].contiguous() for name, tensor in tensors.items()}
        starts = {}
        for name, tensor in tensors.items():
            before = sum(part.shape[dimension] for part in tensor.tensor_split(ranks, dimension)[:rank])
            starts[name] = {"saved_offsets": [before if d == dimension else 0 for d in range(tensor.ndim)]}
        metadata = {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(starts)}
        write(folder / f"shard-0000{rank + 1}-model-00001-of-00001.safetensors", parts, metadata)


@pytest.mark.parametrize(("ranks", "dimension"), [(2, 0), (3, 0), (2, 1)])
def test_files_of_all_ranks_are_one_model(tmp_path, ranks, dimension):
    tensors = weights() | {"bias": torch.arange(5.0)} if dimension == 0 else weights()
    rank_files(tmp_path, tensors, ranks, dimension)
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["model.safetensors"]
        assert checkpoint.files[0].metadata == {"format": "pt"}
        assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in tensors.items())
        assert torch.equal(checkpoint.rows("layers.1.weight", 3, 11), tensors["layers.1.weight"][3:11])
        assert checkpoint.side_files == {}


def test_part_of_the_ranks_is_refused(tmp_path):
    rank_files(tmp_path, weights(), 3)
    for path in (tmp_path / "shard-00001-model-00001-of-00001.safetensors", *sorted(tmp_path.iterdir())[1:]):
        with pytest.raises(CheckpointError, match="one process's part of every tensor"):
            open_checkpoint(path)
    (tmp_path / "shard-00002-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="one process's part of every tensor"):
        open_checkpoint(tmp_path)
    (tmp_path / "shard-00003-model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="one process's part of every tensor"):
        open_checkpoint(tmp_path)


def test_files_of_ranks_below_a_model_are_a_copy(tmp_path):
    write(tmp_path / "model.safetensors.index.json", weights())
    rank_files(tmp_path / "sharded", weights(), 2)
    with open_checkpoint(tmp_path) as checkpoint:
        assert len([name for name in checkpoint.left_out if name.startswith("sharded/")]) == 2


def test_component_in_the_hugging_face_cache(tmp_path):
    blobs, unet = tmp_path / "models--o--sd/blobs", tmp_path / "models--o--sd/snapshots" / ("a" * 40) / "unet"
    unet.mkdir(parents=True)
    write(blobs / "1.safetensors", weights()).rename(blobs / "1")
    (blobs / "2").write_text("{}")
    for blob, name in (("1", "diffusion_pytorch_model.safetensors"), ("2", "config.json")):
        (unet / name).symlink_to(f"../../../blobs/{blob}")
    with open_checkpoint(unet) as checkpoint:
        assert set(checkpoint.side_files) == {"config.json"}
    assert default_name(unet) == "o/sd-unet"
    (tmp_path / "secret").write_text("key")
    (unet / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        open_checkpoint(unet)


def test_components_are_named_after_their_pipeline(tmp_path, monkeypatch):
    for folder in ("a/unet", "b/unet", "c/special", "d/plain"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "c" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "a")
    assert [default_name("unet"), default_name("../b/unet/")] == ["a-unet", "b-unet"]
    assert default_name(tmp_path / "c" / "special") == "c-special"
    assert default_name(tmp_path / "d" / "plain") == "plain"
    assert default_name("no/unet") == "unet"


def test_what_may_be_a_copy_but_cannot_be_opened_is_said(tmp_path):
    write(tmp_path / "model.safetensors", weights())
    (tmp_path / "config.json").write_text(json.dumps({"words": ["a"] * 9999}))
    torch.save({"model": weights(), "arguments": Path("run")}, tmp_path / "last.ckpt")
    torch.save(weights(), tmp_path / "former.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[:-100])
    with open_checkpoint(tmp_path) as checkpoint:
        (note,) = checkpoint.notes
        assert note.startswith("'former.pt', 'half.safetensors', 'last.ckpt' may hold the weights once more")
        assert {"former.pt", "half.safetensors", "last.ckpt"} <= set(checkpoint.side_files)


def test_distributed_checkpoints_beside_the_weights_are_left_out(tmp_path):
    """Without their hidden ``.metadata`` they could not be read again."""
    write(tmp_path / "model.safetensors", weights())
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"\x80\x02")
    with open_checkpoint(tmp_path) as checkpoint:
        assert not checkpoint.side_files
        assert "dcp_to_torch" in checkpoint.left_out["run/__0_0.distcp"]


def test_files_left_out_of_a_base_that_a_commit_imports_are_said(tmp_path):
    write(tmp_path / "base" / "model.safetensors", weights())
    write(tmp_path / "base" / "copy.safetensors", weights())
    write(tmp_path / "ft" / "model.safetensors", weights(1))
    store = Store.init(tmp_path / "store")
    done = store.commit(tmp_path / "ft", base=str(tmp_path / "base"), name="ft")
    assert done.imported_left_out == {"copy.safetensors": "'model.safetensors' holds the weights"}
    assert store.commit(tmp_path / "ft", base="base", name="again").imported_left_out == {}


NESTED = {
    "ema": {"model": weights(), "ema": weights(1), "step": 3},
    "averaged model": {"swa_model": {"n_averaged": torch.tensor(3)} | weights(1), "net": weights()},
    "lightning": {"state_dict": weights(), "loops": {}, "callbacks": {"EMA": {"state_dict_ema": weights(1)}}},
    "prefixed": {"state_dict": weights(), "teacher": {f"module.{k}": v for k, v in weights(1).items()}},
}


@pytest.mark.parametrize("kind", NESTED)
def test_averages_inside_a_torch_file_are_said_and_are_not_the_model(tmp_path, kind):
    torch.save(NESTED[kind] | {"optimizer": {"state": {0: {"exp_avg": torch.ones(16, 8)}}}}, tmp_path / "last.ckpt")
    with open_checkpoint(tmp_path / "last.ckpt") as checkpoint:
        assert torch.equal(checkpoint.read("layers.0.weight"), weights()["layers.0.weight"])
        (note,) = checkpoint.notes
    assert "'last.ckpt' holds tensors with the weights' names and shapes under '" in note
    store = Store.init(tmp_path / "store")
    assert store.import_base(tmp_path / "last.ckpt", name="base").notes == (note,)
