"""``commit --dry-run``: what a commit would take, and a store that stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import Here
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.encoding.gate import Gate
from erestore.errors import GateError

OWN = {"commit", "dry_run", "parents", "stored_bytes"}
"""Fields in which a dry run differs; ``stored_bytes`` by what the compression of a record makes of another time."""


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and "reserve" not in path.name
    }


def same(dry: dict[str, object], done: dict[str, object]) -> bool:
    assert (dry["commit"], dry["dry_run"], done["dry_run"]) == (None, True, False)
    assert abs(dry["stored_bytes"] - done["stored_bytes"]) < 64
    return {key: dry[key] for key in dry.keys() - OWN} == {key: done[key] for key in done.keys() - OWN}


@pytest.mark.parametrize(
    "options",
    [
        ("more", "--name", "ft"),
        ("more", "--base", "base", "--name", "new", "--exact"),
        ("more", "--parent", "ft", "--name", "new", "--budget", "60%"),
        ("ft", "--base", "base", "--name", "new", "--gate", "test -d {path}"),
        ("ft",),
    ],
    ids=["version", "exact", "budget", "gate", "unchanged"],
)
def test_a_dry_run_says_what_the_commit_does_and_writes_nothing(here: Here, options: tuple[str, ...]) -> None:
    before = contents(here.directory / ".erestore")
    dry = here.run("commit", *options, "--dry-run", "--json", "-q")
    assert dry.code == 0, dry.err
    assert contents(here.directory / ".erestore") == before
    done = here.run("commit", *options, "--json", "-q")
    assert same(json.loads(dry.out), json.loads(done.out))


def test_in_words(here: Here) -> None:
    ran = here.run("commit", "more", "--name", "ft", "-n")
    lines = ran.out.splitlines()
    assert lines[0].startswith("Would commit [ft] ")
    assert lines[1].startswith("  new version of ft (was ")
    assert "Nothing to commit" in here.run("commit", "ft", "-n").out
    assert here.run("commit", "more", "--name", "ft", "--new", "-n").code == 5


def test_without_a_store_none_is_made_and_nothing_is_imported(empty: Here) -> None:
    ran = empty.run("commit", "ft", "more", "--base", "base", "--dry-run")
    assert ran.code == 0, ran.err
    assert [line.split("]")[0] for line in ran.out.splitlines() if "Would" in line] == [
        "Would commit [ft",
        "Would commit [more",
    ]
    assert "note: The base 'base' is not in the store yet: the commit would import it, " in ran.err
    assert ran.err.count("would import it") == 1
    assert not (empty.directory / ".erestore").exists()
    assert empty.run("commit", "ft", "--dry-run").code == 2  # which base?
    assert not (empty.directory / ".erestore").exists()


def test_a_base_that_is_not_in_the_store_yet(here: Here) -> None:
    weights = load_file("base/model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, "other.safetensors")
    before = contents(here.directory / ".erestore")
    store = Store.open(".erestore")
    dry = store.commit("ft", base="other.safetensors", name="new", dry_run=True)
    assert (dry.imported, dry.imported_bytes > 10_000, dry.commit) == ("other", True, None)
    assert contents(here.directory / ".erestore") == before
    assert store.commit("ft", base="other.safetensors", name="new").imported_bytes == pytest.approx(
        dry.imported_bytes, abs=64
    )


def test_a_second_folder_of_one_name_would_be_a_new_version(here: Here) -> None:
    (here.directory / "runs").mkdir()
    (here.directory / "runs" / "new").symlink_to(here.directory / "ft")
    (here.directory / "new").symlink_to(here.directory / "more")
    first, second = here.json("commit", "runs/new", "new", "--base", "base", "--dry-run")
    assert (first["previous"], second["previous"] is None) == (None, False)
    assert here.run("show", "new").code == 3


def test_a_gate_that_nothing_passes_ends_a_dry_run_alike(here: Here) -> None:
    before = contents(here.directory / ".erestore")
    with pytest.raises(GateError):
        Store.open(".erestore").commit("ft", base="base", name="new", gate=Gate("no", lambda _: False), dry_run=True)
    assert contents(here.directory / ".erestore") == before


def test_an_adapter(here: Here) -> None:
    adapter = here.directory / "adapter"
    adapter.mkdir()
    factors = {"A": torch.randn(3, 48), "B": torch.randn(32, 3)}
    save_file(
        {f"base_model.model.dense.lora_{side}.weight": factor for side, factor in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["dense"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    store = Store.open(".erestore")
    before = contents(here.directory / ".erestore")
    dry = store.commit("adapter", base="base", dry_run=True)
    assert contents(here.directory / ".erestore") == before
    done = store.commit("adapter", base="base")
    assert (dry.is_adapter, dry.tensors, dry.notes) == (True, done.tensors, done.notes)
