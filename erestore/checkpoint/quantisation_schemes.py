"""The schemes by which libraries store weights as codes: names, data types and shapes of the tensors of a weight.

docs/reference/quantised-formats.md lists them with the versions they were looked at in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FP8 = frozenset({"F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"})
_PAIRS = frozenset({"U8", "F4"})
_EXPONENTS = frozenset({"U8", "F8_E8M0"})
INTEGERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F4"})
"""What codes may be packed into."""

ACTIVATIONS = tuple(
    f"{{m}}{name}"
    for name in (
        "input_scale", "input_zero_point", "input_global_scale", "activation_scale", "qscale_act", "scale_input",
        "output_scale", "output_zero_point", "k_scale", "v_scale",
    )
)  # fmt: skip
"""Scales of what goes in and comes out. Nothing of the weight's value, but they were measured together with its codes."""


class SchemePart(NamedTuple):
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
        Name of the codes, as of a :class:`SchemePart`.
    dtypes : frozenset of str
        Of the codes; empty for any.
    parts : tuple of SchemePart
    value : str
        Function of :mod:`erestore.checkpoint.dequantisation` from arrays by role and ``quantization_config`` to the weight;
        empty where that is the library's alone. A name, so that commands that compute nothing load no arrays.
    bytes_a_scale : int
        Bytes of codes that one scale is for, along the last dimension; 0 where that tells nothing.
    takes_module : bool
        Whether all that its module holds but the bias belongs to the weight.
    """

    name: str
    codes: str
    dtypes: frozenset[str]
    parts: tuple[SchemePart, ...]
    value: str = ""
    bytes_a_scale: int = 0
    takes_module: bool = False

    def weight_name(self, tensor: str) -> str | None:
        """Return the name of the weight whose codes a tensor holds by its name; None for another tensor."""
        suffix = self.codes[3:]
        if not tensor.endswith(suffix):
            return None
        stem = tensor[: len(tensor) - len(suffix)]
        if self.codes.startswith("{w}"):
            return stem or None
        return stem + "weight" if not stem or stem.endswith(".") else None


def _optional(role: str, *names: str) -> SchemePart:
    return SchemePart(role, names, is_needed=False)


_ZERO_POINT = _optional("zero_point", "{w}_zero_point")
_CENTROIDS = tuple(_optional(kind, f"{{m}}{kind}_centroids.weight") for kind in ("res", "outlier"))
_OFFSETS = (_optional("offset", "{m}biases", "{m}qbiases"),)

SCHEMES = (
    Scheme(
        "nvfp4",
        "{m}weight_packed",
        _PAIRS,
        (SchemePart("scale", ("{w}_scale",), frozenset({"F8_E4M3"})), SchemePart("divisor", ("{w}_global_scale",))),
        "nvfp4",
        bytes_a_scale=8,
    ),
    Scheme(
        "nvfp4",
        "{w}",
        _PAIRS,
        (SchemePart("scale", ("{w}_scale",), frozenset({"F8_E4M3"})), SchemePart("factor", ("{w}_scale_2",))),
        "nvfp4",
        bytes_a_scale=8,
    ),
    Scheme(
        "mxfp4",
        "{m}weight_packed",
        _PAIRS,
        (SchemePart("scale", ("{w}_scale",), _EXPONENTS),),
        "mxfp4",
        bytes_a_scale=16,
    ),
    Scheme(
        "mxfp6",
        "{m}weight_packed",
        frozenset({"U8"}),
        (SchemePart("scale", ("{w}_scale",), _EXPONENTS),),
        bytes_a_scale=24,
    ),
    Scheme(
        "mxfp4",
        "{w}_blocks",
        frozenset({"U8"}),
        (SchemePart("scale", ("{w}_scales",), _EXPONENTS),),
        "mxfp4_blocks",
    ),
    Scheme(
        "packed integers",
        "{m}weight_packed",
        frozenset({"I32"}),
        (
            SchemePart("scale", ("{w}_scale",)),
            SchemePart("shape", ("{w}_shape",)),
            _ZERO_POINT,
            _optional("group_index", "{w}_g_idx"),
        ),
        "packed_integers",
    ),
    Scheme(
        "gptq",
        "{m}qweight",
        frozenset({"I32"}),
        (
            SchemePart("scale", ("{m}scales",)),
            SchemePart("zero_point", ("{m}qzeros",)),
            SchemePart("group_index", ("{m}g_idx",)),
        ),
        "gptq",
    ),
    Scheme(
        "awq",
        "{m}qweight",
        frozenset({"I32"}),
        (SchemePart("scale", ("{m}scales",)), SchemePart("zero_point", ("{m}qzeros",))),
        "awq",
    ),
    Scheme(
        "bitsandbytes int8",
        "{w}",
        frozenset({"I8"}),
        (SchemePart("scale", ("{m}SCB",)), _optional("format", "{m}weight_format")),
        "bitsandbytes_int8",
    ),
    Scheme(
        "bitsandbytes 4-bit",
        "{w}",
        frozenset({"U8"}),
        (
            SchemePart("absmax", ("{w}.absmax",)),
            SchemePart("quant_map", ("{w}.quant_map",)),
            SchemePart("state", ("{w}.quant_state.bitsandbytes__nf4", "{w}.quant_state.bitsandbytes__fp4")),
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
            SchemePart("scale", ("{m}_weight_scale", "{m}_weight_scale_and_zero")),
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
        (SchemePart("scale", ("{w}._scale",)), _optional("zero_point", "{w}._shift")),
    ),
    Scheme(
        "fp8",
        "{w}",
        FP8,
        (SchemePart("scale", ("{w}_scale_inv", "{w}_scale", "{m}scale", "{m}qscale_weight", "{m}scale_weight")),),
        "scaled",
    ),
    Scheme(
        "int8",
        "{w}",
        frozenset({"I8"}),
        (SchemePart("scale", ("{w}_scale", "{w}_scale_inv")), _ZERO_POINT),
        "scaled",
    ),
    Scheme(
        "hqq",
        "{m}W_q",
        frozenset(),
        (SchemePart("scale", ("{m}scale",)), SchemePart("zero", ("{m}zero",))),
        takes_module=True,
    ),
    Scheme("aqlm", "{m}codes", INTEGERS, (SchemePart("codebooks", ("{m}codebooks",)),), takes_module=True),
    Scheme(
        "vptq",
        "{m}indices",
        INTEGERS,
        (SchemePart("centroids", ("{m}centroids.weight",)), *_CENTROIDS),
        takes_module=True,
    ),
    Scheme("spqr", "{m}dense_weights", INTEGERS, (SchemePart("offsets", ("{m}row_offsets",)),), takes_module=True),
    Scheme(
        "higgs",
        "{w}",
        INTEGERS,
        (SchemePart("scale", ("{m}scales",)), SchemePart("tables", ("{m}tables",))),
        takes_module=True,
    ),
    Scheme("mlx", "{w}", frozenset({"U32"}), (SchemePart("scale", ("{m}scales",)), *_OFFSETS)),
    Scheme("eetq", "{w}", frozenset({"I8"}), (SchemePart("scale", ("{w}_scales",)),)),
    Scheme("packed", "{m}weight_packed", INTEGERS, (SchemePart("scale", ("{w}_scale",)),), takes_module=True),
    Scheme("packed", "{m}qweight", INTEGERS, (SchemePart("scale", ("{m}scales",)),), takes_module=True),
    Scheme("packed", "{w}", INTEGERS, (SchemePart("scale", ("{w}_scale",)),), takes_module=True),
)
"""Every scheme that is recognised; of several that fit, the first counts."""
