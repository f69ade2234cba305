"""What a commit says it lost is what it lost, and never more than was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
TYPES = {F32: np.float32, F16: np.float16, F64: np.float64}

Tensors = dict[str, torch.Tensor]


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def base() -> Tensors:
    shapes = {"embed": (70, 40), "dense": (50, 60), "conv": (24, 6, 3, 3), "norm": (40,), "bias": (50,)}
    return {name: random(shape, number).to(F32) for number, (name, shape) in enumerate(shapes.items())}


def tuned(start: Tensors, dtype: torch.dtype, seed: int = 50) -> Tensors:
    """Low rank and noise of several sizes, with weight decay."""
    found = {}
    for number, (name, tensor) in enumerate(start.items()):
        change = 0.01 * random(tuple(tensor.shape), seed + number)
        if tensor.ndim > 1:
            rows = tensor.shape[0]
            sides = random((rows, 3), seed + 10 + number), random((3, tensor[0].numel()), seed + 20 + number)
            change = change + (0.05 * sides[0] @ sides[1]).view(tensor.shape)
        found[name] = (0.99 * tensor.to(F64) + change).to(dtype)
    return found


def values(tensor: torch.Tensor) -> np.ndarray:
    """Return float64 values without torch's conversion of narrow dtypes."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    if tensor.dtype == BF16:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64).reshape(tensor.shape)
    return raw.view(TYPES[tensor.dtype]).astype(np.float64).reshape(tensor.shape)


def lost_share(original: Tensors, found: Tensors, parent: Tensors) -> float:
    """``relative_error`` by its definition; the parent's values are rounded to the original's dtype."""
    lost = moved = 0.0
    for name, tensor in original.items():
        if name not in parent:
            continue
        rows = slice(min(len(tensor), len(parent[name])))
        lost += float(((values(tensor)[rows] - values(found[name])[rows]) ** 2).sum())
        before = parent[name].to(tensor.dtype)
        moved += float(((values(tensor)[rows] - values(before)[rows]) ** 2).sum())
    return lost / moved


