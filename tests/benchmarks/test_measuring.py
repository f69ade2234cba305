"""Measuring a pair, and what is left to measure."""

from pathlib import Path

import fidelity
import measuring
import pytest
import torch
from curves import at_equal
from pairs import Pair
from safetensors.torch import save_file


@pytest.fixture
def pair(tmp_path) -> Pair:
    generator = torch.Generator().manual_seed(4)
    base = {f"bert.{n}": torch.randn(64, 48, generator=generator) for n in range(3)}
    tuned = {name: own + 0.1 * torch.randn(own.shape, generator=generator) for name, own in base.items()}
    tuned = {name.removeprefix("bert."): own for name, own in tuned.items()} | {"head": torch.ones(5, 48)}
    paths = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    for path, weights in zip(paths, (base, tuned), strict=True):
        save_file(weights, path)
    return Pair("rxnfp-ft", *paths, original=paths[1])


def test_points(pair, tmp_path):
    theirs = measuring.yardstick_points(pair, tmp_path / "theirs")
    ere = [point for point in theirs if point["method"] == "ere"]
    assert [point["setting"] for point in ere] == [8, 16]
    assert all(point["total"] == point["payload"] + 4 * 5 * 48 for point in ere)
    assert all(point["stored"] > point["payload"] / 2 for point in ere)

    ours = measuring.our_points(pair, tmp_path / "ours", theirs)
    assert [point["setting"] for point in ours[: len(measuring.GRID)]] == list(measuring.GRID)
    assert all(point["error"] <= point["setting"] for point in ours)
    assert len(measuring.GRID) < len(ours) <= len(measuring.GRID) + measuring.ATTEMPTS * len(ere)
    assert {point["method"] for point in ours} == {"ours-frobenius"}
    assert at_equal([(point["error"], point["total"]) for point in ours], ere[0]["error"])


def test_a_target_is_approached():
    asked = []

    def measure(setting: float) -> dict:
        asked.append(setting)
        return {"setting": setting, "error": 0.95 * setting**1.2}

    points = [measure(setting) for setting in (0.9, 0.1, 0.001)]
    measuring.approach(measure, points, "error", 0.02)
    assert points[-1]["error"] == pytest.approx(0.02, rel=0.03)
    assert len(points) == 4
    for loss in (0.0204, points[0]["error"], 1e-6):  # there already, and out of reach
        measuring.approach(measure, points, "error", loss)
    assert len(asked) == 4


def test_what_is_to_do(tmp_path):
    for name, parts in {"a": ["yardsticks", "ours"], "b": ["yardsticks"], "c": []}.items():
        for part in parts:
            (tmp_path / part).mkdir(exist_ok=True)
            Path(tmp_path, part, f"{name}.json").write_text("{}")
    names = ["a", "b", "c"]
    both = ["yardsticks", "ours"]
    assert fidelity.to_do(names, tmp_path, None) == {"b": ["ours"], "c": both}
    assert fidelity.to_do(names, tmp_path, "ours") == {"a": ["ours"], "b": ["ours"], "c": both}
    assert fidelity.to_do(names, tmp_path, "yardsticks") == {name: ["yardsticks"] for name in names}
    assert fidelity.to_do(names, tmp_path, "none") == {}
