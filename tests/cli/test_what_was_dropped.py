"""What a commit dropped, what it kept whole, and where a budget has room for every bit: said in the summary and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from erestore.cli.main import cli

ROWS = 64


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, a base, and a fine-tune of which one tensor is loud, and a head is new."""
    place = tmp_path_factory.mktemp("dropped")
    base = {f"layer.{number}.weight": random(ROWS, ROWS, seed=number) for number in range(4)}
    save_file(base, place / "base.safetensors")
    tuned = {name: tensor + 0.001 * random(ROWS, ROWS, seed=10) for name, tensor in base.items()}
    tuned["layer.0.weight"] = random(ROWS, ROWS, seed=20)
    save_file(tuned | {"head.weight": random(3, ROWS, seed=30)}, place / "tuned.safetensors")
    ask(place, "init")
    ask(place, "import", str(place / "base.safetensors"), "--name", "base")
    return place


def ask(place: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["--store", str(place / "store"), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout if "--json" in arguments else result.output


def commit(place: Path, name: str, *options: str) -> str:
    return ask(place, "commit", str(place / "tuned.safetensors"), "--base", "base", "--name", name, *options)


def test_the_summary_names_what_was_kept_whole_and_dropped(place: Path) -> None:
    said = commit(place, "sum", "--objective", "frobenius")
    assert "1 kept whole (head.weight)" in said
    assert "3 changed but dropped (layer.1.weight, layer.2.weight, layer.3.weight)" in said
    assert "unchanged" not in said


def test_json_lists_them(place: Path) -> None:
    said = json.loads(commit(place, "json", "--objective", "frobenius", "--json"))
    assert said["whole"] == ["head.weight"]
    assert said["dropped"] == ["layer.1.weight", "layer.2.weight", "layer.3.weight"]
    assert said["tensors"]["dropped"] == 3


def test_show_and_diff_say_so_later(place: Path) -> None:
    commit(place, "later", "--objective", "frobenius")
    shown = json.loads(ask(place, "show", "later", "--json"))
    assert (shown["dropped"], shown["whole_tensors"]) == (3, ["head.weight"])
    assert "Dropped:  3 tensors" in ask(place, "show", "later")
    assert "Whole:    head.weight" in ask(place, "show", "later")
    assert json.loads(ask(place, "diff", "base", "later", "--json"))["b"]["dropped"] == 3
    assert "later keeps nothing (dropped)" in ask(place, "diff", "base", "later")


def test_by_default_nothing_is_dropped(place: Path) -> None:
    said = json.loads(commit(place, "default", "--json"))
    assert (said["dropped"], said["budget_left"]) == ([], False)
    assert json.loads(ask(place, "show", "default", "--json"))["dropped"] == 0


def test_a_budget_with_room_for_every_bit_is_exact(place: Path, tmp_path: Path) -> None:
    exact = json.loads(commit(place, "exact", "--exact", "--json"))
    rich = json.loads(commit(place, "rich", "--budget", "1M", "--json"))
    assert rich["stored_bytes"] <= exact["stored_bytes"] + 200  # records are a little longer
    assert (rich["exact"], rich["budget_left"], rich["relative_error"]) == (True, True, 0)
    ask(place, "checkout", "rich", str(tmp_path / "rich.safetensors"))
    original, found = load_file(place / "tuned.safetensors"), load_file(tmp_path / "rich.safetensors")
    assert all(torch.equal(original[name], found[name]) for name in original)
    assert "room for every bit" in commit(place, "said", "--budget", "2M")
    assert json.loads(commit(place, "rich", "--budget", "1M", "--json"))["unchanged"]
