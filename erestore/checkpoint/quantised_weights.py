"""Quantised weights: which tensors of a model are codes, which of them scale those, and by which scheme.

Codes mean nothing without their scales: to average the two apart is not to average weights, and an error of codes is none
of weights. They are recognised by names, data types and shapes, as the libraries write them; ``quantization_config`` in
``config.json`` says what these leave open (bits, sizes of blocks). docs/reference/quantised-formats.md lists the schemes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from erestore.checkpoint.shapes import Codes, Typed

if TYPE_CHECKING:
    from erestore.arrays import Array

FP8 = frozenset({"F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"})
_PAIRS = frozenset({"U8", "F4"})
_EXPONENTS = frozenset({"U8", "F8_E8M0"})

_ACTIVATIONS = tuple(
    f"{{m}}{name}"
    for name in (
        "input_scale", "input_zero_point", "input_global_scale", "activation_scale", "qscale_act", "scale_input",
        "output_scale", "output_zero_point", "k_scale", "v_scale",
    )
)  # fmt: skip
"""Scales of what goes in and comes out. Nothing of the weight's value, but they were measured together with its codes."""


class Part(NamedTuple):
    """What a scheme keeps beside the codes of a weight.

    Attributes
    ----------
    role : str
        What it is called where values are computed: ``scale``, ``zero_point``, ...
    names : tuple of str
        Where it may be: ``{w}`` is the weight's name and ``{m}`` the module's with its dot. The first that exists counts.
    dtypes : frozenset of str
        Which data types it may have; empty for any.
    is_needed : bool
        Whether there is no such weight without it.
    """

    role: str
    names: tuple[str, ...]
    dtypes: frozenset[str] = frozenset()
    is_needed: bool = True


@dataclass(frozen=True)
class Scheme:
    """One way of storing weights as codes.

    Attributes
    ----------
    name : str
    codes : str
        Name of the codes, as of a :class:`Part`.
    dtypes : frozenset of str
        Of the codes.
    parts : tuple of Part
    value : str
        Function of :mod:`erestore.checkpoint.dequantisation` from arrays by role and ``quantization_config`` to the weight;
        empty where that is the library's alone. A name, so that commands that compute nothing load no arrays.
    """

    name: str
    codes: str
    dtypes: frozenset[str]
    parts: tuple[Part, ...]
    value: str = ""

    def weight_name(self, tensor: str) -> str | None:
        """Return the name of the weight whose codes a tensor holds by its name; None for another tensor."""
        suffix = self.codes[3:]
        if not tensor.endswith(suffix):
            return None
        stem = tensor[: len(tensor) - len(suffix)]
        if self.codes.startswith("{w}"):
            return stem or None
        return stem + "weight" if not stem or stem.endswith(".") else None


def _optional(role: str, *names: str) -> Part:
    return Part(role, names, is_needed=False)


_ZERO_POINT = _optional("zero_point", "{w}_zero_point")

