"""Measuring second moments of what goes into a live model's linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch

from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import describe
from erestore.checkpoint.naming import match_names
from erestore.errors import UsageError
from erestore.model.calibrations import Moments, block_ranges
from erestore.records import WholeTensor

ModelInputs = Mapping[str, Any] | tuple[Any, ...] | torch.Tensor
"""One call of a model: keyword arguments, positional ones, or the only one."""


@dataclass
class _Sums:
    """Sums of products of one layer's inputs, float32, block by block."""

    blocks: list[torch.Tensor]
    rows: int = 0

    @classmethod
    def of(cls, columns: int) -> Self:
        return cls([torch.zeros(stop - start, stop - start) for start, stop in block_ranges(columns)])

    def add(self, rows: torch.Tensor) -> None:
        for block, (start, stop) in zip(self.blocks, block_ranges(rows.shape[1]), strict=True):
            part = rows[:, start:stop]
            block.addmm_(part.T, part)
        self.rows += len(rows)


@dataclass
class _Watch:
    """Sees the inputs of layers. Those that get one and the same tensor, as query, key and value do, share their sums."""

    sums: dict[str, _Sums] = field(default_factory=dict)
    leaders: dict[str, str] = field(default_factory=dict)
    mask: torch.Tensor | None = None
    seen: list[tuple[torch.Tensor, str]] = field(default_factory=list)
    """Inputs of the running call and who added them; held, so that none takes another's place in memory."""

    def begin(self, inputs: ModelInputs) -> None:
        """Get ready for one call of the model."""
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        self.mask = mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
        self.seen.clear()

    def look(self, key: str, _module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        """See one layer's inputs; a hook."""
        given = arguments[0]
        leader = next((name for tensor, name in self.seen if tensor is given), key)
        if self.leaders.setdefault(key, leader) != key:
            return
        self.seen.append((given, key))
        values = given.detach()
        if self.mask is not None and values.ndim == 3 and values.shape[:2] == self.mask.shape:
            values = values[self.mask.to(torch.bool)]
        rows = values.reshape(-1, values.shape[-1]).to("cpu", torch.float32)
        self.sums.setdefault(key, _Sums.of(rows.shape[1])).add(rows)


def measure_moments(
    model: torch.nn.Module,
    batches: Iterable[ModelInputs],
    base: Mapping[str, WholeTensor],
    called: Callable[[], None],
) -> dict[str, Moments]:
    """Run a model and return the second moments of what its linear layers got, by the base's tensor names.

    Parameters
    ----------
    model : torch.nn.Module
    batches : iterable of ModelInputs
        Positions that an ``attention_mask`` of two dimensions leaves out are not counted.
    base : Mapping[str, WholeTensor]
        The base's tensors; names may differ by a prefix.
    called : Callable
        Called after every batch.

    Raises
    ------
    CheckpointError
        If the model has another architecture than the base.
    UsageError
        If no layer saw anything, or what one saw is not finite.
    """
    own = {name: TensorInfo(name, *describe(tensor, name)) for name, tensor in model.state_dict().items()}
    match = match_names(own, base)
    match.require_same_architecture()
    watch, was_training = _Watch(), model.training
    with ExitStack() as stack, torch.inference_mode():
        stack.callback(model.train, was_training)
        model.eval()
        for name, module in model.named_modules():
            key = match.keys.get(f"{name}.weight".removeprefix("."))
            if key is not None and isinstance(module, torch.nn.Linear):
                stack.callback(module.register_forward_pre_hook(partial(watch.look, key)).remove)
        for inputs in batches:
            watch.begin(inputs)
            _call(model, inputs)
            called()
    if not any(sums.rows for sums in watch.sums.values()):
        raise UsageError("No linear layer of the model got any input.", hint="Give some examples to calibrate with.")
    for key, sums in watch.sums.items():
        if not all(bool(torch.isfinite(block).all()) for block in sums.blocks):
            raise UsageError(f"What goes into '{key}' is not finite for these examples.", hint="Give other examples.")
    measured = {
        key: Moments(tuple(block.to(torch.float64) / max(1, sums.rows) for block in sums.blocks))
        for key, sums in watch.sums.items()
    }
    return {key: measured[leader] for key, leader in watch.leaders.items()}


def _call(model: torch.nn.Module, inputs: ModelInputs) -> None:
    if isinstance(inputs, Mapping):
        model(**inputs)
    elif isinstance(inputs, tuple):
        model(*inputs)
    else:
        model(inputs)
