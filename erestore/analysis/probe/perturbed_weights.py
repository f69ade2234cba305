"""The weights of a variant under an alteration, as a state dict whose tensors are made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from erestore.analysis.probe.perturbation import Alteration
from erestore.analysis.probe.tensors import ProbedVariant
from erestore.arrays import as_tensor, matrix_shape


class AlteredWeights(Mapping[str, torch.Tensor]):
    """All tensors of a variant by its own names; nothing is kept, so that the model is never held twice.

    What is narrower than float32 comes in float32: rounded to its own dtype, a small alteration would drown in the rounding.

    Parameters
    ----------
    probed : ProbedVariant
    alteration : Alteration or None
        None for the variant as it is.
    """

    def __init__(self, probed: ProbedVariant, alteration: Alteration | None) -> None:
        self._variant, self._probed, self._alteration = probed.variant, probed, alteration
        self._targets = {target.key: target for target in probed.targets}

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor_ref = self._variant.layout.tensors.get(name)
        if tensor_ref is None:
            raise KeyError(name)
        value = self._variant.tensor(name)
        if value.is_floating_point() and value.element_size() < 4:
            value = value.to(torch.float32)
        target, alteration = self._targets.get(tensor_ref.key), self._alteration
        if target is None or alteration is None or not alteration.touches(target):
            return value
        tensor = self._probed.around(target, value)
        rows = value.view(matrix_shape(tensor_ref.shape))
        # In place: the rows of a block are not asked for any more once the next block is.
        for (start, stop, change), (_, _, rows_before) in zip(
            alteration.changes(tensor), tensor.blocks("weights"), strict=False
        ):
            rows[start:stop] = as_tensor(rows_before + change)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._variant.layout.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._variant.layout.tensors)

    def __len__(self) -> int:
        return len(self._variant.layout.tensors)