SCHEMES = (
    Scheme(
        "nvfp4",
        "{m}weight_packed",
        _PAIRS,
        (Part("scale", ("{w}_scale",), frozenset({"F8_E4M3"})), Part("divisor", ("{w}_global_scale",))),
        "nvfp4",
    ),
    Scheme(
        "nvfp4",
        "{w}",
        _PAIRS,
        (Part("scale", ("{w}_scale",), frozenset({"F8_E4M3"})), Part("factor", ("{w}_scale_2",))),
        "nvfp4",
    ),
    Scheme(
        "mxfp4",
        "{m}weight_packed",
        _PAIRS,
        (Part("scale", ("{w}_scale",), _EXPONENTS),),
        "mxfp4",
    ),
    Scheme(
        "mxfp4",
        "{w}_blocks",
        frozenset({"U8"}),
        (Part("scale", ("{w}_scales",), _EXPONENTS),),
        "mxfp4_blocks",
    ),
    Scheme(
        "packed integers",
        "{m}weight_packed",
        frozenset({"I32"}),
        (
            Part("scale", ("{w}_scale",)),
            Part("shape", ("{w}_shape",)),
            _ZERO_POINT,
            _optional("group_index", "{w}_g_idx"),
        ),
        "packed_integers",
    ),
    Scheme(
        "gptq",
        "{m}qweight",
        frozenset({"I32"}),
        (Part("scale", ("{m}scales",)), Part("zero_point", ("{m}qzeros",)), Part("group_index", ("{m}g_idx",))),
        "gptq",
    ),
    Scheme(
        "awq",
        "{m}qweight",
        frozenset({"I32"}),
        (Part("scale", ("{m}scales",)), Part("zero_point", ("{m}qzeros",))),
        "awq",
    ),
    Scheme(
        "bitsandbytes int8",
        "{w}",
        frozenset({"I8"}),
        (Part("scale", ("{m}SCB",)), _optional("format", "{m}weight_format")),
        "bitsandbytes_int8",
    ),
    Scheme(
        "bitsandbytes 4-bit",
        "{w}",
        frozenset({"U8"}),
        (
            Part("absmax", ("{w}.absmax",)),
            Part("quant_map", ("{w}.quant_map",)),
            Part("state", ("{w}.quant_state.bitsandbytes__nf4", "{w}.quant_state.bitsandbytes__fp4")),
            _optional("nested_absmax", "{w}.nested_absmax"),
            _optional("nested_quant_map", "{w}.nested_quant_map"),
        ),
        "bitsandbytes_4bit",
    ),
    Scheme(
        "torchao",
        "{m}_weight_qdata",
        FP8 | {"I8", "U8", "I32"},
        (
            Part("scale", ("{m}_weight_scale", "{m}_weight_scale_and_zero")),
            _optional("zero_point", "{m}_weight_zero_point"),
            _optional("pre_scale", "{m}_weight_act_pre_scale"),
            _optional("tensor_scale", "{m}_weight_per_tensor_scale"),
        ),
        "torchao",
    ),
    Scheme(
        "quanto",
        "{w}._data",
        FP8 | {"I8", "U8"},
        (Part("scale", ("{w}._scale",)), _optional("zero_point", "{w}._shift")),
    ),
    Scheme(
        "fp8",
        "{w}",
        FP8,
        (Part("scale", ("{w}_scale_inv", "{w}_scale", "{m}scale", "{m}qscale_weight", "{m}scale_weight")),),
        "scaled",
    ),
    Scheme(
        "int8",
        "{w}",
        frozenset({"I8"}),
        (Part("scale", ("{w}_scale", "{w}_scale_inv")), _ZERO_POINT),
        "scaled",
    ),
)
"""Every scheme that is recognised; of several that fit, the first counts."""


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
    """Return ``quantization_config`` of a ``config.json``; empty where there is none."""
    try:
        record = json.loads(config) if config else {}
    except (ValueError, RecursionError):
        return {}
    quantisation = record.get("quantization_config") if isinstance(record, dict) else None
    return quantisation if isinstance(quantisation, dict) else {}


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
    taken: set[str] = set()
    weights = []
    for name in tensors:
        weight = next(_recognised(name, tensors, configuration or {}), None)
        if weight is not None and taken.isdisjoint(weight.members):
            taken.update(weight.members)
            weights.append(weight)
    return tuple(weights)


def mark_codes(tensors: Mapping[str, Typed]) -> dict[str, Typed]:
    """Return tensors, the codes among them as :class:`erestore.checkpoint.shapes.Codes`."""
    marked = dict(tensors)
    for weight in find_quantised(tensors):
        codes = tensors[weight.codes]
        marked[weight.codes] = Codes(codes.dtype, tuple(codes.shape), weight.scheme.name)
    return marked


def _recognised(name: str, tensors: Mapping[str, Typed], configuration: Mapping[str, Any]) -> Iterator[QuantisedWeight]:
    """Yield the weights whose codes a tensor may hold."""
    for scheme in SCHEMES:
        if tensors[name].dtype not in scheme.dtypes or (weight := scheme.weight_name(name)) is None:
            continue
        parts = {"codes": name}
        for part in scheme.parts:
            member = next((each for each in _spelled(part.names, weight) if each in tensors), None)
            if member is not None and (not part.dtypes or tensors[member].dtype in part.dtypes):
                parts[part.role] = member
            elif part.is_needed:
                break
        else:
            activations = (
                each for each in _spelled((*_ACTIVATIONS, "{w}_activation_scale"), weight) if each in tensors
            )
            parts |= {f"activation {number}": each for number, each in enumerate(activations)}
            yield QuantisedWeight(weight, scheme, parts, _block(tensors, parts, configuration), configuration)


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
