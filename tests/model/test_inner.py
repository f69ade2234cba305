"""Inner products of residuals in blocks and strips: the same numbers, few reads, and only what is not known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "ops"))

from fleets import NAMES, changes, fleet

from erestore.analysis.similarity import inner_products
from erestore.analysis.similarity.inner_products import ResidualProducts, group_keys, load_residual, variant_products
from erestore.analysis.similarity.product_cache import ProductTable
from erestore.errors import CorruptionError
from erestore.history.revision import open_revision


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fleet(tmp_path_factory.mktemp("inner"))


def variants(store, names=NAMES):
    return [open_revision(store, name).variant(store, lossy=True) for name in names]


def close(found, wanted):
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    return bool((np.abs(found - wanted) <= 1e-9 * scale).all())


@pytest.mark.parametrize(
    ("held", "strip", "group", "blocks"),
    [
        (1 << 30, 1 << 30, 1 << 30, 1),
        (1, 1, 1 << 30, 5),
        (1, 1, 1, 5),
        (20_000, 1, 1, None),
        (40_000, 30_000, 5000, None),
    ],
)
def test_they_are_those_of_dense_float64_however_they_are_cut(store, monkeypatch, held, strip, group, blocks):
    monkeypatch.setattr(inner_products, "HELD_BYTES", held)
    monkeypatch.setattr(inner_products, "STRIP_BYTES", strip)
    monkeypatch.setattr(inner_products, "_GROUP_BYTES", group)
    dense = changes(store, NAMES)
    told = []
    found = variant_products(variants(store), progress=lambda *step: told.append(step))
    assert close(found, dense @ dense.T)
    assert told[-1] == ("comparing", 15, 15)
    assert blocks in (None, len(told))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_the_fleet_has_sections_of_all_kinds(store):
    kinds = {kind for name in NAMES for kind in store.show(name).sections}
    assert {"lowrank2", "remainder", "gamma", "factors"} <= kinds


def oids(store):
    return sorted({term.residual for variant in variants(store) for term in variant.manifest.terms})


class Loads:
    """Counts residuals that are decoded."""

    def __init__(self, monkeypatch):
        self.oids = []
        monkeypatch.setattr(inner_products, "load_residual", self)

    def __call__(self, variant, oid, keys):
        self.oids.append(oid)
        return load_residual(variant, oid, keys)


def test_what_is_known_is_not_computed_again(store, tmp_path, monkeypatch):
    table, every = ProductTable(tmp_path, store.id), oids(store)
    plain = variants(store)[0]
    whole = ResidualProducts(plain, every).all()
    loads = Loads(monkeypatch)
    ResidualProducts(plain, every[:-1], table).all()
    assert sorted(loads.oids) == every[:-1]
    loads.oids.clear()
    found = ResidualProducts(plain, every, table).all()
    assert np.allclose(found, whole, rtol=1e-12, atol=0)
    assert sorted(loads.oids) == every  # once each
    loads.oids.clear()
    assert np.array_equal(ResidualProducts(plain, every, table).all(), found)
    assert not loads.oids


def test_one_more_is_held_and_the_others_pass_by(store, tmp_path, monkeypatch):
    """The 1,001st costs 1,000 pairs: nothing that is known is multiplied again."""
    table, every = ProductTable(tmp_path, store.id), oids(store)
    ResidualProducts(variants(store)[0], every[1:], table).all()
    sizes = []

    def counted(ones, twos, base=None, *, own=inner_products.cross_products):
        sizes.append((len(ones), len(twos)))
        return own(ones, twos, base)

    def counted_gram(matrices, base=None, *, own=inner_products.gram):
        sizes.append((len(matrices), len(matrices)))
        return own(matrices, base)

    monkeypatch.setattr(inner_products, "cross_products", counted)
    monkeypatch.setattr(inner_products, "gram", counted_gram)
    ResidualProducts(variants(store)[0], every, table).all()
    assert sizes
    assert {ones for ones, _ in sizes} == {1}


def test_few_pairs_are_not_many(store, monkeypatch):
    monkeypatch.setattr(inner_products, "_FEW", 1)
    every = oids(store)
    plain = variants(store)[0]
    whole = ResidualProducts(plain, every).all()

    def alone(ones, twos, base=None, *, own=inner_products.cross_products):
        assert (len(ones), len(twos)) == (1, 1)
        return own(ones, twos, base)

    monkeypatch.setattr(inner_products, "cross_products", alone)
    monkeypatch.setattr(inner_products, "gram", None)
    found = ResidualProducts(plain, every).of(np.eye(len(every), dtype=bool))
    assert np.allclose(np.diag(found), np.diag(whole), rtol=1e-12)
    assert np.isnan(found[~np.eye(len(every), dtype=bool)]).all()


def test_a_base_has_no_residuals(store):
    assert variant_products(variants(store, ("base", "one")))[0].tolist() == [0, 0]
    assert variant_products(variants(store, ("base",))).tolist() == [[0]]


def test_a_residual_of_another_base_is_refused(store, tmp_path):
    store.import_base(tmp_path_of(store) / "one", name="foreign")
    (foreign,) = variants(store, ("foreign",))
    with pytest.raises(CorruptionError, match="another base"):
        load_residual(foreign, oids(store)[0], frozenset({"dense.weight"}))


def tmp_path_of(store):
    return Path(store.url.removeprefix("file://")).parent


def test_groups():
    assert list(group_keys({"b": 5, "a": 5, "c": 1}, 6)) == [{"a"}, {"b", "c"}]
    assert list(group_keys({"a": 50, "b": 1}, 6)) == [{"a"}, {"b"}]
    assert list(group_keys({}, 6)) == []
