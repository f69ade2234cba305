"""The commands of the mission, verbatim, as a user types them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import environment

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as ``roberta-large`` in a local Hugging Face cache, and a fine-tune of it for a task."""
    directory = tmp_path_factory.mktemp("models")
    config = transformers.RobertaConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    torch.manual_seed(0)
    cache = directory / "cache" / "hub" / "models--roberta-large"
    revision = "722cf37b1afa9454edce342e7895e588b6ff1d59"
    transformers.RobertaForMaskedLM(config).save_pretrained(cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(revision)
    tuned = transformers.RobertaForSequenceClassification.from_pretrained(cache / "snapshots" / revision, num_labels=3)
    with torch.no_grad():
        for tensor in tuned.parameters():
            sides = [torch.randn(size, 1) for size in (tensor.shape[0], tensor[0].numel())] if tensor.ndim > 1 else None
            change = (sides[0] @ sides[1].T).view(tensor.shape) if sides else torch.randn(tensor.shape)
            tensor.add_(0.01 * change)
    tuned.save_pretrained(directory / "ft")
    return directory


@pytest.fixture
def shell(models: Path, tmp_path: Path):
    """Run a command line in an otherwise empty directory, with ``erestore`` on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "erestore").write_text(f"#!{sys.executable}\nfrom erestore.cli.main import main\nmain()\n")
    (programs / "erestore").chmod(0o755)
    directory = tmp_path / "work"
    directory.mkdir()
    variables = environment(HF_HOME=str(models / "cache"), HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
    variables["PATH"] = f"{programs}:{variables['PATH']}"
    variables.pop("HF_HUB_CACHE", None)

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=directory, env=variables, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.directory = directory
    return run


def load(directory: Path):
    return transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return load(directory)(torch.arange(2, 30).view(1, -1)).logits


def test_the_two_commands(shell, models: Path) -> None:
    shutil.copytree(models / "ft", shell.directory / "ft")
    out = shell("erestore commit ft/ --base roberta-large")
    assert out.startswith("[ft ")
    shutil.move(shell.directory / "ft", shell.directory / "original")
    shell("erestore checkout ft")
    files = sorted(path.name for path in (shell.directory / "ft").iterdir())
    assert files == ["config.json", "erestore-checkout.json", "model.safetensors"]
    ours, theirs = logits(shell.directory / "ft"), logits(models / "ft")
    assert torch.allclose(ours, theirs, atol=0.02)
    assert (shell.directory / "ft" / "config.json").read_bytes() == (models / "ft" / "config.json").read_bytes()
    branches = shell("erestore branch").splitlines()
    assert [line.split()[0] for line in branches] == ["ft", "roberta-large"]


def test_a_task_by_its_name(shell, models: Path) -> None:
    shutil.copytree(models / "ft", shell.directory / "ft")
    shell("erestore commit ft/ --base roberta-large --name task-mnli --exact")
    shell("erestore checkout task-mnli")
    ours, theirs = (load(folder).state_dict() for folder in (shell.directory / "task-mnli", models / "ft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # Not bit for bit: how a mapped tensor is aligned decides which kernels multiply it.
    assert torch.allclose(logits(shell.directory / "task-mnli"), logits(models / "ft"), atol=1e-6)
