"""Rows that are longer than a segment, and than an entropy coder's chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.objects.tensors import TensorReader
from erestore.residual import pco


def test_rows_that_go_over_several_pieces(monkeypatch) -> None:
    """Blocks are whole rows in order, whatever the sizes of pieces."""
    values = np.arange(7 * 50, dtype=np.float32).reshape(7, 50)
    content = values.tobytes()
    for size in (4, 8, 60, 196, 200, 204, 600, 1400):
        pieces = [content[start : start + size] for start in range(0, len(content), size)]
        monkeypatch.setattr(TensorReader, "pieces", lambda _self, _data, pieces=pieces: iter(pieces))
        monkeypatch.setattr(TensorReader, "_check_size", lambda *_: len(content))
        found = list(TensorReader(None).row_blocks(None, "F32", (7, 50), 100))  # type: ignore[arg-type]
        assert [row for row, _ in found] == list(np.cumsum([0, *(len(block) for _, block in found)]))[:-1]
        assert np.array_equal(np.concatenate([block for _, block in found]), values)


def test_a_vector_longer_than_a_chunk(tmp_path: Path, monkeypatch) -> None:
    """The entropy coder takes 2**24 numbers at once; a longer vector is stored in another way."""
    monkeypatch.setattr(pco, "LARGEST", 1 << 12)
    base = torch.randn(3 << 12, generator=torch.Generator().manual_seed(0))
    save_file({"w": base}, tmp_path / "base.safetensors")
    tuned = base + 0.01 * torch.randn(len(base), generator=torch.Generator().manual_seed(1))
    save_file({"w": tuned}, tmp_path / "ft.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    done = store.commit(tmp_path / "ft.safetensors", base="base", name="ft")
    residual = store.objects.open("residual", store.commit_record(done.commit).own[0])
    assert {segment.stage for segment in residual.segments} == {"zstd"}
    assert store.fsck(deep=True).clean
    assert done.relative_error <= 0.01
