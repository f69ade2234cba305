"""Spectra of base tensors are computed once, and a copy on disk is never trusted or needed."""

import math

import numpy as np
import pytest
import torch
from tiny import make_store, write_model

from erestore.analysis.diff.base_spectra import BaseSpectra
from erestore.arrays import as_tensor
from erestore.ops.import_base import import_base
from erestore.storage.memory import MemoryStorage
from erestore.variant.variant import Variant


@pytest.fixture
def variant(tmp_path):
    generator = torch.Generator().manual_seed(0)
    weights = {
        "matrix": torch.randn(12, 7, generator=generator),
        "half": torch.randn(6, 5, 2, generator=generator).to(torch.bfloat16),
        "fp8": torch.randn(6, 5, generator=generator).to(torch.float8_e4m3fn),
        "broken": torch.full((4, 4), math.inf),
        "vector": torch.ones(5),
        "row": torch.ones(1, 5),
        "integers": torch.ones(4, 4, dtype=torch.int64),
    }
    store = make_store(MemoryStorage())
    import_base(store, write_model(tmp_path / "base", weights), name="base")
    return Variant(store.objects, store.manifest_of("base"))


def files(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def dense(variant, key):
    tensor = as_tensor(variant.base_tensor(key)).double().numpy()
    return np.linalg.svd(tensor.reshape(tensor.shape[0], -1), compute_uv=False)


@pytest.mark.parametrize("key", ["matrix", "half", "fp8"])
def test_the_spectrum_is_that_of_the_tensor(variant, key):
    np.testing.assert_allclose(BaseSpectra().of(variant, key), dense(variant, key), rtol=1e-9)


@pytest.mark.parametrize("key", ["broken", "vector", "row", "integers", "nothing"])
def test_what_has_no_spectrum(variant, key, tmp_path):
    for _ in range(2):
        assert BaseSpectra(tmp_path / "spectra").of(variant, key) is None


def test_it_is_computed_once(variant, tmp_path, monkeypatch):
    held = BaseSpectra()
    found = held.of(variant, "matrix")
    assert torch.equal(BaseSpectra(tmp_path / "spectra").of(variant, "matrix"), found)
    assert len(files(tmp_path / "spectra")) == 1
    monkeypatch.setattr(variant, "base_tensor", None)
    assert torch.equal(held.of(variant, "matrix"), found)
    assert torch.equal(BaseSpectra(tmp_path / "spectra").of(variant, "matrix"), found)


@pytest.mark.parametrize("damage", [b"", b"x", bytes(32), bytes(100)])
def test_a_damaged_copy_is_replaced(variant, tmp_path, damage):
    found = BaseSpectra(tmp_path / "spectra").of(variant, "matrix")
    (path,) = files(tmp_path / "spectra")
    intact = path.read_bytes()
    path.write_bytes(damage)
    assert torch.equal(BaseSpectra(tmp_path / "spectra").of(variant, "matrix"), found)
    assert path.read_bytes() == intact
    path.write_bytes(intact[:-8] + bytes(8))
    assert torch.equal(BaseSpectra(tmp_path / "spectra").of(variant, "matrix"), found)


def test_a_directory_that_cannot_be_written_costs_nothing_but_time(variant, tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = BaseSpectra(tmp_path / "file" / "spectra").of(variant, "matrix")
    np.testing.assert_allclose(found, dense(variant, "matrix"), rtol=1e-9)
    assert files(tmp_path / "file") == []
