"""A store with variants of all sorts on one base, and what each changed of it, densely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.checkpoint.dtypes import is_floating
from erestore.encoding.quality import Quality
from erestore.history.revision import open_revision

NAMES = ("adapter", "child", "coarse", "merged", "one", "two")


def adapter(directory: Path) -> Path:
    """Write a LoRA adapter of one layer."""
    generator = torch.Generator().manual_seed(40)
    directory.mkdir()
    prefix = "base_model.model.dense.lora_"
    save_file(
        {
            f"{prefix}A.weight": torch.randn(3, 48, generator=generator),
            f"{prefix}B.weight": 0.1 * torch.randn(32, 3, generator=generator),
        },
        directory / "adapter_model.safetensors",
    )
    (directory / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["dense"], "base_model_name_or_path": "base"}'
    )
    return directory


def moved(tensors: tiny.Tensors, step: float) -> tiny.Tensors:
    """Move what is no matrix as well, far enough for it to be stored."""
    return {
        name: tensor + step * torch.linspace(0.5, 1, tensor.numel()).reshape(tensor.shape)
        if tensor.is_floating_point() and tensor.ndim < 2
        else tensor
        for name, tensor in tensors.items()
    }


def fleet(directory: Path) -> Store:
    """Make variants with factors, remainders, multiples of the base, chains, a merge, and a vocabulary that shrank."""
    store = Store.init(directory / "store")
    base = tiny.base_weights()
    store.import_base(tiny.write_model(directory / "base", base), name="base")
    one = moved(tiny.tuned(base, 1), 0.05)
    store.commit(tiny.write_model(directory / "one", one), base="base", name="one")
    two = {
        name: 0.9 * tensor if tensor.ndim == 2 and tensor.is_floating_point() else tensor
        for name, tensor in base.items()
    }
    two = {name: tensor[:60] if name == "embedding.weight" else tensor for name, tensor in tiny.tuned(two, 2).items()}
    store.commit(tiny.write_model(directory / "two", two), base="base", name="two")
    store.commit(
        tiny.write_model(directory / "coarse", tiny.tuned(base, 3)),
        base="base",
        name="coarse",
        quality=Quality(max_error=0.3),
    )
    store.commit(tiny.write_model(directory / "child", moved(tiny.tuned(one, 4), -0.02)), parent="one", name="child")
    store.commit(adapter(directory / "adapter"), base="base", name="adapter")
    store.merge(["2*one - 1/3*coarse"], name="merged")
    return store


def linear(store: Store, revision: str, keys: list[str]) -> np.ndarray:
    """Return the linear values of tensors as one vector."""
    variant = open_revision(store, revision).variant(store, lossy=True)
    found = []
    for key in keys:
        tensor = variant.linear(key)
        found.append(tensor.rows(0, len(tensor.base)).reshape(-1))
    return np.concatenate(found)


def floating_keys(store: Store) -> list[str]:
    """List the base's floating tensors."""
    base = open_revision(store, "base").variant(store).base
    return sorted(key for key, tensor in base.items() if is_floating(tensor.dtype))


def changes(store: Store, names: tuple[str, ...]) -> np.ndarray:
    """Return ``variant - base`` of several variants, one a row."""
    keys = floating_keys(store)
    base = linear(store, "base", keys)
    return np.stack([linear(store, name, keys) - base for name in names])
