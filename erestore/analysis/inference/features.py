"""What a model answers under altered weights, and how much that is like what it answers without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from erestore.analysis.inference.input_moments import ModelInputs, call_model
from erestore.checkpoint.abc import TensorInfo
from erestore.checkpoint.dtypes import describe
from erestore.checkpoint.names import match_names
from erestore.errors import CheckpointError, UsageError
from erestore.execute import bounded_map, tensor_threads, worker_count
from erestore.spool import TensorSpool
from erestore.variant.variant import Variant

Features = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
"""Weights by name, each made when it is asked for, to features of some inputs: ``(inputs, ...)``, or ``(n,)`` of one."""


@dataclass
class ModelFeatures:
    """Features of a live model, which takes the weights that it is given.

    Attributes
    ----------
    model : torch.nn.Module
    names : Mapping[str, str]
        The model's names to the variant's.
    batches : sequence of ModelInputs
    kind : str
        What was taken of the model's answer: ``last hidden state``, ``logits`` or ``output``; empty before the first call.
    """

    model: torch.nn.Module
    names: Mapping[str, str]
    batches: Sequence[ModelInputs]
    kind: str = ""

    @classmethod
    def of(cls, model: torch.nn.Module, batches: Sequence[ModelInputs], variant: Variant) -> ModelFeatures:
        """Match a model to a variant.

        Raises
        ------
        CheckpointError
            If they are of different architectures, or sizes.
        """
        tensors = {name: TensorInfo(name, *describe(tensor, name)) for name, tensor in model.state_dict().items()}
        match = match_names(tensors, variant.layout.tensors)
        match.require_same_architecture()
        for name, key in match.keys.items():
            if tensors[name].shape != variant.layout.tensors[key].shape:
                raise CheckpointError(
                    f"The model's tensor '{name}' is {list(tensors[name].shape)}, and the variant's is "
                    f"{list(variant.layout.tensors[key].shape)}.",
                    hint="Give a model of the variant's own configuration.",
                )
        return cls(model, match.keys, batches)

    def __call__(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Put weights into the model and return what it answers, ``(inputs, ...)`` in float64."""
        state = self.model.state_dict()
        with torch.no_grad():
            with tensor_threads() as executor:
                values = bounded_map(executor, weights.__getitem__, self.names.values(), in_flight=worker_count())
                for name, value in zip(self.names, values, strict=True):
                    state[name].copy_(value)
            return torch.cat([self._features(inputs) for inputs in self.batches])

    def _features(self, inputs: ModelInputs) -> torch.Tensor:
        answer, self.kind = _answer(call_model(self.model, inputs))
        values = answer.detach().to("cpu", torch.float64)
        if values.ndim == 3:
            mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
            return _mean_over_positions(values, mask)
        return values.flatten(start_dim=1) if values.ndim > 1 else values.reshape(1, -1)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Give the model its own weights back afterwards; they wait outside memory."""
        state = self.model.state_dict()
        with TensorSpool(torch.uint8) as spool, torch.no_grad():
            for name in self.names:
                spool.put(name, state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8))
            modes = {module: module.training for module in self.model.modules()}
            self.model.eval()
            try:
                yield
            finally:
                for name in self.names:
                    state[name].copy_(spool.get(name).view(state[name].dtype).reshape(state[name].shape))
                for module, mode in modes.items():
                    module.training = mode


@dataclass(frozen=True, eq=False)
class ReferenceFeatures:
    """What the variant itself answers.

    Attributes
    ----------
    features : torch.Tensor
        Float64 ``(inputs, values)``.
    """

    features: torch.Tensor

    @classmethod
    def of(cls, features: Features, weights: Mapping[str, torch.Tensor]) -> ReferenceFeatures:
        """Ask the unaltered variant.

        Raises
        ------
        UsageError
            If what it answers cannot be compared: nothing, zeros, NaN or infinity.
        """
        rows = _rows(features(weights))
        if not rows.numel():
            raise UsageError("There are no features to compare.", hint="Give some texts or inputs of the model.")
        if not bool(torch.isfinite(rows).all()):
            raise UsageError("What the variant answers to these inputs is not finite.", hint="Give other inputs.")
        if not bool(rows.abs().amax(dim=1).all()):
            raise UsageError("What the variant answers to one of these inputs is zero.", hint="Give other inputs.")
        return cls(rows)

    def cosine(self, features: Features, weights: Mapping[str, torch.Tensor]) -> float | None:
        """Return the mean cosine with what other weights answer; None where that is not finite, or zero.

        Raises
        ------
        UsageError
            If they answer in another shape.
        """
        rows = _rows(features(weights))
        if rows.shape != self.features.shape:
            raise UsageError(
                f"The features have the shape {list(rows.shape)} under altered weights, else {list(self.features.shape)}.",
                hint="Return features of the same inputs each time.",
            )
        sizes = rows.norm(dim=1) * self.features.norm(dim=1)
        if not bool(torch.isfinite(sizes).all()) or not bool(sizes.all()):
            return None
        return float(((rows * self.features).sum(dim=1) / sizes).mean().clamp(-1, 1))


def _rows(features: Any) -> torch.Tensor:
    if not isinstance(features, torch.Tensor) or features.is_complex():
        raise UsageError(
            f"Features are a real tensor, and this is a {type(features).__name__}.",
            hint="Return a tensor, a row an input.",
        )
    values = features.detach().to("cpu", torch.float64)
    return values.flatten(start_dim=1) if values.ndim > 1 else values.reshape(1, -1)


def _answer(output: Any) -> tuple[torch.Tensor, str]:
    """Return what stands for a model's answer, and what it is."""
    for name in ("last_hidden_state", "logits"):
        if isinstance(tensor := getattr(output, name, None), torch.Tensor):
            return tensor, name.replace("_", " ")
    values = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else [output]
    )
    tensor = next((value for value in values if isinstance(value, torch.Tensor)), None)
    if tensor is None:
        raise CheckpointError(
            f"The model returns a {type(output).__name__}, in which there is no tensor to compare.",
            hint="Give a function of the weights from Python: Store.probe(revision, features=function).",
        )
    return tensor, "output"


def _mean_over_positions(values: torch.Tensor, mask: Any) -> torch.Tensor:
    """Return the mean over the second of three dimensions, of positions that a mask of the first two does not leave out."""
    if not isinstance(mask, torch.Tensor) or mask.shape != values.shape[:2]:
        return values.mean(dim=1)
    weights = mask.to("cpu", torch.float64).unsqueeze(-1)
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
