"""``cat``: one tensor of a variant, reading no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erestore.errors import NotFoundError, similar_names
from erestore.history.revision import open_revision
from erestore.store import Store
from erestore.variant.error_bound import require_lossy

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CatResult:
    """One tensor: commit (None for an expression that equals none), own name, safetensors dtype, shape and value."""

    commit: str | None
    name: str
    dtype: str
    shape: tuple[int, ...]
    value: torch.Tensor


def cat(store: Store, revision: str, tensor: str, *, lossy: bool = False) -> CatResult:
    """Return one tensor of a variant, by the variant's own name; with `lossy`, without its exact remainder.

    Raises
    ------
    UsageError
        If the variant has no lossy part and it is asked for.
    NotFoundError
        If the variant has no such tensor; similar names are given.
    """
    opened = open_revision(store, revision)
    if lossy:
        require_lossy(opened.commit, revision, hint="Leave --lossy out.")
    variant = opened.variant(store, lossy=lossy)
    layout_tensor = variant.layout.tensors.get(tensor)
    if layout_tensor is None:
        near = similar_names(tensor, variant.layout.tensors)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"`erestore show {revision} --all` lists its tensors."
        raise NotFoundError(f"'{revision}' has no tensor '{tensor}'.", hint=hint)
    return CatResult(opened.oid, tensor, layout_tensor.dtype, layout_tensor.shape, variant.tensor(tensor))
