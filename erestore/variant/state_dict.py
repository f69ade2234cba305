"""The tensors of a variant as a mapping, which ``model.load_state_dict`` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from erestore.variant.variant import Variant

if TYPE_CHECKING:
    import torch


class StateDict(Mapping[str, "torch.Tensor"]):
    """The tensors of a variant by their own names; each is read when it is asked for, and not kept.

    Attributes
    ----------
    variant : Variant
    """

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.variant.layout.tensors:
            raise KeyError(name)
        return self.variant.tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self.variant.layout.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.variant.layout.tensors)

    def __len__(self) -> int:
        return len(self.variant.layout.tensors)
