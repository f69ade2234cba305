"""Biases and gains are rounded finer than matrices, in what a commit stores, unless all errors are to count alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.residual.objectives import ANSWERS


@pytest.mark.parametrize(("objective", "weight"), [(None, ANSWERS.vector_weight), ("frobenius", 1)])
def test_the_error_left_in_a_vector_is_as_much_smaller_as_vectors_weigh_more(tmp_path: Path, objective, weight):
    generator = torch.Generator().manual_seed(3)
    base = {"weight": torch.randn(200, 300, generator=generator), "bias": torch.randn(4000, generator=generator)}
    tuned = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in base.items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    done = store.commit(
        tmp_path / "tuned.safetensors", base="base", quality=Quality(max_error=0.01, objective=objective)
    )
    found = store.state_dict("tuned")
    lost = {name: float((found[name] - tuned[name]).double().square().mean()) for name in base}
    assert done.relative_error <= 0.01
    assert 0.8 < lost["weight"] / lost["bias"] / weight < 1.5
