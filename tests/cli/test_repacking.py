"""``repack`` on the command line."""

from __future__ import annotations

import pytest
import tiny
import torch
from commands import Here


@pytest.fixture
def work(here: Here) -> Here:
    """With fine-tunes of a checkpoint that is not in the store."""
    generator = torch.Generator().manual_seed(5)
    base = tiny.base_weights()
    common = {
        name: value + 0.2 * torch.randn(value.shape, generator=generator)
        if value.ndim == 2 and value.is_floating_point()
        else value
        for name, value in base.items()
    }
    for number in range(4):
        tiny.write_model(here.directory / f"t{number}", tiny.tuned(common, number))
        assert here.run("commit", f"t{number}", "--base", "base", "--max-error", "1e-4").code == 0
    return here


def test_repacking(work: Here) -> None:
    planned = work.json("repack", "--dry-run", "--max-error", "0.01")
    assert planned["dry_run"]
    names = {each["ref"] for each in planned["repacked"]}
    assert len(names & {"t0", "t1", "t2", "t3"}) >= 3
    ran = work.run("repack", "--max-error", "0.01", "--dry-run")
    assert ran.code == 0
    assert "Would repack" in ran.out
    ran = work.run("repack", "--max-error", "0.01")
    assert ran.code == 0, ran.err
    assert f"Repacked {len(names)} variants" in ran.out
    assert "erestore undo" in ran.out
    assert "ft stays as it is: the tag 'v1' needs its residual." in ran.err
    found = work.json("gc", "--reflog-days", "0", "--grace-days", "0")
    assert found["freed_bytes"] == pytest.approx(planned["freed_bytes"], rel=0.01)
    assert work.run("fsck", "--deep").code == 0


def test_nothing_to_repack(here: Here) -> None:
    ran = here.run("repack", "ft")
    assert ran.code == 0
    assert "Nothing to repack" in ran.out
    found = here.json("repack", "ft")
    assert (found["repacked"], found["operation"], found["freed_bytes"]) == ([], None, 0)
    assert [kept["ref"] for kept in found["kept"]] == ["ft"]


def test_what_is_refused(here: Here) -> None:
    assert here.run("repack", "base").code == 2
    assert here.run("repack", "v1").code == 2
    assert here.run("repack", "nobody").code == 3
    assert here.run("repack", "--max-error", "1").code == 2
