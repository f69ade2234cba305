"""By default what is encoded goes a little further along a change than squared error alone would have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.encoding import profile
from erestore.encoding.quality import Quality
from erestore.objects.residual import Residual
from erestore.residual.objectives import ANSWERS

SHAPE = (200, 120)


def draw(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BASE = draw(*SHAPE)
CHANGES = {
    "factors": draw(SHAPE[0], 60, seed=1) * 0.9 ** torch.arange(60) @ draw(60, SHAPE[1], seed=2) / 30,
    "remainder": 0.1 * draw(*SHAPE, seed=3),
    "both": 0.1 * draw(*SHAPE, seed=4) + 0.06 * draw(SHAPE[0], 3, seed=5) @ draw(3, SHAPE[1], seed=6),
}

CODECS = {"factors": {"lowrank2"}, "remainder": {"remainder"}, "both": {"lowrank2", "remainder"}}


def stored(place: Path, tuned: torch.Tensor, **quality: object) -> tuple[Store, torch.Tensor, float]:
    """Commit one tensor; return the store, the change that a reader gets, and the error that is recorded."""
    place.mkdir()
    save_file({"weight": BASE}, place / "base.safetensors")
    save_file({"weight": tuned}, place / "tuned.safetensors")
    store = Store.init(place / "store")
    store.import_base(place / "base.safetensors", name="base")
    done = store.commit(place / "tuned.safetensors", base="base", quality=Quality(**quality))
    return store, (dict(store.state_dict("tuned"))["weight"] - BASE).double(), done.relative_error


@pytest.mark.parametrize("kind", CHANGES)
def test_factors_and_remainders_go_further_along_the_change(tmp_path: Path, monkeypatch, kind):
    change = CHANGES[kind]
    monkeypatch.setattr(profile, "ANSWERS", replace(ANSWERS, exponent=1 / 4))
    store, far, error = stored(tmp_path / "far", BASE + change, max_error=0.3)
    monkeypatch.setattr(profile, "ANSWERS", replace(ANSWERS, exponent=0.0))
    _, near, _ = stored(tmp_path / "near", BASE + change, max_error=0.3)
    assert error == pytest.approx(float((far - change).square().sum() / change.double().square().sum()), rel=1e-3)
    assert error <= 0.3
    held = Residual.open(store.objects, store.manifest_of("tuned").terms[0].residual).tensors["weight"]
    assert {section.codec for section in held.sections} == CODECS[kind]
    assert 1.06 < float((far * change).sum() / (near * change).sum()) < 1.17  # (1 - 0.3) ** -(1 / 4) = 1.093


def test_where_weights_alone_count_no_multiple_of_a_remainder_is_nearer(tmp_path: Path):
    change = CHANGES["remainder"]
    _, found, _ = stored(tmp_path / "store", BASE + change, max_error=0.3, objective="frobenius")
    assert float((found * change).sum() / found.square().sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("kind", "rank"), [("factors", 4), ("both", 64)])
def test_the_error_of_a_front_is_that_of_the_change_itself(tmp_path: Path, kind, rank):
    tuned = BASE + CHANGES[kind]
    store, _, _ = stored(tmp_path / "store", tuned, max_error=0.3)
    done = store.checkout("tuned", tmp_path / "front", max_rank=rank)
    lost = (load_file(tmp_path / "front")["weight"] - tuned).double().square().sum()
    assert done.relative_error == pytest.approx(float(lost / (tuned - BASE).double().square().sum()), rel=1e-3)
