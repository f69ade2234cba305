"""The packed table of inner products: a copy that is never trusted or needed."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3

from erestore.analysis.similarity import product_cache
from erestore.analysis.similarity.product_cache import ProductTable

OIDS = [blake3(bytes([number])).hexdigest() for number in range(6)]


def symmetric(count: int) -> np.ndarray:
    values = np.random.default_rng(count).standard_normal((count, count))
    return values + values.T


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return np.array_equal(found, wanted, equal_nan=True)


def test_it_gives_back_what_it_was_given(tmp_path):
    table, products = ProductTable(tmp_path / "new", "id"), symmetric(4)
    products[1, 3] = products[3, 1] = np.nan
    assert np.isnan(table.known(OIDS)).all()
    table.keep(OIDS[:4], products)
    assert same(ProductTable(tmp_path / "new", "id").known(OIDS[:4]), products)
    order = [3, 0, 2]
    assert same(table.known([OIDS[place] for place in order]), products[np.ix_(order, order)])
    assert np.isnan(table.known(OIDS)[4:]).all()
    assert np.isnan(ProductTable(tmp_path / "new", "other").known(OIDS)).all()
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_it_grows_and_forgets_nothing(tmp_path):
    table, products = ProductTable(tmp_path, "id"), symmetric(6)
    table.keep(OIDS[:3], products[:3, :3])
    unknown = products.copy()
    unknown[:3, :3] = np.nan
    table.keep(OIDS, unknown)
    assert same(table.known(OIDS), products)
    new = symmetric(2)
    table.keep(OIDS[4:], new)
    assert same(table.known(OIDS[4:]), new)
    assert same(table.known(OIDS[:4]), products[:4, :4])


def test_it_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(product_cache, "MOST", 4)
    table, products = ProductTable(tmp_path, "id"), symmetric(6)
    table.keep(OIDS[:3], products[:3, :3])
    table.keep(OIDS[3:], products[3:, 3:])
    assert same(table.known(OIDS[3:]), products[3:, 3:])
    assert np.isnan(table.known(OIDS[:3])).all()


@pytest.mark.parametrize(
    "damage", [b"", b"x", bytes(100), b"erestore products 1\n", b"erestore products 2\n" + bytes(60)]
)
def test_a_damaged_or_foreign_file_is_replaced(tmp_path, damage):
    table, products = ProductTable(tmp_path, "id"), symmetric(3)
    table.keep(OIDS[:3], products)
    (path,) = tmp_path.iterdir()
    intact = path.read_bytes()
    path.write_bytes(damage)
    assert np.isnan(table.known(OIDS)).all()
    table.keep(OIDS[:3], products)
    assert path.read_bytes() == intact
    path.write_bytes(intact[:-8] + bytes(8))
    assert np.isnan(table.known(OIDS)).all()


def test_a_directory_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("in the way")
    table = ProductTable(tmp_path / "file" / "products", "id")
    table.keep(OIDS[:3], symmetric(3))
    assert np.isnan(table.known(OIDS)).all()
    assert np.isnan(ProductTable().known(OIDS)).all()
    ProductTable().keep(OIDS[:3], symmetric(3))
