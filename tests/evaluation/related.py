"""Fleets of fine-tunes that have something in common, which is not in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality

Tensors = dict[str, torch.Tensor]

SHAPES = {"one.weight": (96, 80), "two.weight": (80, 96), "bias": (96,)}


class Related:
    """A store with a base, and fine-tunes that start from shifted copies of it; what each was made from.

    Parameters
    ----------
    place : Path
    seed : int
    dtype : torch.dtype
    """

    def __init__(self, place: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.place, self.dtype = place, dtype
        self.random = torch.Generator().manual_seed(seed)
        self.store = Store.init(place / "store")
        self.base = {name: 0.05 * self.noise(*shape) for name, shape in SHAPES.items()}
        self.originals: dict[str, Tensors] = {}
        self.store.import_base(self.save("base", self.base), name="base")

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random)

    def shift(self, size: float = 0.004) -> Tensors:
        """What many have in common: of full rank."""
        return {name: size * self.noise(*shape) for name, shape in SHAPES.items()}

    def own(self, size: float = 0.002, rank: int = 2) -> Tensors:
        """What one has for itself: of low rank."""
        return {
            name: size
            * (self.noise(shape[0], rank) @ self.noise(rank, shape[1]) if len(shape) > 1 else self.noise(*shape))
            for name, shape in SHAPES.items()
        }

    def save(self, name: str, tensors: Tensors) -> Path:
        path = self.place / name
        path.mkdir(parents=True)
        save_file({key: tensor.to(self.dtype) for key, tensor in tensors.items()}, path / "model.safetensors")
        return path

    def tune(
        self, name: str, *changes: Mapping[str, torch.Tensor], quality: Quality | None = None, **more: Any
    ) -> None:
        """Commit the base with changes; `more` are other tensors, or the parent."""
        parent = more.pop("parent", None)
        tensors = {key: value + sum(change[key] for change in changes) for key, value in self.base.items()} | more
        self.originals[name] = {key: tensor.to(self.dtype) for key, tensor in tensors.items()}
        where = {"base": "base"} if parent is None else {"parent": parent}
        self.store.commit(self.save(name, tensors), name=name, quality=quality or Quality(max_error=1e-3), **where)

    def fleet(self, count: int, quality: Quality | None = None, size: float = 0.004) -> list[str]:
        """Commit variants that share one shift."""
        shift = self.shift(size)
        names = [f"v{number:02}" for number in range(count)]
        for name in names:
            self.tune(name, shift, self.own(), quality=quality)
        return names

    def values(self, names: Sequence[str] = ()) -> dict[str, Tensors]:
        """Decode variants."""
        return {name: dict(self.store.state_dict(name)) for name in names or self.originals}

    def lost(self, before: Tensors, after: Tensors) -> float:
        """Squared error over the squared norm of what `before` changed of the base."""
        error = norm = 0.0
        for key, value in self.base.items():
            error += float((after[key].double() - before[key].double()).square().sum())
            norm += float((before[key].double() - value.to(self.dtype).double()).square().sum())
        return error / norm
