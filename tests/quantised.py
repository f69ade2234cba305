"""Tiny quantised weights, one a scheme: tensors, the scheme's name, and the values by a loop over them."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import torch

FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
Sample = tuple[dict[str, torch.Tensor], np.ndarray, str]


def plain(seed=0):
    """Floats that stand beside quantised weights."""
    generator = torch.Generator().manual_seed(seed)
    return {"embed.weight": torch.randn(8, 16, generator=generator), "norm.weight": torch.ones(16)}


def computed(shape, value) -> np.ndarray:
    """Call `value` at every place."""
    result = np.empty(shape, dtype=np.float64)
    for place in product(*map(range, shape)):
        result[place] = value(*place)
    return result


def fp8(shape, block, *, codes="a.weight", scale="a.weight_scale_inv", exponents=False, seed=1) -> Sample:
    """Codes of 8 bits times the scale of their block."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator).mul(20).to(torch.float8_e4m3fn)
    counts = [-(-n // size) for n, size in zip(shape, block, strict=True)]
    scales = torch.rand(counts, generator=generator) + 0.1
    if exponents:
        scales = torch.exp2(scales.mul(8).round() - 9).to(torch.float8_e8m0fnu)
    held = scales.reshape(-1)[0] if scales.numel() == 1 else scales
    values, factors = numbers.double().numpy(), scales.double().numpy()
    wanted = computed(
        shape, lambda *place: values[place] * factors[tuple(i // size for i, size in zip(place, block, strict=True))]
    )
    return {codes: numbers, scale: held}, wanted, "fp8"


def int8(scale, scheme, divisor) -> Sample:
    """Integers times the scale of their row."""
    numbers = torch.arange(-16, 16, dtype=torch.int8).reshape(4, 8)
    scales = torch.tensor([0.5, 1.5, 2.0, 3.0])
    shaped = scales if divisor != 1 else scales[:, None]
    wanted = computed((4, 8), lambda i, j: int(numbers[i, j]) * float(scales[i]) / divisor)
    return {"a.weight": numbers, scale: shaped}, wanted, scheme


def torchao() -> Sample:
    """Integers less a zero point, times the scale of their row."""
    numbers, scales = torch.arange(-16, 16, dtype=torch.int8).reshape(4, 8), torch.tensor([[0.5], [1.5], [2.0], [3.0]])
    zeros = torch.tensor([[0], [1], [-2], [3]], dtype=torch.int8)
    wanted = computed((4, 8), lambda i, j: (int(numbers[i, j]) - int(zeros[i, 0])) * float(scales[i, 0]))
    tensors = {"a._weight_qdata": numbers, "a._weight_scale": scales, "a._weight_zero_point": zeros}
    return tensors, wanted, "torchao"


def mxfp4(seed=2) -> Sample:
    """Experts of two rows with two blocks of 32 codes."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, 256, (2, 2, 2, 16), generator=generator, dtype=torch.uint8)
    exponents = torch.randint(120, 130, (2, 2, 2), generator=generator, dtype=torch.uint8)

    def value(expert, row, column):
        pair = int(pairs[expert, row, column // 32, column % 32 // 2])
        return FP4[pair >> 4 if column % 2 else pair & 15] * 2.0 ** (int(exponents[expert, row, column // 32]) - 127)

    tensors = {"a.gate_up_proj_blocks": pairs, "a.gate_up_proj_scales": exponents}
    return tensors, computed((2, 2, 64), value), "mxfp4"


def nvfp4(codes, factor) -> Sample:
    """Rows of two blocks of 16 codes with fp8 scales, and one number for all."""
    generator = torch.Generator().manual_seed(3)
    pairs = torch.randint(0, 256, (3, 16), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(3, 2, generator=generator) + 0.5).to(torch.float8_e4m3fn)
    whole = 4.0

    def value(row, column):
        pair = int(pairs[row, column // 2])
        times = whole if factor.endswith("_2") else 1 / whole
        return FP4[pair >> 4 if column % 2 else pair & 15] * float(scales[row, column // 16]) * times

    return {codes: pairs, "a.weight_scale": scales, factor: torch.tensor([whole])}, computed((3, 32), value), "nvfp4"


def packed(numbers, bits, axis, order=None) -> torch.Tensor:
    """Pack unsigned numbers into words of 32 bits along an axis; `order` says which number is at which place."""
    numbers, count = np.moveaxis(np.asarray(numbers, dtype=np.int64), axis, -1), 32 // bits
    groups = numbers.reshape(*numbers.shape[:-1], -1, count)
    groups = groups if order is None else groups[..., order]
    words = sum(groups[..., k] << (bits * k) for k in range(count)).astype(np.uint32).view(np.int32)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words, -1, axis)))


def integers(shape, most, seed) -> np.ndarray:
    """Return unsigned integers below `most`."""
    return np.random.default_rng(seed).integers(0, most, shape)


def compressed() -> Sample:
    """Compressed-tensors' packed integers: half of the range off, groups of 8 inputs."""
    codes, scales = integers((3, 16), 16, 4), torch.rand(3, 2, generator=torch.Generator().manual_seed(4))
    wanted = computed((3, 16), lambda i, j: (codes[i, j] - 8) * float(scales[i, j // 8]))
    tensors = {
        "a.weight_packed": packed(codes, 4, 1),
        "a.weight_scale": scales,
        "a.weight_shape": torch.tensor([3, 16]),
    }
    return tensors, wanted, "packed integers"


def gptq(seed=5) -> Sample:
    """16 inputs in two groups, 8 outputs."""
    codes, zeros = integers((16, 8), 16, seed), integers((2, 8), 15, seed + 1)
    scales = torch.rand(2, 8, generator=torch.Generator().manual_seed(5)).half()
    index = torch.tensor([0, 1] * 8, dtype=torch.int32)
    wanted = computed((8, 16), lambda o, i: (codes[i, o] - zeros[index[i], o] - 1) * float(scales[index[i], o]))
    tensors = {"a.qweight": packed(codes, 4, 0), "a.qzeros": packed(zeros, 4, 1), "a.scales": scales, "a.g_idx": index}
    return tensors, wanted, "gptq"


def awq() -> Sample:
    """16 inputs in two groups, 8 outputs, in AWQ's order."""
    codes, zeros, order = integers((16, 8), 16, 7), integers((2, 8), 16, 8), [0, 2, 4, 6, 1, 3, 5, 7]
    scales = torch.rand(2, 8, generator=torch.Generator().manual_seed(7)).half()
    wanted = computed((8, 16), lambda o, i: (codes[i, o] - zeros[i // 8, o]) * float(scales[i // 8, o]))
    tensors = {"a.qweight": packed(codes, 4, 1, order), "a.qzeros": packed(zeros, 4, 1, order), "a.scales": scales}
    return tensors, wanted, "awq"


def bitsandbytes_4bit(*, nested=False, seed=9) -> Sample:
    """4 by 16 weights in blocks of 16; `nested` scales are codes themselves, in blocks of 2."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(0, 256, (32, 1), generator=generator, dtype=torch.uint8)
    table, scales = torch.linspace(-1, 1, 16), torch.rand(4, generator=generator)
    state = {"quant_type": "nf4", "blocksize": 16, "shape": [4, 16], "dtype": "bfloat16"}
    more = {}
    if nested:
        absmax, outer, inner = (
            torch.tensor([3, 200, 17, 90], dtype=torch.uint8),
            torch.linspace(-1, 1, 256),
            torch.tensor([2.0, 3.0]),
        )
        scales = outer[absmax.long()] * inner.repeat_interleave(2) + 0.25
        state |= {"nested_blocksize": 2, "nested_offset": 0.25}
        more = {"a.weight.nested_absmax": inner, "a.weight.nested_quant_map": outer}

    def value(row, column):
        place = 16 * row + column
        pair = int(pairs[place // 2, 0])
        return float(table[pair & 15 if place % 2 else pair >> 4]) * float(scales[place // 16])

    tensors = {
        "a.weight": pairs,
        "a.weight.absmax": absmax if nested else scales,
        "a.weight.quant_map": table,
        "a.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    return tensors | more, computed((4, 16), value), "bitsandbytes 4-bit"


def _numbers(shape, dtype, seed) -> torch.Tensor:
    return torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _halves(shape, seed) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()


def _bits_as_floats(shape, seed) -> torch.Tensor:
    """Packed codes seen as float32, as HQQ's ``view_as_float`` saves them: some are NaN, which differ in their bits only."""
    words = torch.randint(-(2**31), 2**31, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    words[0] = 0x7F800001 + seed
    return words.view(torch.float32)


def _hqq(seed):
    return {"W_q": _bits_as_floats((8, 16), seed), "scale": _halves((8, 1), seed), "zero": _halves((8, 1), seed + 9)}


def _vptq(seed):
    return {"indices": _numbers((8, 8), torch.int32, seed), "centroids.weight": _halves((8, 16), seed)}


OPAQUE = {
    "hqq": _hqq,
    "aqlm": lambda s: {
        "codes": _numbers((8, 8, 1), torch.int8, s),
        "codebooks": _halves((1, 16, 1, 8), s),
        "scales": _halves(8, s),
    },
    "vptq": _vptq,
    "higgs": lambda s: {
        "weight": _numbers((8, 8), torch.int16, s),
        "scales": _halves(8, s),
        "tables": _halves((16, 16), s),
    },
    "mlx": lambda s: {
        "weight": _numbers((8, 8), torch.uint32, s),
        "scales": _halves((8, 2), s),
        "biases": _halves((8, 2), s),
    },
    "eetq": lambda s: {"weight": _numbers((8, 8), torch.int8, s), "weight_scales": _halves(8, s)},
    "packed": lambda s: {"weight_packed": _numbers((8, 9), torch.uint8, s), "weight_scale": _halves((8, 2), s)},
    "of tomorrow": lambda s: {"kernel": _numbers((8, 8), torch.uint8, s), "gain": _halves((8, 16), s)},
    "in floats": lambda s: {"kernel": _halves((8, 8), s).to(torch.float8_e5m2), "gain": _halves((8, 16), s)},
}
"""Weights that are recognised but not dequantised, by scheme and a seed; the last two by the configuration alone."""


def opaque(scheme, seed) -> dict[str, torch.Tensor]:
    """Return the tensors of one weight."""
    return {f"a.{name}": tensor for name, tensor in OPAQUE[scheme](seed).items()}
