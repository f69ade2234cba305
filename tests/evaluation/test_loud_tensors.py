"""The bound holds tensor by tensor, about: one whose change is large does not let the others' be dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.model.gating import Gate
from erestore.model.quality import SPREAD, Quality
from erestore.residual.evenness import shared

Tensors = dict[str, torch.Tensor]
LAYERS = 6


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def base(dtype: torch.dtype = torch.float32) -> Tensors:
    made = {"embed.weight": 0.02 * random(160, 64, seed=1)}
    for layer in range(LAYERS):
        made[f"layers.{layer}.dense.weight"] = 0.1 * random(96, 64, seed=10 + layer)
        made[f"layers.{layer}.dense.bias"] = 0.1 * random(96, seed=20 + layer)
        made[f"layers.{layer}.norm.weight"] = 1 + 0.1 * random(64, seed=30 + layer)
    return {name: tensor.to(dtype) for name, tensor in made.items()}


def tuned(start: Tensors, loud: str, seed: int = 100) -> Tensors:
    """All move by a hundredth, of low rank and some noise; one by as much as itself and more, in all directions."""
    made = {}
    for number, (name, tensor) in enumerate(start.items()):
        change = random(*tensor.shape, seed=seed + number)
        if name == loud:
            change *= 3 * tensor.float().norm() / change.norm()
        else:
            if tensor.ndim == 2:
                change = (
                    random(len(tensor), 2, seed=seed + number) @ random(2, tensor.shape[1], seed=seed + 50 + number)
                    + 0.2 * change
                )
            change *= 0.01 * tensor.float().norm() / change.norm()
        made[name] = (tensor.float() + change).to(tensor.dtype)
    return made


def shares(original: Tensors, stored: Tensors, parent: Tensors) -> dict[str, float]:
    """Share of every tensor's own change that is lost."""

    def squared(name: str, other: Tensors) -> float:
        return float((original[name].double() - other[name].double()).square().sum())

    return {name: squared(name, stored) / squared(name, parent) for name in original if squared(name, parent)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("loud")
    save_file(base(), place / "base.safetensors")
    save_file(tuned(base(), "embed.weight"), place / "loud.safetensors")
    Store.init(place / "store").import_base(place / "base.safetensors", name="base")
    return place


@pytest.mark.parametrize("loud", ["embed.weight", "layers.3.norm.weight", "layers.0.dense.bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_loses_more_than_ten_times_the_bound(loud: str, dtype: torch.dtype, tmp_path: Path) -> None:
    start = base(dtype)
    original = tuned(start, loud)
    save_file(start, tmp_path / "base.safetensors")
    save_file(original, tmp_path / "tuned.safetensors")
    store = Store.init(tmp_path / "store")
    done = store.commit(tmp_path / "tuned.safetensors", base=str(tmp_path / "base.safetensors"), name="a")
    assert 0.005 < done.relative_error <= 0.01
    assert max(shares(original, dict(store.state_dict("a")), start).values()) <= SPREAD * 0.01
    assert "dropped" not in done.tensors


@pytest.mark.parametrize("asked", [{"budget": 14_000}, {"budget": 22_000}, {"max_error": 0.0003}, {"max_error": 0.08}])
def test_at_other_qualities(asked: dict[str, float], place: Path) -> None:
    store, original = Store.open(place / "store"), tuned(base(), "embed.weight")
    done = store.commit(place / "loud.safetensors", base="base", name="other", quality=Quality(**asked))
    worst = max(shares(original, dict(store.state_dict(done.ref)), base()).values())
    assert worst <= SPREAD * asked.get("max_error", 1.3 * done.relative_error)


def test_what_a_gate_lets_through(place: Path) -> None:
    store, original = Store.open(place / "store"), tuned(base(), "embed.weight")

    def passes(path: Path) -> bool:
        return (path if path.is_file() else path / "model.safetensors").exists()

    done = store.commit(
        place / "loud.safetensors", base="base", name="gated", quality=Quality(gate=Gate("any", passes))
    )
    assert (
        0.2 < done.relative_error < 0.5
    )  # where a tenth of the limit is more than all of a change, a tensor may be dropped
    assert max(shares(original, dict(store.state_dict("gated")), base()).values()) <= 1


def test_the_sum_alone_drops_what_is_small(place: Path) -> None:
    store = Store.open(place / "store")
    done = store.commit(place / "loud.safetensors", base="base", name="sum", quality=Quality(objective="frobenius"))
    assert done.tensors["dropped"] == 3 * LAYERS
    assert "unchanged" not in done.tensors


def test_where_nothing_is_loud_nothing_changes(place: Path, tmp_path: Path) -> None:
    original = tuned(base(), "")
    save_file(original, tmp_path / "even.safetensors")
    store = Store.open(place / "store")
    done = store.commit(tmp_path / "even.safetensors", base="base", name="even")
    assert 0.0095 < done.relative_error <= 0.01


def test_shares_of_the_whole() -> None:
    assert shared([(1.0, 100.0), (1.0, 100.0)], 10) == pytest.approx(0.01)
    # The second may lose ten times what all lose: s * 110 = 1 + 10 * s * 10.
    assert shared([(1.0, 100.0), (10.0, 10.0)], 10) == pytest.approx(0.1)
    assert shared([(1.0, 1000.0), (10.0, 10.0)], 10) == pytest.approx(1 / 910)
    assert shared([(5.0, 5.0), (10.0, 10.0)], 10) == 1
    assert shared([], 10) == 0
    assert 0 < shared([(0.0, 1000.0), (10.0, 10.0)], 10) < 0.001


@pytest.mark.parametrize("folder", ["2_Dense", "0_Head"])
def test_a_module_in_a_folder_of_its_own_is_held_to_the_bound_itself(folder: str, tmp_path: Path) -> None:
    """A Dense behind a model whose change is large: of the sum its own is next to nothing."""
    trunk, start = base(), {"linear.weight": 0.1 * random(48, 64, seed=7), "linear.bias": 0.1 * random(48, seed=8)}
    moved = {name: tensor + 0.01 * random(*tensor.shape, seed=70) for name, tensor in start.items()}
    for variant, weights, module in (("base", trunk, start), ("tuned", tuned(trunk, "embed.weight"), moved)):
        (tmp_path / variant / folder).mkdir(parents=True)
        save_file(weights, tmp_path / variant / "model.safetensors")
        save_file(module, tmp_path / variant / folder / "model.safetensors")
    store = Store.init(tmp_path / "store")
    done = store.commit(tmp_path / "tuned", base=str(tmp_path / "base"), name="a")
    assert done.relative_error <= 0.01
    stored = {name: store.state_dict("a")[f"{folder}/{name}"] for name in start}
    lost, change = (
        sum(float((moved[name].double() - other[name].double()).square().sum()) for name in start)
        for other in (stored, start)
    )
    assert lost <= 0.0105 * change
