"""The bound holds tensor by tensor, about: one whose change is large does not let the others' be dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.gate import Gate
from erestore.encoding.quality import SPREAD, Quality
from erestore.ops.commit import commit
from erestore.residual.evenness import Loss, LossReference, References, shared

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


def losses(*pairs: tuple[float, float]) -> list[Loss]:
    return [Loss(error, LossReference(change)) for error, change in pairs]


def test_shares_of_the_whole() -> None:
    assert shared(losses((1.0, 100.0), (1.0, 100.0)), 10) == pytest.approx(0.01)
    # The second may lose ten times what all lose: s * 110 = 1 + 10 * s * 10.
    assert shared(losses((1.0, 100.0), (10.0, 10.0)), 10) == pytest.approx(0.1)
    assert shared(losses((1.0, 1000.0), (10.0, 10.0)), 10) == pytest.approx(1 / 910)
    assert shared(losses((5.0, 5.0), (10.0, 10.0)), 10) == 1
    assert shared([], 10) == 0
    assert 0 < shared(losses((0.0, 1000.0), (10.0, 10.0)), 10) < 0.001


def test_what_the_parent_missed_is_no_loss_of_the_child() -> None:
    # The second may lose the 9 that its parent missed, and ten times the share of the 1 beyond: s * 1010 = 1 + 9 + 10 * s.
    assert shared([Loss(1.0, LossReference(1000.0)), Loss(10.0, LossReference(1.0, 9.0))], 10) == pytest.approx(1 / 100)
    assert shared([Loss(1.0, LossReference(90.0)), Loss(9.0, LossReference(0.0, 10.0))], 10) == pytest.approx(0.1)
    assert References({"a": 3.0}).of("a", 4.0) == LossReference(1.0, 3.0)
    assert References({"a": 3.0}).of("a", 2.0) == LossReference(0.0, 2.0)


def squared(tensors: Tensors, other: Tensors) -> dict[str, float]:
    return {name: float((tensors[name].double() - other[name].double()).square().sum()) for name in tensors}


def louder(start: Tensors, by: float, seed: int) -> Tensors:
    """All move a little; the embeddings by so much in all directions."""
    return tuned(start, "", seed) | {"embed.weight": start["embed.weight"] + by * random(160, 64, seed=seed + 77)}


@pytest.fixture(scope="module")
def chain(place: Path) -> tuple[Tensors, Tensors]:
    """Two versions that are loud in one tensor, the second on what the first decodes to."""
    first = louder(base(), 0.1, 100)
    second = louder(first, 0.06, 500)
    store = Store.open(place / "store")
    for name, weights, parent in (("first", first, {"base": "base"}), ("second", second, {"parent": "first"})):
        save_file(weights, place / f"{name}.safetensors")
        store.commit(place / f"{name}.safetensors", name=name, **parent)
    return first, second


def require_kept(store: Store, version: tuple[str, Tensors], before: tuple[str, Tensors]) -> None:
    """Make sure that a version loses what the one before it had lost, and of its own change not more than the limit."""
    lost, missed = (squared(weights, dict(store.state_dict(name))) for name, weights in (version, before))
    change = squared(version[1], before[1])
    assert all(lost[name] <= 1.01 * missed[name] + 1.2 * SPREAD * 0.01 * change[name] for name in change)


def test_a_second_version_keeps_what_is_small_beside_its_loud_tensor(
    chain: tuple[Tensors, Tensors], place: Path
) -> None:
    require_kept(Store.open(place / "store"), ("second", chain[1]), ("first", chain[0]))


def test_so_does_a_version_that_is_encoded_on_the_base(chain: tuple[Tensors, Tensors], place: Path) -> None:
    third = louder(chain[1], 0.06, 900)
    save_file(third, place / "third.safetensors")
    store = Store.open(place / "store")
    done = commit(store, place / "third.safetensors", parent="second", name="third", flatten_rank=1)
    assert done.flattened_rank is not None
    require_kept(store, ("third", third), ("second", chain[1]))


def test_a_second_version_of_one_tensor_does_not_pay_for_the_others(
    chain: tuple[Tensors, Tensors], place: Path
) -> None:
    """What the first version lost of them is not made up for where only the loud one was trained further."""
    first, _ = chain
    again = first | {"embed.weight": first["embed.weight"] + 0.03 * random(160, 64, seed=5)}
    save_file(again, place / "again.safetensors")
    store = Store.open(place / "store")
    done = store.commit(place / "again.safetensors", parent="first", name="again")
    alone = store.commit(
        place / "again.safetensors", parent="first", name="alone", quality=Quality(objective="frobenius")
    )
    assert done.stored_bytes < 1.1 * alone.stored_bytes


@pytest.mark.parametrize("exact", [False, True])
def test_encoding_anew_within_a_squared_error_keeps_the_limit(
    exact: bool, chain: tuple[Tensors, Tensors], place: Path
) -> None:
    store = Store.open(place / "store")
    revision = "second"
    if exact:
        revision = "second-exact"
        quality = Quality(exact=True)
        store.commit(place / "second.safetensors", parent="first", name=revision, quality=quality)
    held = dict(store.state_dict(revision))
    done = store.flatten(revision, name=f"{revision}-flat")
    assert done.flatten_error <= 0.01
    flat = store.state_dict(f"{revision}-flat", lossy=True) if exact else store.state_dict(f"{revision}-flat")
    assert max(shares(held, dict(flat), base()).values()) <= 1.05 * SPREAD * (0.01 if exact else 0.0025)


def test_repacking_keeps_the_limit(chain: tuple[Tensors, Tensors], place: Path) -> None:
    """Its sibling has the loud change already; what is to be added of the others is small beside what may be lost."""
    store = Store.open(place / "store")
    store.commit(place / "second.safetensors", base="base", name="sibling")
    held = dict(store.state_dict("sibling"))
    done = store.repack(["sibling"], max_error=0.0025)
    assert [moved.ref for moved in done.repacked] == ["sibling"]
    assert max(shares(held, dict(store.state_dict("sibling")), base()).values()) <= 1.05 * SPREAD * 0.0025


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
