"""Commits at the edges: zeros of either sign, extremes, ere below exact, names, bases and versions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import ConflictError, NotFoundError, UsageError

EXACT = Quality(exact=True)


def write(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.init(tmp_path / "store")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=generator)
    weight[0] = 0
    store.import_base(write(tmp_path / "base", w=weight), name="base")
    return store


def changed(store: Store, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randn(size, 3, generator=generator) for size in (40, 30)]
    return store.state_dict("base")["w"] + 0.1 * sides[0] @ sides[1].T


@pytest.mark.parametrize("quality", [Quality(), EXACT])
def test_zeros_of_the_other_sign_are_no_change_but_are_kept_when_exact(
    store: Store, tmp_path: Path, quality: Quality
) -> None:
    weight = store.state_dict("base")["w"].clone()
    weight[0] = -0.0
    result = store.commit(write(tmp_path / "ft", w=weight), base="base", quality=quality)
    assert result.relative_error == 0
    assert same_bits(store.state_dict("ft")["w"], weight) == quality.exact


@pytest.mark.parametrize(
    ("dtype", "before", "after"),
    [
        (torch.float32, -3e38, 3e38),
        (torch.float64, 1e-53, 2e-53),
        (torch.float64, 1e200, 2e200),
        (torch.float32, 1e-42, 3e-42),
        (torch.float16, 6e4, -6e4),
    ],
)
def test_extremes_are_kept(tmp_path: Path, dtype: torch.dtype, before: float, after: float) -> None:
    store = Store.init(tmp_path / "store")
    store.import_base(write(tmp_path / "base", w=torch.full((40, 30), before, dtype=dtype)), name="base")
    tuned = torch.full((40, 30), after, dtype=dtype)
    tuned[3, 4] = before
    store.commit(write(tmp_path / "ft", w=tuned), base="base", quality=EXACT)
    assert same_bits(store.state_dict("ft")["w"], tuned)


def test_exact_over_an_ere_ancestor_is_refused(store: Store, tmp_path: Path) -> None:
    store.commit(write(tmp_path / "e", w=changed(store)), base="base", quality=Quality(codec="ere", rank=2))
    with pytest.raises(UsageError, match="ere"):
        store.commit(write(tmp_path / "x", w=changed(store, 2)), parent="e", quality=EXACT)


def test_ere_carries_no_digests(store: Store, tmp_path: Path) -> None:
    store.commit(write(tmp_path / "e", w=changed(store)), base="base", quality=Quality(codec="ere", rank=2))
    assert not store.manifest_of("e").digests
    store.commit(write(tmp_path / "l", w=changed(store)), base="base")
    assert set(store.manifest_of("l").digests) == {"w"}


def test_the_same_files_again_are_nothing_to_commit(store: Store, tmp_path: Path) -> None:
    folder = write(tmp_path / "ft", w=changed(store))
    first = store.commit(folder, base="base")
    again = store.commit(folder, base="base")
    assert (again.commit, again.stored_bytes, again.unchanged) == (first.commit, 0, True)
    better = store.commit(folder, base="base", quality=Quality(max_error=0.001))
    assert better.commit != first.commit
    assert better.parents == (first.commit,)


def test_a_base_that_is_given_is_never_ignored(store: Store, tmp_path: Path) -> None:
    store.commit(write(tmp_path / "ft", w=changed(store)), base="base")
    other = write(tmp_path / "other", w=torch.ones(40, 30))
    folder = write(tmp_path / "ft", w=changed(store, 2))
    with pytest.raises(NotFoundError, match="typo"):
        store.commit(folder, base="typo")
    with pytest.raises(ConflictError, match="not a variant"):
        store.commit(folder, base=str(other))
    with pytest.raises(UsageError, match="is a variant"):
        store.commit(folder, base="ft", name="new")
    with pytest.raises(UsageError, match="is a variant"):
        store.commit(folder, base="ft", parent="ft", name="new")


def test_a_parent_outside_a_branch_does_not_take_its_name(store: Store, tmp_path: Path) -> None:
    store.commit(write(tmp_path / "ft", w=changed(store)), base="base")
    with pytest.raises(ConflictError, match="does not continue"):
        store.commit(write(tmp_path / "ft", w=changed(store, 2)), parent="base", name="ft")
    store.commit(write(tmp_path / "ft", w=changed(store, 2)), parent="ft", name="ft")
    assert len(store.log(["ft"])) == 3


def test_a_base_in_the_hugging_face_cache_by_its_snapshot(store: Store, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("0123456789" * 4)
    write(snapshot, w=torch.zeros(40, 30))
    result = store.commit(write(tmp_path / "ft", w=torch.ones(40, 30)), base=str(snapshot))
    assert result.imported == "org/name"
