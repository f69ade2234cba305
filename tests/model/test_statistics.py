"""Floats that no optimizer moves are exact at any quality, and no bound is over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.roles import Role, roles_of
from erestore.encoding.quality import Quality

Tensors = dict[str, torch.Tensor]

CHANNELS = 48
EXACT = ("bn.running_mean", "bn.running_var", "rotary_emb.inv_freq", "fc.weight_scale", "temperature")
WEIGHTS = ("conv.weight", "bn.weight", "fc.weight")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def base(dtype: torch.dtype = torch.float32) -> Tensors:
    tensors = {
        "conv.weight": 0.1 * random(CHANNELS, 27, seed=1),
        "bn.weight": 1 + 0.1 * random(CHANNELS, seed=2),
        "bn.running_mean": 100 * random(CHANNELS, seed=3),
        "bn.running_var": 5000 * (1 + random(CHANNELS, seed=4).square()),
        "rotary_emb.inv_freq": 10000.0 ** -torch.linspace(0, 1, 16),
        "fc.weight": 0.1 * random(64, CHANNELS, seed=5),
        "fc.weight_scale": random(64, 1, seed=6).exp(),
        "temperature": torch.tensor(4.6),
    }
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def tuned(start: Tensors, seed: int = 10) -> Tensors:
    """Weights move by 2 %; statistics by as much as themselves, some of them to a thousandth or to a million times."""
    made = {}
    for number, (name, tensor) in enumerate(start.items()):
        size = 0.02 if name in WEIGHTS else 1.0
        moved = tensor.double() * (1 + size * random(*tensor.shape, seed=seed + number).double())
        if name == "bn.running_var":
            moved[:8] = tensor[:8].double() * torch.logspace(-6, 6, 8, dtype=torch.float64)
        made[name] = moved.to(tensor.dtype)
    return made


def share_lost(original: Tensors, stored: Tensors, parent: Tensors) -> float:
    lost, moved = (
        sum(float((original[name].double() - other[name].double()).square().sum()) for name in WEIGHTS)
        for other in (stored, parent)
    )
    return lost / moved


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("statistics")
    save_file(base(), place / "base.safetensors")
    save_file(tuned(base()), place / "a.safetensors")
    save_file(tuned(base(), 30), place / "b.safetensors")
    save_file(tuned(tuned(base()), 50), place / "child.safetensors")
    store = Store.init(place / "store")
    store.import_base(place / "base.safetensors", name="base")
    store.commit(place / "a.safetensors", name="a")
    store.commit(place / "b.safetensors", name="b")
    store.commit(place / "child.safetensors", parent="a", name="child")
    return place


def stored(place: Path, revision: str) -> Tensors:
    weights = Store.open(place / "store").state_dict(revision)
    return {name: weights[name] for name in weights}


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("layer1.0.bn1.running_var", (64,), Role.STATISTIC),
        ("bn/moving_variance", (64,), Role.STATISTIC),
        ("quantizer.cluster_size", (1024,), Role.STATISTIC),
        ("vq.embed_avg", (1024, 64), Role.WEIGHT),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (32,), Role.STATISTIC),
        ("freqs_cis", (128, 32), Role.STATISTIC),
        ("q_proj.weight_scale_inv", (32, 112), Role.STATISTIC),
        ("act.input_amax", (), Role.STATISTIC),
        ("logit_scale", (), Role.STATISTIC),
        ("encoder.layers.3.norm.scale", (512,), Role.WEIGHT),
        ("conv.weight_v", (64, 3, 3, 3), Role.WEIGHT),
        ("conv.weight_u", (64,), Role.STATISTIC),
        ("normalizer.mean", (80,), Role.STATISTIC),
        ("means", (80,), Role.WEIGHT),
        ("running.weight", (80, 80), Role.WEIGHT),
    ],
)
def test_names_and_shapes_tell_statistics_from_weights(name: str, shape: tuple[int, ...], role: Role) -> None:
    assert roles_of({name: TensorInfo(name, "F32", shape)}) == {name: role}


def test_integers_and_codes_are_no_statistics() -> None:
    batches, codes = TensorInfo("bn.num_batches_tracked", "I64", ()), TensorInfo("gain", "F8_E4M3", ())
    assert set(roles_of({each.name: each for each in (batches, codes)}).values()) == {Role.WEIGHT}
    assert roles_of({"s": TensorInfo("input_scale", "F8_E4M3", (8, 4))}) == {
        "s": Role.STATISTIC
    }  # though its codes are unknown


@pytest.mark.parametrize("quality", [Quality(), Quality(budget=12_000), Quality(max_error=0.3), Quality(exact=True)])
def test_statistics_are_exact_and_the_bound_is_over_weights(place: Path, quality: Quality, tmp_path: Path) -> None:
    original, start = tuned(base()), base()
    store = Store.init(tmp_path / "store")
    store.import_base(place / "base.safetensors", name="base")
    done = store.commit(place / "a.safetensors", name="a", quality=quality)
    found = {name: store.state_dict("a")[name] for name in original}
    assert all(torch.equal(found[name], original[name]) for name in EXACT)
    assert done.tensors["dense"] == len(EXACT)
    if not quality.exact:
        assert 0 < done.relative_error <= quality.max_error
        assert done.relative_error == pytest.approx(share_lost(original, found, start), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_of_any_type(dtype: torch.dtype, tmp_path: Path) -> None:
    start = {name: tensor / 64 for name, tensor in base(dtype).items()}
    original = tuned(start)
    save_file(start, tmp_path / "base.safetensors")
    save_file(original, tmp_path / "a.safetensors")
    store = Store.init(tmp_path / "store")
    done = store.commit(tmp_path / "a.safetensors", base=str(tmp_path / "base.safetensors"))
    found = store.state_dict("a")
    assert all(torch.equal(found[name], original[name]) for name in EXACT)
    assert done.relative_error <= 0.01


def test_along_chains_and_flattened(place: Path) -> None:
    original = tuned(tuned(base()), 50)
    store = Store.open(place / "store")
    store.flatten("child", name="flat")
    assert all(torch.equal(stored(place, name)[key], original[key]) for name in ("child", "flat") for key in EXACT)


def test_merges_average_them(place: Path) -> None:
    a, b = tuned(base()), tuned(base(), 30)
    Store.open(place / "store").merge(["a", "b"], name="mean")
    mean = stored(place, "mean")
    for name in EXACT:
        torch.testing.assert_close(mean[name], ((a[name].double() + b[name].double()) / 2).float(), rtol=1e-6, atol=0)


def test_the_bound_of_a_merge_is_over_weights(place: Path) -> None:
    store = Store.open(place / "store")
    store.merge(["a", "b"], name="bounded")
    mean, a, b = stored(place, "bounded"), tuned(base()), tuned(base(), 30)
    lost = sum(float((mean[n].double() - (a[n].double() + b[n].double()) / 2).square().sum()) for n in WEIGHTS)
    moved = sum(float((each[n].double() - base()[n].double()).square().sum()) for each in (a, b) for n in WEIGHTS) / 4
    bound = store.show("bounded").error_bound
    assert bound is not None
    assert lost / moved <= bound <= 0.03


def test_show_knows_how_far_they_moved(place: Path) -> None:
    found = {tensor.name: tensor for tensor in Store.open(place / "store").show("a").tensors}
    variance = found["bn.running_var"]
    moved = float((tuned(base())["bn.running_var"].double() - base()["bn.running_var"].double()).square().sum())
    assert (variance.sections, variance.squared_error, variance.relative_error) == (("dense",), 0.0, 0.0)
    assert variance.squared_norm == pytest.approx(moved, rel=1e-3)


def test_recalibrated_statistics_alone(place: Path, tmp_path: Path) -> None:
    original = base() | {name: tuned(base())[name] for name in EXACT}
    save_file(original, tmp_path / "recalibrated.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(place / "base.safetensors", name="base")
    for name, quality in (("default", Quality()), ("budget", Quality(budget=20_000))):
        done = store.commit(tmp_path / "recalibrated.safetensors", name=name, quality=quality)
        assert done.relative_error == done.distance == 0
        assert done.tensors == {"dense": len(EXACT), "unchanged": len(WEIGHTS)}
        store.checkout(name, tmp_path / f"{name}.safetensors")
        found = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(found[key], original[key]) for key in original)


def test_the_sum_alone_is_as_it_was(place: Path, tmp_path: Path) -> None:
    store = Store.init(tmp_path / "store")
    store.import_base(place / "base.safetensors", name="base")
    done = store.commit(place / "a.safetensors", name="a", quality=Quality(objective="frobenius"))
    assert "dense" not in done.tensors
    assert torch.equal(store.state_dict("a")["fc.weight"], base()["fc.weight"])
