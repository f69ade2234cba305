"""Passes that a search makes: which is kept, which are let go, and what happens where none will do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.encoding import encode_pass
from erestore.encoding.encode_pass import Attempt, Passes
from erestore.encoding.quality import Quality
from erestore.errors import UsageError
from erestore.objects.squared_errors import Errors


@pytest.fixture
def place(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    base = {
        "dense.weight": torch.randn(90, 70, generator=generator),
        "dense.bias": torch.randn(90, generator=generator),
    }
    tuned = {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "ft.safetensors")
    Store.init(tmp_path / "store").import_base(tmp_path / "base.safetensors", name="base")
    return tmp_path


@pytest.mark.parametrize("quality", [Quality(budget=5_000), Quality(max_error=1e-4)])
def test_all_but_one_attempt_are_let_go_on_the_way(
    place: Path, monkeypatch: pytest.MonkeyPatch, quality: Quality
) -> None:
    """Each holds an encoding of the whole model."""
    made: list[Attempt] = []
    encode, drop, dropped = Passes.encode, Attempt.drop, []

    def count(self: Passes, *arguments: object) -> Attempt:
        assert len(made) - len(dropped) <= 1
        made.append(encode(self, *arguments))
        return made[-1]

    monkeypatch.setattr(Passes, "encode", count)
    monkeypatch.setattr(Attempt, "drop", lambda self: (dropped.append(self), drop(self))[1])
    Store.open(place / "store").commit(place / "ft.safetensors", base="base", name="ft", quality=quality)
    assert len(made) == len(dropped) + 1


@pytest.fixture
def out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = encode_pass.measure

    def more(*arguments: object) -> Errors:
        found = measure(*arguments)
        return Errors(found.linear, found.rounded + found.norm, found.norm)

    monkeypatch.setattr(encode_pass, "measure", more)


@pytest.mark.usefixtures("out_of_reach")
def test_a_bound_that_cannot_be_met_is_said_and_nothing_is_named(place: Path) -> None:
    store = Store.open(place / "store")
    with pytest.raises(UsageError, match="cannot be reached"):
        store.commit(place / "ft.safetensors", base="base", name="ft", quality=Quality(max_error=0.1))
    assert not store.has_ref("ft")


@pytest.mark.usefixtures("out_of_reach")
def test_an_exact_commit_does_not_need_to_meet_it(place: Path) -> None:
    store = Store.open(place / "store")
    store.commit(place / "ft.safetensors", base="base", name="ft", quality=Quality(max_error=0.1, exact=True))
    original = load_file(place / "ft.safetensors")
    assert all(torch.equal(value, original[name]) for name, value in store.state_dict("ft").items())
