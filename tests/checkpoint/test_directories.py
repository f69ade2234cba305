import json
import os

import pytest
import torch
from safetensors.torch import save_file

from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CheckpointError, NotFoundError


@pytest.fixture
def directory(tmp_path):
    root = tmp_path / "ft"
    root.mkdir()
    save_file({"w": torch.ones(2, 2)}, root / "model.safetensors", metadata={"format": "pt"})
    (root / "config.json").write_text("{}")
    return root


def test_side_files_and_what_is_left_out(directory):
    for name in ("1_Pooling", ".git", "checkpoint-500", "global_step7", "onnx", "__pycache__", "data"):
        (directory / name).mkdir()
        (directory / name / "config.json").write_text(name)
    for name in ("optimizer.pt", "rng_state_0.pth", "scheduler.pt", ".gitattributes", "training_args.bin"):
        (directory / name).write_bytes(b"x")
    torch.save({"w": torch.ones(2, 2)}, directory / "pytorch_model.bin")
    save_file({"v": torch.ones(1)}, directory / "consolidated.safetensors")
    (directory / "tf_model.h5").write_bytes(b"x")
    with open_checkpoint(directory) as checkpoint:
        assert checkpoint.is_directory
        assert list(checkpoint.tensors) == ["w"]
        assert set(checkpoint.side_files) == {
            "config.json",
            "1_Pooling/config.json",
            "data/config.json",
            "training_args.bin",
        }
        assert checkpoint.side_files["1_Pooling/config.json"].read_text() == "1_Pooling"
        assert checkpoint.left_out == {
            ".git/": "hidden",
            ".gitattributes": "hidden",
            "__pycache__/": "compiled Python",
            "checkpoint-500/": "training state",
            "global_step7/": "training state",
            "onnx/": "weights for another framework",
            "tf_model.h5": "weights for another framework",
            "optimizer.pt": "training state",
            "scheduler.pt": "training state",
            "rng_state_0.pth": "training state",
            "pytorch_model.bin": "'model.safetensors' holds the weights",
            "consolidated.safetensors": "'model.safetensors' holds the weights",
        }


def test_set_of_safetensors_without_an_index(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "y.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == ["x.safetensors", "y.safetensors"]
        assert list(checkpoint.tensors) == ["a", "b"]
    save_file({"b": torch.ones(1)}, tmp_path / "z.safetensors")
    with pytest.raises(CheckpointError, match=r"'b' is both in 'y\.safetensors' and in 'z\.safetensors'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.pth.tar", "last.ckpt", "net.pt", "pytorch_model.bin"])
def test_the_one_torch_file(tmp_path, name):
    torch.save({"w": torch.ones(1)}, tmp_path / name)
    (tmp_path / "vocab.bin").write_bytes(b"not weights")
    torch.save({"lr": 1}, tmp_path / "training_args.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == [name]
        assert set(checkpoint.side_files) == {"vocab.bin", "training_args.bin"}


def test_several_torch_files(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds 2 weight files \(a.pt, b.pt\)"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_index_faults(tmp_path, suffix):
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    shard = f"{stem}-00001-of-00001.{suffix}"
    index = tmp_path / f"{stem}.{suffix}.index.json"

    def write(weight_map):
        index.write_text(json.dumps({"weight_map": weight_map}))

    write({"w": shard})
    with pytest.raises(CheckpointError, match=f"names '{shard}', which is missing"):
        open_checkpoint(tmp_path)
    (save_file if suffix == "safetensors" else torch.save)({"w": torch.ones(1)}, tmp_path / shard)
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert set(checkpoint.side_files) == {index.name}
    write({"w": shard, "lost": shard})
    with pytest.raises(CheckpointError, match="'lost' is in"):
        open_checkpoint(tmp_path)
    for text in ("[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=r"not a sound index|lists no tensors"):
            open_checkpoint(tmp_path)
    write({"w": "../../outside.safetensors"})
    with pytest.raises(CheckpointError, match="cannot be kept"):
        open_checkpoint(tmp_path)


def test_hugging_face_cache(tmp_path, directory):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, name in enumerate(("model.safetensors", "config.json")):
        (directory / name).rename(blobs / str(i))
        (snapshot / name).symlink_to(f"../../blobs/{i}")
    with open_checkpoint(snapshot) as checkpoint:
        assert set(checkpoint.side_files) == {"config.json"}
        assert checkpoint.read("w").sum() == 4
    (tmp_path / "link").symlink_to(snapshot)
    with open_checkpoint(tmp_path / "link") as checkpoint:
        assert set(checkpoint.side_files) == {"config.json"}


def test_links(tmp_path, directory):
    (directory / "copy.json").symlink_to("config.json")
    (directory / "loop").symlink_to(".")
    with open_checkpoint(directory) as checkpoint:
        assert set(checkpoint.side_files) == {"config.json", "copy.json"}
        assert checkpoint.left_out == {"loop/": "a link to a directory"}
    (tmp_path / "secret").write_text("key")
    (directory / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"'tokenizer\.json' is a link to a file outside"):
        open_checkpoint(directory)


def test_weights_may_be_a_link_anywhere(tmp_path, directory):
    (directory / "model.safetensors").rename(tmp_path / "elsewhere")
    (directory / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with open_checkpoint(directory) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_odd_files(directory):
    os.mkfifo(directory / "pipe")
    (directory / "gone").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="'gone' is a link to nothing"):
        open_checkpoint(directory)
    (directory / "gone").unlink()
    with open_checkpoint(directory) as checkpoint:
        assert checkpoint.left_out == {"pipe": "not a regular file"}


def test_name_outside_the_grammar(directory):
    (directory / "naïve.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"'naïve\.txt' cannot be kept"):
        open_checkpoint(directory)


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(NotFoundError, match="There is no checkpoint at"):
        open_checkpoint(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no weights") as caught:
        open_checkpoint(tmp_path)
    assert "safetensors" in caught.value.hint
    with pytest.raises(CheckpointError, match=r"'config\.json' is not a checkpoint"):
        open_checkpoint(tmp_path / "config.json")
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"'empty\.bin' is not a checkpoint"):
        open_checkpoint(tmp_path / "empty.bin")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="neither a file nor a directory"):
        open_checkpoint(tmp_path / "pipe")


def test_weights_in_sub_directories(tmp_path, directory):
    with pytest.raises(CheckpointError, match="its directories ft do"):
        open_checkpoint(tmp_path)


def test_git_lfs_pointer(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin"):
        root = tmp_path / name.split(".")[0]
        root.mkdir()
        (root / name).write_text("version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n")
        with pytest.raises(CheckpointError, match="Git LFS pointer"):
            open_checkpoint(root)


def test_content_decides_and_not_the_name(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "weights")
    torch.save({"b": torch.ones(1)}, tmp_path / "model.dat")
    with open_checkpoint(tmp_path / "weights") as one, open_checkpoint(str(tmp_path / "model.dat")) as two:
        assert (one.format, two.format) == ("safetensors", "torch")
