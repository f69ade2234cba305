"""Measuring second moments of what goes into a live model's linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch

from erestore.arrays import as_tensor
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import describe
from erestore.checkpoint.names import Match, match_names
from erestore.errors import CheckpointError, UsageError
from erestore.objects.calibration import Moments, block_ranges
from erestore.records import WholeTensor
from erestore.variant.variant import Variant

ModelInputs = Mapping[str, Any] | tuple[Any, ...] | torch.Tensor
"""One call of a model: keyword arguments, positional ones, or the only one."""


@dataclass
class _Sums:
    """Sums of products of one layer's inputs, float32, block by block."""

    blocks: list[torch.Tensor]
    rows: int = 0

    @classmethod
    def of(cls, rows: torch.Tensor) -> Self:
        """Sum over the rows of one call, ``(rows, inputs)``."""
        parts = [rows[:, start:stop] for start, stop in block_ranges(rows.shape[1])]
        return cls([part.T @ part for part in parts], len(rows))

    def add(self, other: _Sums) -> None:
        """Add another's sums."""
        for block, more in zip(self.blocks, other.blocks, strict=True):
            block.add_(more)
        self.rows += other.rows

    def equals(self, other: _Sums) -> bool:
        """Return whether all sums are the same."""
        return self.rows == other.rows and all(map(torch.equal, self.blocks, other.blocks))


@dataclass
class _Watch:
    """Sees the inputs of layers."""

    sums: dict[str, _Sums] = field(default_factory=dict)
    mask: torch.Tensor | None = None
    last: tuple[torch.Tensor, _Sums] | None = None
    """What a layer got last, held so that none takes its place in memory: query, key and value get one and the same tensor."""

    def begin(self, inputs: ModelInputs) -> None:
        """Get ready for one call of the model."""
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        self.mask = mask if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
        self.last = None

    def look(self, key: str, _module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """See one layer's inputs; a hook."""
        inputs = arguments[0] if arguments else named["input"]
        if self.last is None or self.last[0] is not inputs:
            self.last = inputs, _Sums.of(self._rows(inputs))
        if key in self.sums:
            self.sums[key].add(self.last[1])
        else:
            self.sums[key] = _Sums([block.clone() for block in self.last[1].blocks], self.last[1].rows)

    def _rows(self, inputs: torch.Tensor) -> torch.Tensor:
        values = inputs.detach()
        if self.mask is not None and values.ndim == 3 and values.shape[:2] == self.mask.shape:
            values = values[self.mask.to(values.device, torch.bool)]
        return values.reshape(-1, values.shape[-1]).to("cpu", torch.float32)


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
        If the model has another architecture than the base, or cannot be run on what it is given.
    UsageError
        If there is no linear layer, none saw anything, or what one saw is not finite.
    """
    match = match_model(model, base)
    watch = _Watch()
    with ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        linear = {
            key: module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and (key := match.keys.get(f"{name}.weight".removeprefix(".")))
        }
        if not linear:
            raise UsageError(
                "The model has no layer that a calibration is for (torch.nn.Linear with weights of the base).",
                hint="Commits on this base round as they do without one.",
            )
        for key, module in linear.items():
            stack.callback(module.register_forward_pre_hook(partial(watch.look, key), with_kwargs=True).remove)
        for inputs in batches:
            watch.begin(inputs)
            call_model(model, inputs)
            called()
    if not any(sums.rows for sums in watch.sums.values()):
        raise UsageError("No linear layer of the model got any input.", hint="Give some examples to calibrate with.")
    for key, sums in watch.sums.items():
        if not all(bool(torch.isfinite(block).all()) for block in sums.blocks):
            raise UsageError(f"What goes into '{key}' is not finite for these examples.", hint="Give other examples.")
    return _shared(watch.sums)


def match_model(model: torch.nn.Module, base: Mapping[str, WholeTensor]) -> Match:
    """Match a live model's names to those of a base; see :func:`measure_moments`."""
    tensors = {name: TensorInfo(name, *describe(tensor, name)) for name, tensor in model.state_dict().items()}
    match = match_names(tensors, base)
    match.require_same_architecture()
    return match


def fill_model(model: torch.nn.Module, variant: Variant) -> None:
    """Give a live model the base's weights, wherever it has them."""
    keys = match_model(model, variant.base).keys
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in keys and variant.base[keys[name]].shape == tuple(tensor.shape):
                tensor.copy_(as_tensor(variant.base_tensor(keys[name])))


def _shared(sums: Mapping[str, _Sums]) -> dict[str, Moments]:
    """Return means of sums; layers whose sums are the same, as those of query, key and value are, share theirs."""
    distinct: list[tuple[_Sums, Moments]] = []
    measured: dict[str, Moments] = {}
    for key, layer in sums.items():
        same = next((moments for other, moments in distinct if layer.equals(other)), None)
        if same is None:
            same = Moments(tuple(block.to(torch.float64) / max(1, layer.rows) for block in layer.blocks))
            distinct.append((layer, same))
        measured[key] = same
    return measured


def call_model(model: torch.nn.Module, inputs: ModelInputs) -> Any:
    """Run a model once and return its answer.

    Raises
    ------
    CheckpointError
        If it cannot be run on what it is given.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    except Exception as error:  # whatever a model can raise
        reason = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
        raise CheckpointError(
            f"The model cannot be run on these examples ({type(error).__name__}: {reason}).",
            hint="Give inputs that the model takes, from Python: the arguments `inputs` and `model`.",
        ) from error
