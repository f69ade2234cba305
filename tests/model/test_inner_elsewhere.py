"""Inner products of what other versions wrote, and of real families, against dense float64."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest

from erestore.analysis.similarity.inner_products import variant_products
from erestore.api import Store
from erestore.checkpoint.dtypes import is_floating
from erestore.encoding.quality import Quality
from erestore.history.revision import open_revision
from erestore.variant.variant import Variant

GOLDEN = Path(__file__).parents[1] / "golden"


def against_dense(store: Store, names: list[str]) -> set[str]:
    """Compare the Gram matrix with that of the dense differences, and return the names of the codecs that were met."""
    variants = [open_revision(store, name).variant(store, lossy=True) for name in names]
    found = variant_products(variants)
    wanted = np.zeros_like(found)
    for key, tensor in variants[0].base.items():
        if is_floating(tensor.dtype):
            dense = np.stack([change(variant, key) for variant in variants])
            wanted += dense @ dense.T
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    assert (np.abs(found - wanted) <= 1e-9 * scale).all()
    return {
        section.codec
        for each in variants
        for _, r in each.residuals
        for t in r.tensors.values()
        for section in t.sections
    }


def change(variant: Variant, key: str) -> np.ndarray:
    """Return what a variant's terms add to one tensor, evaluated as a checkout does."""
    total = np.zeros(matrix_of(variant, key).shape)
    for coefficient, sections in variant.terms(key):
        rows = sections[0].shape[0]
        base = matrix_of(variant, key)[:rows].astype(np.float64)
        total[:rows] += coefficient * sum(section.rows(0, rows, base) for section in sections)
    return total.reshape(-1)


def matrix_of(variant: Variant, key: str) -> np.ndarray:
    return variant.linear(key).base


@pytest.mark.parametrize(
    ("name", "codecs"),
    [("v1", {"lowrank", "vector", "gamma", "factors", "ere", "dense"}), ("v1-runs", {"lowrank2", "remainder"})],
)
def test_what_former_versions_wrote(name, codecs):
    store = Store.open(GOLDEN / name / "store")
    bases = {}
    for branch in store.branches():
        manifest = store.manifest_of(branch.name)
        if manifest.terms:
            bases.setdefault(manifest.base, []).append(branch.name)
    met = set[str]().union(*(against_dense(store, names) for names in bases.values()))
    assert codecs <= met


@pytest.mark.models
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(families.rxnfp, marks=pytest.mark.soak),
        pytest.param(families.minilm_tuned, marks=pytest.mark.soak),
        families.chgnet,
    ],
)
def test_real_families(family, tmp_path):
    paths = dict(family())
    base = next(name for name in ("bert_pretrained", "base", "0.3.0") if name in paths)
    store = Store.init(tmp_path / "store")
    store.import_base(paths.pop(base), name="base")
    paths.pop("0.2.0", None)
    for name, path in paths.items():
        for error in (0.01, 0.3):
            store.commit(path, base="base", name=f"{name}-{error}", quality=Quality(max_error=error))
    names = [branch.name for branch in store.branches() if store.manifest_of(branch.name).terms]
    against_dense(store, [*names, f"1/3*{names[0]} - {names[1]}"])
    found = store.similar()
    assert set(found.names) == set(names)
    assert store.identify(next(iter(paths.values()))).parent.name == f"{next(iter(paths))}-0.01"
