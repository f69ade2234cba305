"""Quantised weights: which tensors of a model are codes, which of them scale those, and by which scheme.

Codes mean nothing without their scales: to average the two apart is not to average weights, and an error of codes is none
of weights. They are recognised by names, data types and shapes, as the libraries write them; ``quantization_config`` in
``config.json`` says what these leave open (bits, sizes of blocks). docs/reference/quantised-formats.md lists the schemes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from erestore.checkpoint.quantisation_schemes import ACTIVATIONS, FP8, INTEGERS, SCHEMES, Scheme
from erestore.checkpoint.shapes import QuantisedCodes, Typed

if TYPE_CHECKING:
    from erestore.arrays import Array


@dataclass(frozen=True)
class QuantisedWeight:
    """One weight that is stored as codes.

    Attributes
    ----------
    name : str
        Of the weight, as the model that is not quantised calls it.
    scheme : Scheme
    parts : Mapping[str, str]
        Role to the tensor's name; ``codes`` and what scales them, and ``activation N``.
    block : tuple of int
        How many codes of each dimension one scale is for; empty where that is not known by the shapes, or codes are packed.
    configuration : Mapping[str, Any]
        ``quantization_config`` of the model; empty if it has none.
    """

    name: str
    scheme: Scheme
    parts: Mapping[str, str]
    block: tuple[int, ...] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def form(self) -> str:
        """How the weight is stored, in words: its scheme and the size of its blocks."""
        if not self.block or not self.scheme.dtypes & FP8 or self.scheme.name == "torchao":
            return self.scheme.name
        return f"{self.scheme.name} (blocks of {' × '.join(map(str, self.block))})"

    @property
    def codes(self) -> str:
        """Name of the tensor with the codes."""
        return self.parts["codes"]

    @property
    def members(self) -> tuple[str, ...]:
        """Names of all its tensors."""
        return tuple(self.parts.values())

    def dequantise(self, read: Callable[[str], Array]) -> Array | None:
        """Return the weight, float32; None where its scheme is not computed here or the tensors are not as it says.

        Parameters
        ----------
        read : callable
            Name of a tensor to its array.
        """
        if not self.scheme.value:
            return None
        from erestore.checkpoint import dequantisation

        arrays = {role: read(name) for role, name in self.parts.items() if not role.startswith("activation")}
        weight: Array | None = getattr(dequantisation, self.scheme.value)(arrays, self.configuration)
        return weight


def quantisation_configuration(config: bytes | None) -> Mapping[str, Any]:
    """Return ``quantization_config`` of a ``config.json``, as MLX and older files call it too; empty where there is none."""
    try:
        record = json.loads(config) if config else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    stated = (record.get(key) for key in ("quantization_config", "compression_config", "quantization"))
    return next((quantisation for quantisation in stated if isinstance(quantisation, dict) and quantisation), {})


def stated_quantisation(files: Iterable[str], read: Callable[[str], bytes]) -> Mapping[str, Any]:
    """Return the ``quantization_config`` of a model or of one of its modules; empty where none states any.

    Parameters
    ----------
    files : iterable of str
        The model's side files.
    read : callable
        Name of one to its content.
    """
    names = sorted(
        (name for name in files if PurePosixPath(name).name == "config.json"), key=lambda name: name.count("/")
    )
    return next((configuration for name in names if (configuration := quantisation_configuration(read(name)))), {})


def find_quantised(
    tensors: Mapping[str, Typed], configuration: Mapping[str, Any] | None = None
) -> tuple[QuantisedWeight, ...]:
    """Find the quantised weights among tensors, in their order.

    Parameters
    ----------
    tensors : Mapping[str, Typed]
        By own name.
    configuration : Mapping[str, Any], optional
        ``quantization_config`` of the model's ``config.json``.
    """
    members: set[str] = set()
    weights = []
    modules = _Modules(tensors)
    for name in tensors:
        weight = next(_recognised(name, modules, configuration or {}), None)
        if weight is not None and members.isdisjoint(weight.members):
            members.update(weight.members)
            weights.append(weight)
    if configuration:
        rest = {name: tensor for name, tensor in tensors.items() if name not in members}
        weights += _of_unknown_scheme(_Modules(rest), configuration)
    return tuple(weights)


def needs_configuration(tensors: Mapping[str, Typed]) -> bool:
    """Return whether a configuration decides what some tensors are: codes of no known scheme, or a model's integers."""
    members = {name for weight in find_quantised(tensors) for name in weight.members}
    rest = {name: tensor for name, tensor in tensors.items() if name not in members}
    return any(_of_unknown_scheme(_Modules(rest), {}))


