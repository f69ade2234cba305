"""Weights from codes and scales: what the libraries' own kernels compute, as arithmetic on arrays.

Each function takes arrays by role (see :mod:`erestore.checkpoint.quantised_weights`) and ``quantization_config``, and returns
the weight in float32, or None where the arrays are not as the scheme says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from erestore.arrays import without_warnings

if TYPE_CHECKING:
    from erestore.arrays import Array

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
"""Values of the codes of E2M1."""
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which of a word's eight codes is whose column in AWQ."""
USUAL_BLOCK = 128
"""Side of the blocks of fp8 checkpoints that do not say otherwise (DeepSeek, Qwen)."""
_EXPONENT_BIAS = 127
_NESTED_BLOCK = 256


def stated_block_size(configuration: Mapping[str, Any]) -> list[int] | None:
    """Return ``weight_block_size`` of a configuration, None where there is none that makes sense."""
    sizes = configuration.get("weight_block_size")
    is_sound = isinstance(sizes, list) and all(isinstance(size, int) and size > 0 for size in sizes)
    return sizes if is_sound else None


def block_of(codes: Sequence[int], scale: Sequence[int], sizes: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return how many codes of each dimension one scale is for; empty where that is not known.

    Parameters
    ----------
    codes, scale : sequence of int
        Shapes; a scale may have fewer dimensions, the first ones.
    sizes : sequence of int, optional
        What the configuration says of the last dimensions. Where it says nothing, blocks are the usual ones if these make as
        many, else all of one size, else the smallest power of two that does.
    """
    if math.prod(scale) == 1:
        return tuple(codes)
    padded = (*scale, *(1,) * (len(codes) - len(scale)))
    if len(padded) != len(codes) or 0 in padded:
        return ()
    stated = (*(0,) * (len(codes) - len(sizes or ())), *(sizes or ()))[-len(codes) :]
    block = tuple(map(_block_size, codes, padded, stated))
    return block if all(-(-n // size) == k for n, size, k in zip(codes, block, padded, strict=True)) else ()


def _block_size(count: int, blocks: int, stated: int) -> int:
    if blocks in (1, count):
        return max(1, -(-count // blocks))
    exact = [-(-count // blocks)] if count % blocks == 0 else []
    candidates = [*([stated] if stated else []), USUAL_BLOCK, *exact]
    fallback = 1 << (-(-count // blocks) - 1).bit_length()
    return next((size for size in candidates if -(-count // size) == blocks), fallback)


def scaled(arrays: Mapping[str, Array], configuration: Mapping[str, Any]) -> Array | None:
    """Codes less their zero point, times the scale of their block, channel or tensor."""
    return _scaled(
        _float32(arrays["codes"]), arrays["scale"], arrays.get("zero_point"), stated_block_size(configuration)
    )


def torchao(arrays: Mapping[str, Array], configuration: Mapping[str, Any]) -> Array | None:
    """As :func:`scaled`; what is packed, or has scales of scales, is torchao's own."""
    codes, scale = arrays["codes"], arrays["scale"]
    is_plain = codes.dtype.itemsize == 1 and codes.dtype != np.uint8 and scale.dtype.kind == "f"
    if not is_plain or {"pre_scale", "tensor_scale"} & arrays.keys():
        return None
    return scaled(arrays, configuration)


def mxfp4(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """Pairs of E2M1, the first in the lower half; scales are powers of two, one for 32."""
    return _scaled(_fp4(arrays["codes"]), arrays["scale"])


def mxfp4_blocks(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """As :func:`mxfp4`, with a dimension for blocks; experts are ``(E, outputs, inputs)`` as their codes are."""
    values, scale = _fp4(arrays["codes"]), _float32(arrays["scale"])
    if values.shape[:-1] != scale.shape:
        return None
    return (values * scale[..., None]).reshape(*scale.shape[:-1], -1)


def nvfp4(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """Pairs of E2M1 times an fp8 scale for 16, times (or divided by) one number for the tensor."""
    with without_warnings():
        factor = _float32(arrays["factor"]) if "factor" in arrays else 1 / _float32(arrays["divisor"])
        return _scaled(_fp4(arrays["codes"]), _float32(arrays["scale"]) * factor.reshape(-1)[0])


def packed_integers(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """Unsigned integers packed into words along the inputs, half of their range subtracted (compressed-tensors)."""
    rows, columns = map(int, arrays["shape"].reshape(-1))
    packed = arrays["codes"]
    bits = next((bits for bits in (4, 8, 2) if packed.shape == (rows, -(-columns * bits // 32))), None)
    if bits is None:
        return None
    offset = 1 << (bits - 1)
    zero, group_index = arrays.get("zero_point"), arrays.get("group_index")
    if zero is not None and zero.dtype == np.int32:
        zero = _unpacked(zero.T, bits).T[:rows].astype(np.float32) - offset
    codes = _unpacked(packed, bits)[:, :columns].astype(np.float32) - offset
    if group_index is None or not (group_index.reshape(-1) >= 0).all():
        return _scaled(codes, arrays["scale"], zero)
    index = group_index.reshape(-1)
    values: Array = (codes - (0 if zero is None else zero[:, index])) * _float32(arrays["scale"])[:, index]
    return values


def gptq(arrays: Mapping[str, Array], configuration: Mapping[str, Any]) -> Array | None:
    """Codes packed along the inputs, zero points along the outputs and less 1, a group for every input."""
    index, scale = arrays["group_index"].reshape(-1), _float32(arrays["scale"])
    packed, inputs = arrays["codes"], index.size
    bits = packed.shape[0] * 32 // max(1, inputs)
    if (
        bits not in (2, 4, 8)
        or packed.shape[0] * 32 != inputs * bits
        or not 0 <= index.min() <= index.max() < len(scale)
    ):
        return None
    shift = 0 if configuration.get("checkpoint_format") == "gptq_v2" else 1
    zero = _unpacked(arrays["zero_point"], bits)[:, : scale.shape[1]].astype(np.float32) + shift
    codes = _unpacked(packed.T, bits).astype(np.float32)
    values: Array = (codes - zero[index].T) * scale[index].T
    return values


def awq(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """Codes of 4 bits packed along the outputs in an order of their own, groups along the inputs."""
    scale, packed = _float32(arrays["scale"]), arrays["codes"]
    if packed.shape[1] * 8 != scale.shape[1] or packed.shape[0] % len(scale):
        return None
    codes, zero = (
        _unpacked(words, 4).reshape(len(words), -1, 8)[:, :, AWQ_ORDER].reshape(len(words), -1).astype(np.float32)
        for words in (packed, arrays["zero_point"])
    )
    group = packed.shape[0] // len(scale)
    values: Array = ((codes - zero.repeat(group, 0)) * scale.repeat(group, 0)).T
    return values


def bitsandbytes_int8(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """Codes times the largest magnitude of their row, over 127."""
    layout = arrays.get("format")
    if layout is not None and layout.reshape(-1)[0] != 0:  # the row-major one; others are a GPU's tiles
        return None
    return _scaled(_float32(arrays["codes"]), _float32(arrays["scale"]) / 127)


def bitsandbytes_4bit(arrays: Mapping[str, Array], _: Mapping[str, Any]) -> Array | None:
    """Pairs of codes into a table, the first in the upper half, times the largest magnitude of their block."""
    try:
        state = json.loads(bytes(arrays["state"].reshape(-1)))
        shape, block = tuple(map(int, state["shape"])), int(state["blocksize"])
        nested, offset = int(state.get("nested_blocksize", _NESTED_BLOCK)), float(state.get("nested_offset", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    absmax = arrays["absmax"].reshape(-1)
    if absmax.dtype == np.uint8:
        if not {"nested_absmax", "nested_quant_map"} <= arrays.keys():
            return None
        factors = _float32(arrays["nested_absmax"]).repeat(nested)[: absmax.size]
        absmax = _float32(arrays["nested_quant_map"])[absmax] * factors + np.float32(offset)
    pairs, count = arrays["codes"].reshape(-1), math.prod(shape)
    codes = np.stack([pairs >> 4, pairs & 15], axis=-1).reshape(-1)[:count]
    if codes.size != count or absmax.size != -(-count // block):
        return None
    values: Array = _float32(arrays["quant_map"])[codes] * _float32(absmax).repeat(block)[:count]
    return values.reshape(shape)


def _scaled(codes: Array, scale: Array, zero: Array | None = None, sizes: Sequence[int] | None = None) -> Array | None:
    """Return ``(codes - zero) * scale``, both spread over their blocks; `sizes` are those of the last dimensions."""
    factors = _spread(_float32(scale), codes.shape, sizes)
    offsets = None if zero is None else _spread(zero.astype(np.float32), codes.shape, sizes)
    if factors is None or (zero is not None and offsets is None):
        return None
    with without_warnings():
        values: Array = (codes if offsets is None else codes - offsets) * factors
    return values


def _spread(scale: Array, shape: tuple[int, ...], sizes: Sequence[int] | None) -> Array | None:
    """Repeat every scale over the block that it is for, as far as an array of `shape` needs it."""
    if scale.size == 1:
        return scale.reshape(())
    padded = scale.reshape(*scale.shape, *(1,) * (len(shape) - scale.ndim))
    block = block_of(shape, padded.shape, sizes)
    if not block:
        return None
    for axis, size in enumerate(block):
        if padded.shape[axis] not in (1, shape[axis]):
            padded = padded.repeat(size, axis).take(range(shape[axis]), axis)
    return padded


def _float32(array: Array) -> Array:
    """Return numbers in float32; exponents in bytes as the powers of two that they stand for."""
    with without_warnings():
        if array.dtype == np.uint8:
            return np.ldexp(np.float32(1), array.astype(np.int32) - _EXPONENT_BIAS)
        return array.astype(np.float32)


def _fp4(pairs: Array) -> Array:
    values: Array = FP4[np.stack([pairs & 15, pairs >> 4], axis=-1)]
    return values.reshape(*pairs.shape[:-1], -1)


def _unpacked(words: Array, bits: int) -> Array:
    """Return the unsigned numbers that the last dimension's words of 32 bits hold, the lowest first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    parts = (np.ascontiguousarray(words).view(np.uint32)[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return parts.reshape(*words.shape[:-1], -1)
