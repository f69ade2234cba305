"""Chains of residuals: each link stores its own residual only, and a checkout rounds once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.arrays import as_array, as_tensor
from erestore.encoding.quality import Quality
from erestore.objects.residual import Residual
from erestore.variant.variant import Variant

LINKS = 30
SHAPE = (48, 40)


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[torch.Tensor]]:
    """A store with 30 links in bf16 on a float32 base, and the originals."""
    folder = tmp_path_factory.mktemp("chain")
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(SHAPE, generator=generator)
    store = Store.init(folder / "store")
    store.set_setting("commit.flatten_rank", "0")  # a limit would cut the chain
    store.import_base(write(folder / "base", {"w": weight}), name="base")
    originals, parent = [], "base"
    for link in range(LINKS):
        sides = [torch.randn(size, 2, generator=generator) for size in SHAPE]
        weight = weight + 0.05 * sides[0] @ sides[1].T
        originals.append(weight.to(torch.bfloat16))
        name = f"link{link}"
        store.commit(write(folder / name, {"w": originals[-1]}), parent=parent, name=name)
        parent = name
    return store, originals


def test_every_link_meets_its_own_bound_and_errors_do_not_add_up(chain: tuple[Store, list[torch.Tensor]]) -> None:
    store, originals = chain
    before = store.state_dict("base")["w"].to(torch.bfloat16)
    for link in (0, 9, LINKS - 1):
        value = store.state_dict(f"link{link}")["w"]
        change = float((originals[link].double() - (originals[link - 1] if link else before).double()).square().sum())
        lost = float((originals[link].double() - value.double()).square().sum())
        assert lost <= 0.011 * change


def test_each_link_stores_only_its_own_residual(chain: tuple[Store, list[torch.Tensor]]) -> None:
    store, _ = chain
    for link in range(LINKS):
        commit = store.commit_record(store.resolve(f"link{link}"))
        assert len(commit.own) == 1
        assert len(store.manifest_of(f"link{link}").terms) == link + 1
    assert store.commit_record(store.resolve(f"link{LINKS - 1}")).own != store.commit_record(store.resolve("link0")).own


def test_the_last_link_is_the_float64_sum_rounded_once(chain: tuple[Store, list[torch.Tensor]]) -> None:
    store, _ = chain
    manifest = store.manifest_of(f"link{LINKS - 1}")
    total = as_array(store.state_dict("base")["w"].double())
    base = total.copy()
    for term in manifest.terms:
        value = np.zeros(SHAPE)
        for section in Residual.open(store.objects, term.residual).sections("w"):
            value = value + section.rows(0, SHAPE[0], base)
        total = total + value
    found = store.state_dict(f"link{LINKS - 1}")["w"]
    # The sum is far from a tie of bf16 except by chance, so torch's own rounding serves as a reference.
    assert (found != as_tensor(total).to(torch.bfloat16)).sum() <= 1


def test_manifests_are_one_hop_deep(chain: tuple[Store, list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = chain
    kinds: list[str] = []
    read = store.objects.get_record
    monkeypatch.setattr(store.objects, "get_record", lambda kind, oid: kinds.append(kind) or read(kind, oid))
    variant = Variant.open(store.objects, store.commit_record(store.resolve(f"link{LINKS - 1}")).manifest)
    kinds.clear()
    variant.tensor("w")
    assert kinds.count("manifest") == 0


def test_a_next_version_is_encoded_against_the_nearer_of_version_and_base(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    base, change, drift = (torch.randn(64, 64, generator=generator) for _ in range(3))
    store = Store.init(tmp_path / "store")
    store.import_base(write(tmp_path / "base", {"w": base}), name="base")
    first, second, back = base + 0.3 * change, base + 0.3 * change + 0.01 * drift, base + 0.01 * drift
    for number, tensor in enumerate((first, second, back)):
        store.commit(write(tmp_path / str(number), {"w": tensor}), base="base", name="task", quality=Quality())
    newest, middle, oldest = "task", "task~1", "task~2"
    assert len(store.manifest_of(oldest).terms) == 1
    assert len(store.manifest_of(middle).terms) == 2
    assert len(store.manifest_of(newest).terms) == 1, "the base is nearer than the previous version"
    assert store.commit_record(store.resolve(newest)).parents == (store.resolve(middle),)