def mark_codes(tensors: Mapping[str, Typed]) -> dict[str, Typed]:
    """Return tensors, the codes among them as :class:`erestore.checkpoint.shapes.QuantisedCodes`."""
    marked = dict(tensors)
    for weight in find_quantised(tensors):
        codes = tensors[weight.codes]
        marked[weight.codes] = QuantisedCodes(codes.dtype, tuple(codes.shape), weight.scheme.name)
    return marked


@dataclass(frozen=True)
class _Modules:
    """Tensors, and which of them stand in one module."""

    tensors: Mapping[str, Typed]

    @cached_property
    def names(self) -> Mapping[str, list[str]]:
        """Names of the tensors that a module holds itself, by the module with its dot."""
        names: dict[str, list[str]] = {}
        for name in self.tensors:
            names.setdefault(_module(name), []).append(name)
        return names

    def beside(self, parts: Mapping[str, str]) -> dict[str, str]:
        """Return, by role, what the module of a weight's codes holds besides its parts and the bias."""
        module = _module(parts["codes"])
        others = (name for name in self.names[module] if name not in parts.values() and name != f"{module}bias")
        return {f"beside {name.removeprefix(module)}": name for name in others}


def _module(name: str) -> str:
    return name[: max(name.rfind("."), name.rfind("/")) + 1]


def _of_unknown_scheme(modules: _Modules, configuration: Mapping[str, Any]) -> Iterator[QuantisedWeight]:
    """Yield a weight for every module with codes of which no scheme is known, in a model that says it is quantised.

    Any of what stands beside the codes may scale them, so all of it goes with them; a bias is added after that.
    """
    scheme = Scheme(str(configuration.get("quant_method") or "unknown"), "", frozenset(), ())
    for module, names in modules.names.items():
        codes = [name for name in names if _may_be_codes(modules.tensors[name])]
        if codes:
            largest = max(codes, key=lambda name: math.prod(modules.tensors[name].shape))
            parts = {"codes": largest}
            if beside := modules.beside(parts):
                yield QuantisedWeight(f"{module}weight", scheme, parts | beside, (), configuration)


def _may_be_codes(tensor: Typed) -> bool:
    return tensor.dtype in INTEGERS | FP8 and math.prod(tensor.shape) > 1


def _recognised(name: str, modules: _Modules, configuration: Mapping[str, Any]) -> Iterator[QuantisedWeight]:
    """Yield the weights whose codes a tensor may hold."""
    tensors = modules.tensors
    for scheme in SCHEMES:
        if scheme.dtypes and tensors[name].dtype not in scheme.dtypes:
            continue
        if (weight := scheme.weight_name(name)) is None:
            continue
        parts = {"codes": name}
        for part in scheme.parts:
            member = next((candidate for candidate in _spelled(part.names, weight) if candidate in tensors), None)
            if member is not None and (not part.dtypes or tensors[member].dtype in part.dtypes):
                parts[part.role] = member
            elif part.is_needed:
                break
        else:
            if not _is_scaled_by(scheme, tensors[name], tensors[parts["scale"]] if "scale" in parts else None):
                continue
            activations = (
                candidate
                for candidate in _spelled((*ACTIVATIONS, "{w}_activation_scale"), weight)
                if candidate in tensors
            )
            parts |= {f"activation {number}": candidate for number, candidate in enumerate(activations)}
            parts |= modules.beside(parts) if scheme.takes_module else {}
            yield QuantisedWeight(weight, scheme, parts, _block(tensors, parts, configuration), configuration)


def _is_scaled_by(scheme: Scheme, codes: Typed, scale: Typed | None) -> bool:
    """Return whether there are as many scales as the scheme has."""
    if not scheme.bytes_a_scale or scale is None or not codes.shape or not scale.shape:
        return not scheme.bytes_a_scale
    columns = codes.shape[-1] // 2 if codes.dtype == "F4" else codes.shape[-1]
    return columns == scheme.bytes_a_scale * scale.shape[-1]


def _block(tensors: Mapping[str, Typed], parts: Mapping[str, str], configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many codes one scale is for, where codes are not packed."""
    codes = tensors[parts["codes"]]
    if "scale" not in parts or codes.dtype not in FP8 | {"I8"}:
        return ()
    from erestore.checkpoint import dequantisation

    return dequantisation.block_of(
        codes.shape, tensors[parts["scale"]].shape, dequantisation.stated_block_size(configuration)
    )


def _spelled(names: tuple[str, ...], weight: str) -> Iterator[str]:
    """Yield what parts of a weight are called."""
    is_of_module = weight == "weight" or weight.endswith(".weight")
    for name in names:
        if name.startswith("{w}"):
            yield weight + name[3:]
        elif is_of_module:
            yield weight[: -len("weight")] + name[3:]
