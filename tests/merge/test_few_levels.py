"""Merges of weights that moved by a few units in the last place of a narrow type, as it is or kept in a wider one."""

from __future__ import annotations

from pathlib import Path

import formulas
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding.quality import Quality

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("trained", "kept"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float16)], ids=["wider", "float16"]
)
def test_ties_of_three_keeps_the_entries_that_the_formula_keeps(
    trained: torch.dtype, kept: torch.dtype, tmp_path: Path
) -> None:
    """Among the many entries that tie with the smallest of them the first, whatever the type of the file."""
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(64, 60, generator=generator)).to(trained)
    tuned = {
        name: (base.float() + size * torch.randn(base.shape, generator=generator)).to(trained)
        for name, size in zip(NAMES, (5e-5, 2e-4, 1e-4), strict=True)
    }
    for name, weights in {"base": base, **tuned}.items():
        save_file({"l.weight": weights.to(kept)}, tmp_path / f"{name}.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    for name in NAMES:
        store.commit(tmp_path / f"{name}.safetensors", base="base", name=name, quality=Quality(max_error=1e-7))
    store.merge(NAMES, name="m", strategy="ties", options={"density": "0.05"}, max_error=1e-6)
    start = base.double().numpy()
    change = formulas.ties([weights.double().numpy() - start for weights in tuned.values()], [1, 1, 1], 0.05)
    expected = torch.from_numpy(start + change).to(kept).double().numpy()
    merged = store.state_dict("m")["l.weight"].double().numpy()
    assert np.square(merged - expected).sum() <= 1e-3 * np.square(expected - start).sum()
    assert np.count_nonzero(merged != start) == np.count_nonzero(expected != start)
