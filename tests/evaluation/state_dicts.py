"""Any state dict, and any fine-tune of it, for property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from erestore.checkpoint.dtypes import DTYPES, torch_dtype

Tensors = dict[str, torch.Tensor]

SHAPES = [(), (0,), (1,), (7,), (0, 3), (5, 0), (3, 4), (4, 3, 2, 2), (1, 6), (40, 30), (2, 1, 1)]
ANCHOR = (96, 64)
"""Shape of a tensor that base and fine-tune always share, so that they are of one architecture."""


@st.composite
def tensors(draw, shape, code=None) -> torch.Tensor:
    """A tensor of any dtype with any bits: NaN with payloads, infinities and subnormal numbers included."""
    code = code or draw(st.sampled_from(sorted(DTYPES)))
    if code == "F4" and not shape:
        code = "U8"
    dtype, seed = torch_dtype(code), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    if DTYPES[code].is_floating and draw(st.booleans()):
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (values * (torch.rand(shape, generator=generator) > 0.2)).to(dtype)  # zeros of both signs
    raw = torch.randint(256, (*shape, dtype.itemsize), generator=generator).to(torch.uint8)
    if code == "BOOL":
        return (raw[..., 0] & 1).to(torch.bool)
    return raw.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    """Return a tensor's bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@st.composite
def changed(draw, tensor: torch.Tensor) -> torch.Tensor:
    """A fine-tune's tensor: the same, near, far, in another dtype, with more or fewer rows."""
    floating = [code for code in sorted(DTYPES) if DTYPES[code].is_floating]
    how = draw(st.sampled_from(["same", "bits", "near", "dtype", "rows", "strides", "other"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    if how == "bits" and tensor.numel() and tensor.dtype != torch.bool:
        raw = tensor.reshape(-1).view(torch.uint8).clone()
        raw[torch.randint(len(raw), (1 + len(raw) // 9,), generator=generator)] ^= 1
        return raw.view(tensor.dtype).view(tensor.shape)
    if how in ("near", "dtype", "rows") and tensor.is_floating_point() and not tensor.dtype.is_complex:
        if str(tensor.dtype) in ("torch.float8_e8m0fnu", "torch.float4_e2m1fn_x2"):
            return tensor
        values = tensor.to(torch.float64)
        if how == "rows" and tensor.ndim > 1:
            rows = draw(st.integers(0, 2 * tensor.shape[0]))
            extra = torch.randn((rows, *tensor.shape[1:]), generator=generator, dtype=torch.float64)
            return torch.cat([values, extra])[: max(1, rows)].to(tensor.dtype)
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        dtype = torch_dtype(draw(st.sampled_from(floating))) if how == "dtype" else tensor.dtype
        return ((values + 0.01 * noise) * (torch.rand(tensor.shape, generator=generator) > 0.1)).to(dtype)
    if how == "strides" and tensor.ndim == 2:
        return tensor.T.contiguous().T
    return draw(tensors(tuple(tensor.shape))) if how == "other" else tensor


@st.composite
def pairs(draw) -> tuple[Tensors, Tensors, bool]:
    """A base, a fine-tune of it, and whether two names of the fine-tune are tied."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    weight = torch.randn(ANCHOR, generator=generator)
    sides = [torch.randn(size, 2, generator=generator) for size in ANCHOR]
    dtype = torch_dtype(draw(st.sampled_from(["F32", "BF16", "F16", "F64"])))
    base, tuned = {"anchor.weight": weight}, {"anchor.weight": (weight + 0.1 * sides[0] @ sides[1].T).to(dtype)}
    for number, shape in enumerate(draw(st.lists(st.sampled_from(SHAPES), max_size=4))):
        name = f"layer.{number}"
        base[name] = draw(tensors(shape))
        if draw(st.integers(0, 5)):
            tuned[name] = draw(changed(base[name]))
    if draw(st.booleans()):
        tuned["head.weight"] = draw(tensors((3, 5)))
    is_tied = draw(st.booleans())
    if is_tied:
        tuned["tied.weight"] = tuned["anchor.weight"]
    return base, tuned, is_tied
