"""Whether a layout can be checked out of what a manifest and its base hold; records alone are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from erestore.checkpoint.dtypes import DTYPES, is_floating
from erestore.records import Layout, LayoutTensor, Manifest, Part, WholeTensor


def layout_faults(layout: Layout, manifest: Manifest, base: Mapping[str, WholeTensor]) -> Iterator[str]:
    """Yield sentences about tensors that no checkout can write."""
    count = Counter(name for file in layout.files for name in file.tensors)
    for name, times in count.items():
        if times > 1:
            yield f"Its layout lists the tensor '{name}' twice."
        elif name not in layout.tensors:
            yield f"Its layout does not say what the tensor '{name}' is."
    for name, tensor in layout.tensors.items():
        if reason := _tensor_fault(tensor, manifest, base.get(tensor.key)):
            yield f"Its layout names the tensor '{name}', {reason}."


def _tensor_fault(tensor: LayoutTensor, manifest: Manifest, base: WholeTensor | None) -> str:
    """Return why a tensor cannot be read, empty if it can; the rules are those of reading one."""
    if tensor.dtype not in DTYPES:
        return f"which has the unknown data type '{tensor.dtype[:20]}'"
    if tensor.key in manifest.dense:
        fits = _is_filled(manifest.dense[tensor.key], tensor.dtype, tensor.shape)
        return "" if fits else "which is held in another data type or shape"
    if base is None:
        return "which neither base nor variant holds"
    if not is_floating(base.dtype) and (base.dtype, base.shape) == (tensor.dtype, tensor.shape):
        return ""
    if not (is_floating(tensor.dtype) and is_floating(base.dtype)):
        return "which the base holds in another data type or shape"
    if len(tensor.shape) < 2 or len(base.shape) < 2:
        return "" if tensor.shape == base.shape else "which the base holds in another shape"
    if tensor.shape[1:] != base.shape[1:]:
        return "which the base holds in another shape"
    added = tensor.shape[0] - base.shape[0]
    if added > 0 and not _is_filled(manifest.rows.get(tensor.key, ()), tensor.dtype, (added, *tensor.shape[1:])):
        return f"of which {added} rows are nowhere"
    return ""


def _is_filled(parts: tuple[Part, ...], dtype: str, shape: tuple[int, ...]) -> bool:
    if len(parts) == 1 and parts[0].coefficient == 1 and parts[0].tensor.dtype == dtype:
        return parts[0].tensor.shape == shape
    dtypes = {part.tensor.dtype for part in parts} | {dtype}
    return bool(parts) and all(map(is_floating, dtypes)) and all(part.tensor.shape == shape for part in parts)
