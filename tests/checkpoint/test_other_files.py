"""Files that are no checkpoint, or not yet: the message says what they are, and the way out that it names works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_later_pickle_protocols(tmp_path, monkeypatch, protocol, is_zip):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2)}, "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match="pickle protocol later than 3") as caught:
        open_checkpoint("a.pt")
    exec(caught.value.hint.split(": ")[1].rstrip("."), {"torch": torch})
    with open_checkpoint("other.pt") as checkpoint:
        assert torch.equal(checkpoint.read("w"), torch.ones(2))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(tmp_path, layout):
    parts = [torch.ones(2, 2), torch.ones(3, 2)]
    torch.save({"w": torch.nested.nested_tensor(parts, layout=layout)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"nested tensor|not a plain dense tensor"):
        open_checkpoint(tmp_path / "a.pt")


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """A folder with DTensors in a torch file, the same gathered as the hint says, and as a DCP checkpoint."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    path = tmp_path_factory.mktemp("distributed")
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=0, world_size=1)
    try:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        fully_shard(model)
        torch.save(model.state_dict(), path / "fsdp2.pt")
        dcp.save({"model": model.state_dict()}, checkpoint_id=path / "dcp")
        with pytest.raises(CheckpointError, match="is a DTensor") as caught:
            open_checkpoint(path / "fsdp2.pt")
        code = caught.value.hint.removesuffix(".").split(": ", maxsplit=1)[1]
        exec(code, {"torch": torch, "model": model, "path": path / "whole.pt"})
    finally:
        dist.destroy_process_group()
    return path


def test_dtensors(distributed):
    with open_checkpoint(distributed / "whole.pt") as checkpoint:
        assert checkpoint.tensors["0.weight"].shape == (4, 4)
    program = "from erestore.checkpoint.open import open_checkpoint; open_checkpoint('fsdp2.pt')"
    done = subprocess.run(  # a process that has not imported DTensors gets another error from torch
        [sys.executable, "-c", program], cwd=distributed, capture_output=True, text=True, check=False
    )
    assert "'fsdp2.pt' holds DTensors" in done.stderr


def test_distributed_checkpoints(distributed):
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    for path in (distributed / "dcp", *(distributed / "dcp").glob("*.distcp")):
        with pytest.raises(CheckpointError, match=r"checkpoint of torch\.distributed\.checkpoint") as caught:
            open_checkpoint(path)
        assert f"dcp_to_torch {distributed / 'dcp'} model.pt" in caught.value.hint
    dcp_to_torch_save(distributed / "dcp", distributed / "model.pt")
    with open_checkpoint(distributed / "model.pt") as checkpoint, open_checkpoint(distributed / "whole.pt") as whole:
        assert torch.equal(checkpoint.read("0.weight"), whole.read("0.weight"))


def test_adapters_in_folders_and_without_configuration(tmp_path):
    adapter = tmp_path / "run" / "mine"
    adapter.mkdir(parents=True)
    save_file({"base_model.model.x.lora_A.weight": torch.ones(4, 8)}, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"without its 'adapter_config\.json'"):
        open_checkpoint(adapter)
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="its directories mine do"):
        open_checkpoint(tmp_path / "run")


def test_metadata_of_many_megabytes(tmp_path):
    tags = json.dumps({f"tag {i}": i for i in range(600_000)})
    assert len(tags) > 11_000_000
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(4)}, path, metadata={"ss_tag_frequency": tags})
    store = Store.init(tmp_path / "store")
    store.import_base(path, name="base")
    back = store.checkout("base", tmp_path / "back.safetensors").path
    assert torch.equal(load_file(back)["w"], torch.ones(4))


def base_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"down.{i}.to_k.weight": torch.randn(16, 16, generator=generator) for i in range(6)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    save_file(base_weights(), folder / "base.safetensors")
    store = Store.init(folder / "store")
    store.import_base(folder / "base.safetensors", name="base")
    return store


A, B = torch.ones(2, 16), torch.ones(16, 2)
LORA_FILES = {
    "kohya": {
        "lora_unet_down_0_to_k.lora_down.weight": A,
        "lora_unet_down_0_to_k.lora_up.weight": B,
        "x.alpha": A[0, 0],
    },
    "LyCORIS": {f"lora_unet_down_0_to_k.hada_w{i}_{side}": A for i in (1, 2) for side in "ab"},
    "LyCORIS ": {"lora_unet_down_0_to_k.lokr_w1": A, "lora_unet_down_0_to_k.lokr_w2_a": B},
    "diffusers": {"unet.down.0.to_k.lora.down.weight": A, "unet.down.0.to_k.lora.up.weight": B},
    "diffusers ": {f"text_encoder.k.lora_linear_layer.{side}.weight": A for side in ("down", "up")},
    "mlx-lm": {"down.0.to_k.lora_a": B, "down.0.to_k.lora_b": A},
    "PEFT": {"base_model.model.down.0.to_k.lora_A.weight": A, "base_model.model.down.0.to_k.lora_B.weight": B},
}


@pytest.mark.parametrize("kind", LORA_FILES)
def test_lora_files_are_named_for_what_they_are(tmp_path, store, kind):
    save_file({name: tensor.clone() for name, tensor in LORA_FILES[kind].items()}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=f"a LoRA in the format of {kind.strip()}") as caught:
        store.commit(tmp_path / "lora.safetensors", base="base", name=f"lora-{kind.strip()}")
    assert "lora" in caught.value.hint.lower()


@pytest.mark.parametrize("change", ["flat", "no rows", "one"])
def test_empty_tensors_are_refused(tmp_path, store, change):
    empty = torch.empty(0, 16) if change == "no rows" else torch.empty(0)
    many = 1 if change == "one" else 5
    weights = {name: empty.clone() if i < many else tensor for i, (name, tensor) in enumerate(base_weights().items())}
    save_file(weights, tmp_path / "ft.safetensors")
    with pytest.raises(CheckpointError, match=rf"{many} of 6 tensors are empty where the base has values"):
        store.commit(tmp_path / "ft.safetensors", base="base", name="ft")


def test_part_of_a_model_is_refused_and_a_smaller_vocabulary_is_not(tmp_path, store):
    weights = base_weights()
    save_file({name: tensor[:8].clone() for name, tensor in weights.items()}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match="6 of 6 matrices have fewer rows"):
        store.commit(tmp_path / "half.safetensors", base="base", name="half")
    weights["down.0.to_k.weight"] = weights["down.0.to_k.weight"][:8].clone()
    save_file(weights, tmp_path / "vocabulary.safetensors")
    store.commit(tmp_path / "vocabulary.safetensors", base="base", name="vocabulary")


def test_slash_in_a_name_is_no_training_state(tmp_path):
    def write(path: Path, seed: int) -> Path:
        generator = torch.Generator().manual_seed(seed)
        weights = {f"encoder/layer_{i}/kernel": torch.randn(64, 64, generator=generator) for i in range(2)}
        moments = {"m": torch.full((64, 64), 1.0 + seed)}
        torch.save({"state_dict": weights, "optimizer": moments, "epoch": 3}, path)
        return path

    store = Store.init(tmp_path / "store")
    done = store.commit(write(tmp_path / "ft.pt", 1), base=str(write(tmp_path / "base.pt", 0)), name="ft")
    assert done.tensors["whole"] == 1  # the moments
    assert done.tensors["remainder"] == 2
    back = torch.load(store.checkout("ft", tmp_path / "back.pt").path, weights_only=True)
    assert back["epoch"] == 3
