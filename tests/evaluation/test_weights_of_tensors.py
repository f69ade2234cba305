"""What a commit gives to which tensors, where all of them changed alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality


@pytest.mark.parametrize("error", [0.3, 0.05])
def test_biases_are_kept_finer_than_matrices(tmp_path: Path, error: float) -> None:
    """Their squared error counts eight times, so it is about an eighth of a matrix's, element by element."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"dense.weight": (400, 400), "dense.bias": (4000,), "norm.weight": (4000,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tuned = {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "ft.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    done = store.commit(tmp_path / "ft.safetensors", base="base", name="ft", quality=Quality(max_error=error))
    assert 0.9 * error < done.relative_error <= error
    lost = {name: float((value - tuned[name]).square().mean()) for name, value in store.state_dict("ft").items()}
    for name in ("dense.bias", "norm.weight"):
        assert 5 < lost["dense.weight"] / lost[name] < 12
