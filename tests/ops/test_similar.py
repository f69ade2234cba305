"""``similar``: cosines against dense float64, duplicates, outliers, overlaps, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from fleets import NAMES, changes, fleet, floating_keys

from erestore.api import Store
from erestore.errors import CombinationError, NotFoundError, UnknownRevisionError, UsageError
from erestore.ops.similar import _outliers, similar


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fleet(tmp_path_factory.mktemp("similar"))


def test_cosines_and_norms_are_those_of_dense_float64(store, tmp_path):
    dense = changes(store, NAMES)
    norms = np.linalg.norm(dense, axis=1)
    for _ in range(2):  # computed, and read from the table
        found = store.similar(products_directory=tmp_path / "products")
        assert found.names == NAMES
        assert found.base == "base"
        assert np.allclose(found.norms, norms, rtol=1e-9)
        assert np.allclose(found.gram, dense @ dense.T, rtol=1e-9, atol=1e-9 * norms.min() ** 2)
        assert np.allclose(found.matrix, dense @ dense.T / np.outer(norms, norms), atol=1e-9)
    assert found.whole["one"] == 2
    assert found.whole.keys() == set(NAMES) - {"adapter"}
    assert (found.duplicates, found.overlaps) == ((), ())
    assert len(list((tmp_path / "products").iterdir())) == 1


def test_expressions_and_bases_have_their_place(store):
    found = store.similar(["one", "base", "2*one", "one - coarse"])
    assert found.names == ("one", "base", "2*one", "one - coarse")
    assert found.norms[2] == pytest.approx(2 * found.norms[0])
    assert found.matrix[0][2] == pytest.approx(1, abs=1e-12)
    assert found.matrix[1] == (None,) * 4
    assert found.duplicates == ()
    assert store.similar(["one", "one"]).names == ("one",)


def test_duplicates(store):
    found = store.similar(
        ["one", "two", "0.5*one + 0.5*one", "1.000002*one", "child + two - child", "one - one", "base"]
    )
    assert found.duplicates == (("one", "0.5*one + 0.5*one"), ("two", "child + two - child"), ("one - one", "base"))


@pytest.fixture
def herd(tmp_path):
    """Eight fine-tunes in one direction, one that went elsewhere, one that went too far."""
    store = Store.init(tmp_path / "store")
    base = tiny.base_weights()
    store.import_base(tiny.write_model(tmp_path / "base", base), name="base")
    there, elsewhere = (tiny.tuned(base, seed) for seed in (1, 2))
    runs = [(f"run{number}", there, 1 + number / 20) for number in range(8)]
    for name, goal, scale in [*runs, ("odd", elsewhere, 1.1), ("far", there, 9.0)]:
        own = tiny.tuned(base, sum(map(ord, name)))
        tensors = {
            key: tensor + scale * (goal[key] - tensor) + 0.1 * (own[key] - tensor)
            if tensor.is_floating_point() and key != "embedding.weight"
            else tensor
            for key, tensor in base.items()
        }
        store.commit(tiny.write_model(tmp_path / name, tensors), base="base", name=name)
    return store


def test_outliers(herd):
    found = herd.similar()
    assert {(each.name, each.reason) for each in found.outliers} == {("odd", "direction"), ("far", "norm")}
    odd = next(each for each in found.outliers if each.name == "odd")
    row = found.names.index("odd")
    cosines = [value for place, value in enumerate(found.matrix[row]) if place != row]
    assert odd.value == pytest.approx(np.median(cosines))
    assert odd.typical > 0.9 > 0.5 > odd.value
    assert [each.score for each in found.outliers] == sorted((each.score for each in found.outliers), reverse=True)
    assert herd.similar([f"run{number}" for number in range(8)]).outliers == ()
    assert herd.similar(["run0", "run1", "run2", "odd"]).outliers == ()  # too few to tell


@pytest.mark.parametrize(
    ("cosine", "norm", "found"),
    [
        (0.5, 1.0, set()),
        (0.45, 1.0, {"direction"}),
        (0.95, 1.0, set()),  # nearer to all than usual is no fault
        (0.5, 1.5, {"norm"}),
        (0.5, 0.7, {"norm"}),
        (0.5, 1.04, set()),
    ],
)
def test_what_is_far_off(cosine, norm, found):
    cosines = np.full((9, 9), 0.5) + np.linspace(-0.01, 0.01, 9)[:, None] + np.linspace(-0.01, 0.01, 9)
    cosines[8, :] = cosines[:, 8] = cosine
    norms = np.array([0.98, 0.99, 1.0, 1.0, 1.01, 1.02, 0.97, 1.03, norm])
    outliers = _outliers([f"v{number}" for number in range(9)], cosines, norms)
    assert {each.reason for each in outliers} == found
    assert {each.name for each in outliers} <= {"v8"}


def test_overlaps_tensor_by_tensor(store):
    found = store.similar(["one", "adapter", "child"], angles=True)
    assert [(pair.a, pair.b) for pair in found.overlaps] == [("one", "adapter"), ("one", "child"), ("adapter", "child")]
    (only,) = found.overlaps[0].tensors  # an adapter of one layer
    keys = floating_keys(store)
    assert [tensor.name for tensor in found.overlaps[1].tensors] == keys
    dense = {}
    for name in ("one", "adapter"):
        vector, start = changes(store, (name,))[0], 0
        for key in keys:
            shape = store.state_dict("base")[key].shape
            size = int(np.prod(shape))
            if key == "dense.weight":
                dense[name] = vector[start : start + size].reshape(shape)
            start += size
    one, adapter = dense["one"], dense["adapter"]
    assert only.name == "dense.weight"
    energy = np.cumsum(np.linalg.svd(adapter)[1] ** 2)
    assert only.shape == (32, 48)
    assert only.rank_b == int((energy < 0.9 * energy[-1]).sum()) + 1
    assert only.cosine == pytest.approx((one * adapter).sum() / np.linalg.norm(one) / np.linalg.norm(adapter), rel=1e-9)
    assert (only.norm_a, only.norm_b) == pytest.approx((np.linalg.norm(one), np.linalg.norm(adapter)))
    left, _, right = np.linalg.svd(adapter)
    projected = left[:, : only.rank_b].T @ one @ right[: only.rank_b].T
    assert only.a_in_b == pytest.approx((projected**2).sum() / (one**2).sum(), rel=1e-6)
    assert len(only.column_angles) == min(only.rank_a, only.rank_b)
    assert only.column_overlap == pytest.approx(np.mean(np.cos(only.column_angles) ** 2))
    assert (only.column_chance, only.row_chance) == (
        max(only.rank_a, only.rank_b) / 32,
        max(only.rank_a, only.rank_b) / 48,
    )
    same = store.similar(["one", "2*one"], angles=True).overlaps[0].tensors
    matrix = next(tensor for tensor in same if tensor.name == "dense.weight")
    assert matrix.cosine == pytest.approx(1)
    assert (matrix.column_overlap, matrix.row_overlap) == pytest.approx((1, 1))
    assert 0.9 <= matrix.a_in_b <= 1 + 1e-9
    assert {type(value) for value in (matrix.cosine, matrix.a_in_b, matrix.norm_a)} == {float}
    bias = next(tensor for tensor in same if tensor.name == "dense.bias")
    assert (bias.rank_a, bias.column_angles, bias.a_in_b) == (None, (), None)


def test_a_variant_against_nothing(store):
    (pair,) = store.similar(["one", "one - one"], angles=True).overlaps
    assert pair.tensors == ()


def test_what_is_refused(store, tmp_path):
    with pytest.raises(UnknownRevisionError):
        store.similar(["one", "nothing"])
    with pytest.raises(UsageError, match="named"):
        similar(store, angles=True)
    with pytest.raises(UsageError, match="--base"):
        store.similar(["one"], base="base")
    with pytest.raises(NotFoundError, match="no base 'other'"):
        store.similar(base="other")
    empty = Store.init(tmp_path / "empty")
    with pytest.raises(NotFoundError, match="no variants"):
        empty.similar()


def test_bases_do_not_mix(herd, tmp_path):
    herd.import_base(tmp_path / "far", name="other")
    herd.commit(tmp_path / "odd", base="other", name="foreign")
    with pytest.raises(CombinationError, match="2 bases: base and other") as raised:
        herd.similar()
    assert raised.value.exit_code == 5
    assert "--base" in raised.value.hint
    assert {conflict.operands for conflict in raised.value.conflicts if len(conflict.operands) == 1} == {("foreign",)}
    with pytest.raises(CombinationError, match="2 bases"):
        herd.similar(["run0", "foreign"])
    assert herd.similar(base="other").names == ("foreign",)
    assert len(herd.similar(base="base").names) == 10