def write(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place = tmp_path_factory.mktemp("quality")
    store = Store.init(place / "store")
    store.import_base(write(place / "base.safetensors", base()), name="base")
    store.import_base(
        write(place / "narrow.safetensors", {name: tensor.to(BF16) for name, tensor in base().items()}), name="narrow"
    )
    return store


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("error", [0.3, 0.05, 0.01, 1e-3, 1e-5])
def test_the_error_is_what_is_reported_and_within_what_was_asked(
    store: Store, tmp_path: Path, dtype: torch.dtype, error: float
) -> None:
    original = tuned(base(), dtype)
    result = store.commit(
        write(tmp_path / "ft.safetensors", original),
        base="base",
        name=f"{dtype}-{error}"[6:],
        quality=Quality(max_error=error),
    )
    found = dict(store.state_dict(result.ref))
    assert result.relative_error == pytest.approx(lost_share(original, found, base()), rel=1e-9, abs=1e-30)
    assert result.relative_error <= error
    if dtype == F32:
        assert result.relative_error >= 0.5 * error  # nothing is spent on what nobody asked for


def test_smaller_errors_take_more_bytes(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "ft.safetensors", tuned(base(), F32, 90))
    sizes = [
        store.commit(path, base="base", name=f"size-{error}", quality=Quality(max_error=error)).stored_bytes
        for error in (0.3, 0.03, 3e-3, 3e-4)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 3


@pytest.mark.parametrize(
    ("on", "dtype"),
    [("base", BF16), ("base", F16), ("base", F64), ("narrow", F32), ("narrow", F16), ("narrow", F64)],
    ids=str,
)
@pytest.mark.parametrize("exact", [False, True])
def test_a_fine_tune_in_another_dtype_than_its_base(
    store: Store, tmp_path: Path, on: str, dtype: torch.dtype, exact: bool
) -> None:
    parent = dict(store.state_dict(on))
    original = tuned(parent, dtype)
    name = f"{on}-{dtype}-{exact}".replace("torch.", "")
    result = store.commit(
        write(tmp_path / "ft.safetensors", original), base=on, name=name, quality=Quality(exact=exact, max_error=0.02)
    )
    found = dict(store.state_dict(name))
    assert all(found[key].dtype == dtype for key in original)
    if exact:
        assert all(np.array_equal(values(found[key]), values(original[key])) for key in original)
        assert result.relative_error == 0
    else:
        assert result.relative_error == pytest.approx(lost_share(original, found, parent), rel=1e-9)
        assert result.relative_error <= 0.02


@pytest.mark.parametrize("rows", [73, 61])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_a_vocabulary_that_grew_or_shrank(store: Store, tmp_path: Path, rows: int, dtype: torch.dtype) -> None:
    original = tuned(base(), dtype)
    original["embed"] = torch.cat([original["embed"], random((3, 40), 5).to(dtype)])[:rows].contiguous()
    original["head"] = random((2, 40), 6).to(dtype)
    name = f"rows-{rows}-{dtype}".replace("torch.", "")
    result = store.commit(write(tmp_path / "ft.safetensors", original), base="base", name=name)
    found = dict(store.state_dict(name))
    assert np.array_equal(values(found["embed"])[70:], values(original["embed"])[70:])
    assert np.array_equal(values(found["head"]), values(original["head"]))
    assert result.relative_error == pytest.approx(lost_share(original, found, base()), rel=1e-9)
    assert result.relative_error <= 0.01
    manifest = store.manifest_of(name)
    assert set(manifest.rows) == ({"embed"} if rows > 70 else set())
    residual = store.objects.open("residual", manifest.terms[0].residual).index["tensors"]["embed"]
    assert residual["shape"] == [min(rows, 70), 40]


def test_errors_of_tensors_add_up_to_the_commit_s(store: Store, tmp_path: Path) -> None:
    original = tuned(base(), F32, 300)
    result = store.commit(write(tmp_path / "ft.safetensors", original), base="base", name="ledger")
    found = dict(store.state_dict("ledger"))
    held = store.objects.open("residual", store.manifest_of("ledger").terms[0].residual).index["tensors"]
    total = norm = 0.0
    for name in base():
        lost = float(((values(original[name]) - values(found[name])) ** 2).sum())
        moved = float(((values(original[name]) - values(base()[name])) ** 2).sum())
        if name in held:  # what is not worth a section loses all that it moved
            errors = {kind: float(text) for kind, text in held[name]["errors"].items()}
            assert (errors["rounded"], errors["norm"]) == pytest.approx((lost, moved), rel=1e-3)
            lost, moved = errors["rounded"], errors["norm"]
        total, norm = total + lost, norm + moved
    assert total / norm == pytest.approx(result.relative_error, rel=1e-3)


def test_the_parent_s_loss_is_made_up_for_by_the_child(store: Store, tmp_path: Path) -> None:
    """A child is encoded against what its parent decodes to: its error is its own."""
    first = tuned(base(), F32, 400)
    second = tuned(first, F32, 500)
    store.commit(write(tmp_path / "a.safetensors", first), base="base", name="coarse", quality=Quality(max_error=0.3))
    parent = dict(store.state_dict("coarse"))
    result = store.commit(write(tmp_path / "b.safetensors", second), parent="coarse", name="fine")
    found = dict(store.state_dict("fine"))
    assert result.relative_error == pytest.approx(lost_share(second, found, parent), rel=1e-9)
    assert result.relative_error <= 0.01


def test_nothing_changed_nothing_lost(store: Store, tmp_path: Path) -> None:
    result = store.commit(write(tmp_path / "same.safetensors", base()), base="base", name="same")
    assert (result.relative_error, result.tensors) == (0.0, {"unchanged": 5})
    assert store.manifest_of("same").terms == ()
