"""Leading subspaces, their angles, and what of a change lies in them, against dense decompositions."""

from __future__ import annotations

import numpy as np
import pytest
from sections import section, value

from erestore.residual import subspaces
from erestore.residual.products import Matrix
from erestore.residual.subspaces import energy_within, leading_subspaces, principal_angles


def change(kinds, shape, random, base):
    """Return a change of two weighted parts, one of fewer rows, and its dense value."""
    parts, total = [], np.zeros(shape)
    for coefficient, missing in ((0.5, 0), (-2.0, 3)):
        sections = [section(kind, (shape[0] - missing, shape[1]), 2, random) for kind in kinds]
        parts.append((coefficient, Matrix.of(sections)))
        total += coefficient * value(sections, shape[0], base)
    return parts, total


@pytest.mark.parametrize("kinds", [["factors"], ["lowrank2", "factors"], ["remainder"], ["factors", "gamma"]])
@pytest.mark.parametrize("shape", [(20, 9), (9, 20), (12, 12)])
@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_they_are_those_of_the_dense_matrix(kinds, shape, share, monkeypatch):
    monkeypatch.setattr(subspaces, "TILE_BYTES", 8 * shape[1] * 4)
    random = np.random.default_rng(1)
    base = random.standard_normal(shape)
    parts, dense = change(kinds, shape, random, base)

    def rows(start, stop):
        return base[start:stop]

    left, values, right = np.linalg.svd(dense)
    if share == 1.0:
        rank = int((values > 1e-6 * values[0]).sum())
        found = leading_subspaces(parts, 1 - 1e-10, rows)
    else:
        rank = int(np.searchsorted(np.cumsum(values**2), share * (values**2).sum())) + 1
        found = leading_subspaces(parts, share, rows)
    assert found.rank == rank
    for own, wanted in ((found.left, left[:, :rank]), (found.right, right[:rank].T)):
        assert np.allclose(own.T @ own, np.eye(rank), atol=1e-6)
        assert np.allclose(own @ own.T, wanted @ wanted.T, atol=1e-6)
    other, its = change(["remainder", "factors"], shape, random, base)
    projected = found.left @ (found.left.T @ its @ found.right) @ found.right.T
    assert energy_within(other, found, rows) == pytest.approx((projected**2).sum(), rel=1e-6)
    only, its = change(["factors"], shape, random, base)
    projected = found.left.T @ its @ found.right
    assert energy_within(only, found) == pytest.approx((projected**2).sum(), rel=1e-6)


def test_angles():
    one = np.eye(6)[:, :2]
    two = np.eye(6)[:, 1:4].copy()
    assert principal_angles(one, two).tolist() == [0, np.pi / 2]
    turned = np.eye(6)[:, :1] * np.cos(0.3) + np.eye(6)[:, 4:5] * np.sin(0.3)
    assert principal_angles(one, turned) == pytest.approx([0.3])
    assert principal_angles(np.eye(4)[:, :1], turned) == pytest.approx([0.3])  # fewer rows


def test_no_change_has_no_subspaces():
    random = np.random.default_rng(2)
    zero = [(0.0, Matrix.of([section("factors", (5, 4), 2, random)]))]
    assert leading_subspaces(zero, 0.9) is None
    assert leading_subspaces([(0.0, Matrix.of([section("remainder", (5, 4), 2, random)]))], 0.9) is None
    assert leading_subspaces([(1.0, Matrix.of([section("factors", (5, 4), 0, random)]))], 0.9) is None
    assert leading_subspaces([], 0.9) is None
    some = leading_subspaces([(1.0, Matrix.of([section("factors", (5, 4), 2, random)]))], 0.9)
    assert energy_within([], some) == 0
