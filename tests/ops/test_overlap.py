"""``show --overlap`` and ``log --overlap``: a commit's own residual in the spaces of its ancestors, against dense values."""

from __future__ import annotations

import numpy as np
import pytest
from fleets import fleet, linear

KEYS = ["dense.weight", "embedding.weight", "dense.bias", "scale"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fleet(tmp_path_factory.mktemp("overlap"))


def own(store, name, parent, key):
    shape = store.state_dict("base")[key].shape
    return (linear(store, name, [key]) - linear(store, parent, [key])).reshape(shape)


def test_shares_and_cosines_are_those_of_dense_values(store, tmp_path):
    shown = store.show("child", overlap=True, products_directory=tmp_path / "products")
    (found,) = shown.overlaps
    assert found.commit == store.resolve("one")
    within = 0.0
    for key in KEYS[:2]:
        change, ancestor = own(store, "child", "one", key), own(store, "one", "base", key)
        left, values, right = np.linalg.svd(ancestor, full_matrices=False)
        rank = int((np.cumsum(values**2) < 0.9 * (values**2).sum()).sum()) + 1
        inside = ((left[:, :rank].T @ change @ right[:rank].T) ** 2).sum()
        (tensor,) = [each for each in found.tensors if each.name == key]
        assert tensor.a_in_b == pytest.approx(inside / (change**2).sum(), rel=1e-6)
        within += inside
    changes, ancestors = (
        np.concatenate([own(store, *pair, key).reshape(-1) for key in KEYS])
        for pair in (("child", "one"), ("one", "base"))
    )
    assert found.share == pytest.approx(within / (changes @ changes), rel=1e-6)
    cosine = changes @ ancestors / np.linalg.norm(changes) / np.linalg.norm(ancestors)
    assert found.cosine == pytest.approx(cosine, rel=1e-9)


def test_what_has_no_residual_of_its_own_or_no_ancestor_with_one(store):
    assert store.show("merged", overlap=True).overlaps == ()
    assert store.show("one", overlap=True).overlaps == ()
    assert store.show("base", overlap=True).overlaps == ()
    assert store.show("child").overlaps is None


def test_the_log_says_the_same_in_short(store):
    entries = {entry.refs[0]: entry for entry in store.log(overlap=True)}
    (short,), (full,) = entries["child"].overlaps, store.show("child", overlap=True).overlaps
    assert (short.commit, short.share, short.tensors) == (full.commit, pytest.approx(full.share), ())
    assert entries["one"].overlaps == ()
    assert all(entry.overlaps is None for entry in store.log())
