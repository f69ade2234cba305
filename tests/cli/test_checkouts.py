"""Originals are not replaced by what was decoded, a checkout says what it is, and verify tells the two apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from commands import Here
from safetensors.torch import save_file

MARKER = "erestore-checkout.json"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def original(here: Here) -> Here:
    """A fine-tune that is committed within an error, under the name of its folder."""
    tiny.write_model(here.directory / "lossy", tiny.tuned(tiny.base_weights(), 5))
    assert here.run("commit", "lossy", "--base", "base").code == 0
    return here


def test_an_original_is_left_alone_and_the_checkout_stands_beside_it(original: Here) -> None:
    before = contents(Path("lossy"))
    ran = original.run("checkout", "lossy")
    assert ran.code == 0, ran.err
    assert "note: 'lossy' holds weights that the store cannot restore" in ran.err
    assert ran.out.startswith("Wrote lossy-checkout: ")
    assert contents(Path("lossy")) == before
    found = original.json("checkout", "lossy", "--force")  # replaces lossy-checkout, which is a checkout
    assert (found["left_alone"], found["path"]) == ("lossy", "lossy-checkout")
    assert contents(Path("lossy")) == before


def test_force_needs_a_word_more_to_lose_an_original(original: Here) -> None:
    before = contents(Path("lossy"))
    ran = original.run("checkout", "lossy", "lossy", "--force")
    assert ran.code == 5
    assert "holds weights that the store cannot restore bit for bit" in ran.err
    assert "such as lossy-checkout; --force --discard-original" in ran.err
    assert contents(Path("lossy")) == before
    assert original.run("checkout", "lossy", "lossy", "--discard-original").code == 2
    assert original.run("checkout", "lossy", "lossy", "--force", "--discard-original").code == 0
    assert contents(Path("lossy")) != before


def test_another_variants_original_is_safe_too(original: Here) -> None:
    save_file({"w": torch.zeros(2)}, Path("precious.safetensors"))
    for target in ("lossy", "precious.safetensors"):
        assert original.run("checkout", "base", target, "--force").code == 5


def test_what_the_store_can_restore_is_replaced(original: Here) -> None:
    original.json("checkout", "lossy", "out")
    original.json("checkout", "lossy", "out", "--force", "--max-rank", "1")  # by another state of it
    original.json("checkout", "base", "out", "--force")  # a cut one too, as its marker says
    original.json("checkout", "more", "out", "--force")  # a base
    assert not (Path("out") / MARKER).exists()  # exact
    original.json("checkout", "lossy", "out", "--force")  # an exact commit
    shutil.copytree("more", "twin")
    original.json("checkout", "lossy", "twin", "--force")  # and its original
    original.json("merge", "ft", "lossy", "--name", "both")
    original.json("checkout", "0.5*ft + 0.5*lossy", "sum")
    original.json("checkout", "both", "sum", "--force")


def test_a_checkout_that_was_trained_further_is_an_original(original: Here) -> None:
    original.json("checkout", "lossy", "out")
    weights = tiny.weights_of(Path("out"))
    save_file(weights | {"dense.bias": weights["dense.bias"] + 1}, Path("out/model.safetensors"))
    ran = original.run("checkout", "lossy", "out", "--force")
    assert (ran.code, "cannot restore" in ran.err) == (5, True)


def test_training_state_is_nothing_to_replace(original: Here) -> None:
    original.json("checkout", "more", "out")
    torch.save({"step": torch.ones(1)}, Path("out/optimizer.pt"))
    ran = original.run("checkout", "more", "out", "--force")
    assert (ran.code, "files that no commit keeps (optimizer.pt)" in ran.err) == (5, True)


def test_a_folder_without_weights_is_replaced_as_before(original: Here) -> None:
    Path("notes").mkdir()
    Path("notes/todo.txt").write_text("nothing")
    assert original.run("checkout", "lossy", "notes").code == 5
    assert original.run("checkout", "lossy", "notes", "--force").code == 0
    Path("broken").mkdir()
    Path("broken/model.safetensors").write_bytes(b"?")  # weights, as far as anybody can tell
    assert original.run("checkout", "lossy", "broken", "--force").code == 5


def test_a_checkout_says_what_was_lost(original: Here) -> None:
    done = original.json("checkout", "lossy", "out")
    marker = json.loads(Path("out", MARKER).read_text())
    assert (marker["commit"], marker["relative_error"], marker["exact"]) == (
        done["commit"],
        done["relative_error"],
        False,
    )
    assert original.json("identify", "out")["checkout_of"]["commit"] == done["commit"]
    assert "a checkout of" in original.run("identify", "out").out
    ran = original.run("commit", "out", "--name", "again")
    assert "note: The folder is a checkout of" in ran.err
    assert MARKER not in original.json("show", "again")["side_files"]
    Path("out", MARKER).write_text('{"commit": 7}')  # whatever this is, it stops nothing
    assert original.json("commit", "out", "--name", "more-of-it")["checkout_of"] is None


def test_verify_tells_equal_within_and_different(original: Here) -> None:
    original.json("checkout", "lossy", "out")
    assert original.json("verify", "out", "lossy")["state"] == "equal"
    assert original.json("verify", "out")["state"] == "equal"
    within = original.json("verify", "lossy", "lossy")
    assert within["state"] == "within"
    assert within["relative_error"] == pytest.approx(within["limit"], rel=1e-4)
    assert original.json("verify", "more", "more")["state"] == "equal"
    ran = original.run("verify", "ft", "lossy")
    assert ran.code == 1
    assert "ft is not lossy: " in ran.out
    assert "  dense.bias: has other values" in ran.out
    assert "embedding.weight: has another shape (" in original.run("verify", "base", "lossy").out
    ran = original.run("verify", "base", "lossy", "--json")
    reasons = {each["name"]: each["reason"] for each in json.loads(ran.out)["differences"]}
    assert (ran.code, reasons["head.weight"], reasons["embedding.weight"]) == (1, "missing", "shape")


def test_verify_without_a_revision_needs_a_marker(original: Here) -> None:
    ran = original.run("verify", "lossy")
    assert (ran.code, "`erestore verify lossy lossy`" in ran.err) == (2, True)
    ran = original.run("verify", "base/model.safetensors")
    assert (ran.code, "`erestore verify base/model.safetensors REVISION`" in ran.err) == (2, True)
    original.json("checkout", "lossy", "cut", "--max-rank", "1")
    whole = original.json("verify", "cut")
    assert (whole["state"], whole["lossy"], whole["max_rank"], whole["max_bytes"]) == ("equal", True, 1, None)
    assert original.run("verify", "cut", "lossy").code == 1


def test_a_part_is_not_called_the_commit(original: Here) -> None:
    original.json("commit", "lossy", "--name", "every-bit", "--exact")
    for options in (["--lossy"], ["--max-rank", "1"], ["--max-bytes", "2000"]):
        original.json("checkout", "every-bit", "part", *options, "--force")
        assert f" as checked out with {' '.join(options)}, bit for bit: " in original.run("verify", "part").out
    original.json("checkout", "lossy", "out")
    assert "as checked out" not in original.run("verify", "out").out


def test_an_adapter_is_not_compared_as_if_it_were_a_model(original: Here) -> None:
    folder = Path("adapter")
    folder.mkdir()
    rows, columns = tiny.base_weights()["dense.weight"].shape
    sides = {"lora_A": torch.ones(2, columns), "lora_B": torch.ones(rows, 2)}
    save_file(
        {f"base_model.model.dense.{side}.weight": sides[side] for side in sides}, folder / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["dense"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    original.json("commit", "adapter", "--base", "base")
    ran = original.run("verify", "adapter", "adapter")
    assert (ran.code, ran.out) == (9, "")
    assert "`erestore commit adapter --name NAME --dry-run`" in ran.err
    assert "Nothing to commit" in original.run("commit", "adapter", "--name", "adapter", "--dry-run").out


def test_a_bit_that_is_no_difference_of_values_is_one(original: Here) -> None:
    weights = tiny.weights_of(Path("more"))
    weights["dense.bias"][0] = 0.0
    save_file(weights, Path("more/model.safetensors"))
    original.json("commit", "more", "--name", "zero", "--exact")
    weights["dense.bias"][0] = -0.0
    save_file(weights, Path("more/model.safetensors"))
    ran = original.run("verify", "more", "zero", "--json")
    assert [each["squared_error"] for each in json.loads(ran.out)["differences"]] == [0.0]
    assert original.run("checkout", "zero", "more", "--force").code == 5
