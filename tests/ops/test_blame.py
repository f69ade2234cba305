"""``blame``: energies and cross terms of the commits behind one tensor, against dense values."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import fleet, linear

from erestore.errors import NotFoundError, UnknownRevisionError, UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fleet(tmp_path_factory.mktemp("blame"))


@pytest.mark.parametrize("key", ["dense.weight", "dense.bias", "embedding.weight"])
def test_shares_are_those_of_dense_values(store, key):
    found = store.blame("child", key)
    base, one, child = (linear(store, name, [key]) for name in ("base", "one", "child"))
    first, second, whole = one - base, child - one, child - base
    assert found.energy == pytest.approx(whole @ whole, rel=1e-9)
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=1e-9)
    by_name = {commit.refs: commit for commit in found.commits}
    assert set(by_name) == {("one",), ("child",)}
    for name, own in (("one", first), ("child", second)):
        commit = by_name[(name,)]
        assert commit.energy == pytest.approx(own @ own, rel=1e-9)
        assert commit.cross == pytest.approx(first @ second, rel=1e-9, abs=1e-9 * found.energy)
        assert commit.share == pytest.approx(own @ whole / (whole @ whole), rel=1e-9)
        assert commit.coefficient == 1
    assert sum(commit.share for commit in found.commits) == pytest.approx(1)
    assert sum(commit.energy + commit.cross for commit in found.commits) == pytest.approx(found.energy)
    assert [commit.share for commit in found.commits] == sorted((c.share for c in found.commits), reverse=True)


def test_merges_and_expressions_name_whoever_made_the_residuals(store):
    for revision in ("merged", "2*one - 1/3*coarse"):
        found = store.blame(revision, "dense.weight")
        weights = {commit.refs: commit.coefficient for commit in found.commits}
        assert weights == {("one",): 2, ("coarse",): pytest.approx(-1 / 3)}
        assert all(commit.commit == store.resolve(commit.refs[0]) for commit in found.commits)


def test_what_nobody_changed(store):
    found = store.blame("adapter", "dense.bias")
    assert (found.norm, found.energy, found.commits) == (0, 0, ())
    (commit,) = store.blame("adapter", "dense.weight").commits
    assert (commit.refs, commit.share, commit.cross) == (("adapter",), pytest.approx(1), 0)
    assert store.blame("base", "dense.weight").commits == ()


def test_what_is_refused(store):
    with pytest.raises(NotFoundError, match="no tensor 'nothing'"):
        store.blame("one", "nothing")
    with pytest.raises(UsageError, match="in full"):
        store.blame("one", "head.weight")
    with pytest.raises(UnknownRevisionError):
        store.blame("nobody", "dense.weight")
