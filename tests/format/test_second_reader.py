"""What is written today is read by the reader that shares no code with erestore."""

from __future__ import annotations

from pathlib import Path

import independent_reader as independent
import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.arrays import as_array, raw_bytes
from erestore.encoding.quality import Quality
from erestore.objects.patch import Patch
from erestore.residual import remainder_classes

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tuned(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Every fourth row moved, the others decayed, in a grid of seven bits."""
    moved = weight.to(torch.float64) * (1 - 0.02)
    moved[::4] += 0.2 * normal(2, *moved[::4].shape)
    return moved.to(torch.bfloat16).to(dtype)


@pytest.mark.parametrize("name", DTYPES)
def test_exact_remainders_of_every_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = DTYPES[name]
    weight = normal(1, 160, 32).to(torch.float8_e5m2).to(dtype)
    base, value = as_array(weight), as_array(tuned(weight, dtype))
    (part,) = remainder_classes.encode(value, base, 32)
    assert len(part) < value.nbytes
    assert independent.add_classed(bytes(raw_bytes(base)), [part], name, 32) == raw_bytes(value)
    # The second of two parts begins within a row.
    monkeypatch.setattr(remainder_classes, "CHUNK", 2000)
    parts = list(remainder_classes.encode(value, base, 32))
    start, size = 2000, dtype.itemsize
    guess = bytes(raw_bytes(base))[start * size : 2 * start * size]
    assert parts[1][2] == (not name.startswith("F8_E5M2"))
    found = independent.classed_part(guess, parts[1], name, start, 32)
    assert found == bytes(raw_bytes(value))[start * size : 2 * start * size]


def test_a_store_with_exact_remainders_and_whole_tensors(tmp_path: Path) -> None:
    weight = normal(3, 60, 50)
    save_file({"w": weight, "v": weight[0].clone()}, tmp_path / "base.safetensors")
    changed = {"w": tuned(weight, torch.float32), "v": weight[0] + 0.1, "head": normal(4, 40, 50)}
    save_file(changed, tmp_path / "ft.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    store.commit(tmp_path / "ft.safetensors", base="base", quality=Quality(exact=True))
    manifest = store.manifest_of("ft")
    assert set(Patch.open(store.objects, manifest.patch).tensors) == {"w", "v"}
    (head,) = manifest.dense["head"]
    assert store.objects.open("tensors", head.tensor.data.oid).index["segments"][0][2] == "words4"
    reader = independent.Reader(tmp_path / "store")
    found = reader.tensors(reader.manifest_of(store.resolve("ft")))
    assert found == {name: bytes(raw_bytes(as_array(value))) for name, value in changed.items()}
