"""Diffs held against dense numpy: residuals made by hand for each way of computing, and committed models for the rest."""

import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from families import rxnfp
from tiny import EXACT, base_weights, make_store, tensors_of, tuned, write_model

from erestore.arrays import as_array
from erestore.checkpoint.open import open_checkpoint
from erestore.encoding.quality import Quality
from erestore.errors import CheckpointError, NotFoundError, UnknownRevisionError, UsageError
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors
from erestore.ops.commit import commit
from erestore.ops.diff import diff
from erestore.ops.import_base import import_base
from erestore.records import Base, Commit, Manifest, Term, normal_terms
from erestore.residual import dyadic, factorise, quantisation
from erestore.residual.codecs import factors, gamma, lowrank2, remainder
from erestore.residual.spectrum import decompose
from erestore.storage.memory import MemoryStorage

SHAPES = {"tall.weight": (90, 40), "wide.weight": (40, 90), "conv.weight": (24, 5, 3, 3), "bias": (40,), "scale": ()}


class WatchedStorage(MemoryStorage):
    """Notes what is read."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def read(self, key):
        self.reads.append(key)
        return super().read(key)


def random(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def matrix(tensor):
    return tensor.double().numpy().reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)


def key_of(oid):
    return f"objects/{oid[:2]}/{oid[2:]}"


class Lab:
    """A store with one base whose variants are put together from residuals made by hand."""

    def __init__(self, directory, shapes=SHAPES):
        self.storage = WatchedStorage()
        self.store = make_store(self.storage)
        self.weights = {name: random(shape, number) for number, (name, shape) in enumerate(shapes.items())}
        import_base(self.store, write_model(directory / "base", self.weights), name="base")
        self.root = self.store.resolve("base")
        self.manifest = self.store.manifest_of("base")
        self.dense = {}

    def residual(self, rows=None, **sections):
        """Write one residual: for each tensor its sections, on its first rows only if that is said."""
        with ResidualWriter(self.store.objects, self.manifest.base) as writer:
            for name, encoded in sorted(sections.items()):
                key = name.replace("__", ".")
                shape = tuple(self.weights[key].shape)
                writer.add(key, (rows, *shape[1:]) if rows else shape, encoded, Errors(0.0, 0.0, 1.0))
            return writer.finish().oid

    def variant(self, name, *terms, rows=None):
        """Make a variant; of "tall.weight" it has the first rows only if that is said."""
        held = normal_terms(tuple(Term(oid, Fraction(c) if isinstance(c, (int, str)) else c) for oid, c in terms))
        layout = self.manifest.layout
        if rows:
            record = self.store.objects.get_record("layout", layout)
            record["tensors"]["tall.weight"][2][0] = rows
            layout = self.store.objects.put_record("layout", record).oid
        manifest = Manifest(self.manifest.base, held, layout)
        stored = self.store.objects.put_record("manifest", manifest.to_record())
        operation = self.store.begin()
        record = Commit(stored.oid, (self.root,), "adapted", "tester", operation.time, "")
        self.store.record(record, name, operation, expected=0)

    def diff(self, a, b, **options):
        self.storage.reads.clear()
        result = diff(self.store, a, b, **options)
        return result, {tensor.name: tensor for tensor in result.tensors}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def low_rank(shape, rank, seed):
    m, n = shape[0], math.prod(shape[1:])
    delta = random((m, rank), seed) @ random((n, rank), seed + 1).T
    found = decompose(delta)
    codes = factorise.quantise(delta, found.basis[:, :rank], found.singular_values[:rank], found.side, 1e-4)
    return lowrank2.encode(codes)


def quantised(values, step=1e-3):
    values = values.reshape(len(values) if values.ndim > 1 else 1, -1)
    size = quantisation.usable_step(values, step)
    return remainder.encode(quantisation.quantise_matrix(values, size), size, tuple(values.shape))


def adapter(shape, rank, seed, scaling=0.5):
    up, down = random((shape[0], rank), seed), random((rank, math.prod(shape[1:])), seed + 1)
    return factors.encode(as_array(up), as_array(down), scaling)


def scaled(value):
    return gamma.encode(dyadic.nearest(value, gamma.GAMMA_BITS))


def linear_values(store, revision):
    """Evaluate a variant's float64 values densely."""
    from erestore.variant.variant import Variant

    variant = Variant(store.objects, store.manifest_of(revision))
    return {key: variant.linear(key).rows(0, 10**6) for key in variant.base}


def expected_numbers(before, after, base):
    """Everything a diff says of one matrix, straight from the definitions."""
    delta = after - before
    values = np.linalg.svd(delta, compute_uv=False)
    erank = math.exp(-sum(p * math.log(p) for p in values / values.sum() if p > 0))
    base_values = np.linalg.svd(base, compute_uv=False)
    base_erank = math.exp(-sum(p * math.log(p) for p in base_values / base_values.sum() if p > 0))
    energy = np.cumsum(values**2) / np.sum(values**2)
    return {
        "norm": np.linalg.norm(delta),
        "relative_norm": np.linalg.norm(delta) / np.linalg.norm(before),
        "effective_rank": erank,
        "effective_rank_ratio": erank / base_erank,
        "energy": {1 << k: energy[(1 << k) - 1] for k in range(len(values).bit_length())},
        "energy_in_tenth": energy[max(1, round(len(values) / 10)) - 1],
    }


def assert_numbers(tensor, expected, rel):
    for name, value in expected.items():
        found = getattr(tensor, name)
        if name == "energy":
            assert list(found) == list(value)
            assert list(found.values()) == pytest.approx(list(value.values()), rel=rel)
        else:
            assert found == pytest.approx(value, rel=rel), name


SECTIONS = {
    "factors": lambda shape, seed: (adapter(shape, 4, seed),),
    "lowrank": lambda shape, seed: (low_rank(shape, 5, seed),),
    "both": lambda shape, seed: (adapter(shape, 2, seed), low_rank(shape, 3, seed + 9)),
    "gamma": lambda _, seed: (scaled(0.01 * seed),),
    "gamma and lowrank": lambda shape, seed: (scaled(-0.02), low_rank(shape, 5, seed)),
    "quantised": lambda shape, seed: (quantised(random(shape, seed)),),
}
WAYS = {"gamma": "scale", "gamma and lowrank": "residuals", "quantised": "residuals"}


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize("name", ["tall.weight", "wide.weight", "conv.weight"])
def test_every_way_of_computing_gives_what_dense_numpy_gives(lab, kind, name):
    one, two, three = (
        lab.residual(**{name.replace(".", "__"): SECTIONS[kind](SHAPES[name], seed)}) for seed in (20, 30, 40)
    )
    lab.variant("a", (one, "1/3"), (two, 1), (three, 1))
    lab.variant("b", (one, -0.25), (two, 1))
    _, found = lab.diff("a", "b")
    before, after = linear_values(lab.store, "a")[name], linear_values(lab.store, "b")[name]
    assert found[name].computed_from == WAYS.get(kind, "factors")
    assert_numbers(found[name], expected_numbers(before, after, matrix(lab.weights[name])), 1e-9)
    assert {other.status for other in found.values() if other.name != name} == {"unchanged"}


@pytest.mark.parametrize("kind", ["factors", "lowrank"])
def test_singular_values_from_factors_are_the_dense_ones(lab, kind):
    from erestore.analysis.diff.net_terms import Net
    from erestore.objects.residual import Residual
    from erestore.residual.spectrum import singular_values_of_product

    name, terms = "tall.weight", [(1.5, 20), (-0.3, 30)]
    oids = [lab.residual(tall__weight=SECTIONS[kind](SHAPES[name], seed)) for _, seed in terms]
    sections = [Residual.open(lab.store.objects, oid).sections(name) for oid in oids]
    net = Net(SHAPES[name], tuple(zip((c for c, _ in terms), sections, strict=True)))
    held = net.factors()
    assert held is not None
    found = singular_values_of_product(*held)
    expected = np.linalg.svd(net.rows(0, 90, None).numpy(), compute_uv=False)
    rank = held[0].shape[1]
    np.testing.assert_allclose(found[:rank], expected[:rank], rtol=1e-10)
    assert not found[rank:].any()


@pytest.mark.parametrize("kind", SECTIONS)
@pytest.mark.parametrize("rows", [None, 30, 70])
def test_a_residual_that_covers_fewer_rows_or_more_than_are_compared(lab, kind, rows):
    short = lab.residual(50, tall__weight=SECTIONS[kind]((50, 40), 20))
    lab.variant("a")
    lab.variant("b", (short, -2), rows=rows)
    _, found = lab.diff("a", "b")
    before, after = (linear_values(lab.store, name)["tall.weight"][:rows] for name in ("a", "b"))
    expected = expected_numbers(before, after, matrix(lab.weights["tall.weight"]))
    if rows == 30:
        expected = {name: expected[name] for name in ("norm", "relative_norm", "effective_rank")}
    assert found["tall.weight"].status == ("resized" if rows else "changed")
    assert_numbers(found["tall.weight"], expected, 1e-9)


def test_too_many_factors_are_evaluated(lab):
    oid = lab.residual(wide__weight=(adapter((40, 90), 20, 3),))
    lab.variant("b", (oid, 1))
    _, found = lab.diff("base", "b")
    assert found["wide.weight"].computed_from == "residuals"
    after = linear_values(lab.store, "b")["wide.weight"]
    base = matrix(lab.weights["wide.weight"])
    assert_numbers(found["wide.weight"], expected_numbers(base, after, base), 1e-6)


def test_vectors_and_scalars_have_a_norm_only(lab):
    oid = lab.residual(bias=(quantised(random((40,), 1)),), scale=(quantised(torch.tensor(0.5)),))
    lab.variant("b", (oid, 2))
    result, found = lab.diff("base", "b")
    for name in ("bias", "scale"):
        before, after = lab.weights[name].double().numpy(), linear_values(lab.store, "b")[name].reshape(SHAPES[name])
        assert found[name].norm == pytest.approx(np.linalg.norm(after - before), rel=1e-12)
        assert found[name].relative_norm == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
        assert found[name].effective_rank is None
        assert found[name].energy == {}
    assert result.summary.rank_share_for_half is None
    assert result.summary.effective_rank_ratio is None


def test_shared_terms_cancel_and_are_not_read(lab):
    shared = lab.residual(tall__weight=(low_rank((90, 40), 5, 1),), wide__weight=(quantised(random((40, 90), 2)),))
    other = lab.residual(conv__weight=(adapter((24, 5, 3, 3), 3, 5),))
    lab.variant("a", (shared, "1/2"))
    lab.variant("b", (shared, "1/2"), (other, 1))
    result, found = lab.diff("a", "b")
    assert [name for name, tensor in found.items() if tensor.status != "unchanged"] == ["conv.weight"]
    assert result.summary.counts == {"changed": 1, "unchanged": 4}
    # The index of a residual is its first read; segments would be further ones.
    assert lab.storage.reads.count(key_of(shared)) == 1
    expected = expected_numbers(*(linear_values(lab.store, v)["conv.weight"] for v in ("a", "b", "base")))
    assert_numbers(found["conv.weight"], expected, 1e-9)


def test_what_is_equal_is_unchanged_without_reading_a_tensor(lab):
    oid = lab.residual(tall__weight=(low_rank((90, 40), 5, 1),))
    lab.variant("a", (oid, "1/2"))
    lab.variant("b", (oid, "1/2"))
    result, _ = lab.diff("a", "b")
    assert result.summary.identical
    assert result.summary.counts == {"unchanged": 5}
    tensors = {
        t.data.oid for t in Base.from_record(lab.store.objects.get_record("base", lab.manifest.base)).tensors.values()
    }
    lab.storage.reads.clear()
    diff(lab.store, "a", "b")
    assert not {key_of(oid), *map(key_of, tensors)} & set(lab.storage.reads)


def test_norms_are_the_same_in_both_directions(lab):
    one = lab.residual(tall__weight=(low_rank((90, 40), 5, 1),), bias=(quantised(random((40,), 1)),))
    two = lab.residual(tall__weight=(quantised(random((90, 40), 2)),))
    lab.variant("a", (one, 1))
    lab.variant("b", (two, 1))
    _, there = lab.diff("a", "b")
    _, back = lab.diff("b", "a")
    for name in SHAPES:
        assert there[name].norm == pytest.approx(back[name].norm, rel=1e-12)
        if there[name].effective_rank is not None:
            assert there[name].effective_rank == pytest.approx(back[name].effective_rank, rel=1e-9)
        assert there[name].share == pytest.approx(back[name].share, rel=1e-12)
    assert there["bias"].relative_norm != pytest.approx(back["bias"].relative_norm, rel=1e-6)


def test_a_zero_tensor_that_grows_has_an_infinite_relative_norm(tmp_path):
    weights = {"a.weight": torch.zeros(6, 4), "b.weight": torch.ones(6, 4)}
    store = make_store(MemoryStorage())
    import_base(store, write_model(tmp_path / "base", weights), name="base")
    commit(store, write_model(tmp_path / "ft", {"a.weight": torch.ones(6, 4), "b.weight": torch.ones(6, 4)}))
    (grown, kept) = diff(store, "base", "ft").tensors
    assert (grown.relative_norm, kept.relative_norm) == (math.inf, 0)
    assert grown.effective_rank == pytest.approx(1, abs=1e-3)
    assert grown.effective_rank_ratio is None


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, a chain of two versions, an exact variant, one that is nothing but an exact remainder, and their files."""
    directory, store = tmp_path_factory.mktemp("models"), make_store(MemoryStorage())
    base = base_weights()
    import_base(store, write_model(directory / "base", base), name="base")
    first = tuned(base, 1)
    commit(store, write_model(directory / "lossy", first, "one"), base="base")
    commit(store, write_model(directory / "child", tuned(first, 2), "two"), parent="lossy")
    commit(store, write_model(directory / "grandchild", tuned(first, 3), "three"), parent="child")
    commit(store, write_model(directory / "exact", tuned(base, 5), "five"), base="base", quality=EXACT)
    commit(store, write_model(directory / "only", tuned(base, 6), "six"), base="base", quality=Quality(exact_only=True))
    return store, directory


def dense_change(one, two, rows=None):
    return np.linalg.norm(matrix(two)[:rows] - matrix(one)[:rows])


def test_chains_are_compared_at_any_distance(models):
    store, _ = models
    for a, b in (
        ("base", "grandchild"),
        ("lossy", "grandchild"),
        ("grandchild~1", "grandchild"),
        ("grandchild", "base"),
    ):
        result = diff(store, a, b)
        one, two = linear_values(store, a), linear_values(store, b)
        found = {tensor.name: tensor for tensor in result.tensors}
        for name in ("embedding.weight", "dense.weight", "dense.bias", "scale"):
            if found[name].computed_from != "values":
                assert found[name].norm == pytest.approx(np.linalg.norm(two[name] - one[name]), rel=1e-9)
                assert found[name].relative_norm == pytest.approx(
                    np.linalg.norm(two[name] - one[name]) / np.linalg.norm(one[name]), rel=1e-9
                )
    assert found["position_ids"].status == "unchanged"


@pytest.mark.parametrize("name", ["exact", "only"])
def test_exact_remainders_count(models, name):
    store, _ = models
    found = {tensor.name: tensor for tensor in diff(store, "base", name).tensors}
    one, two = tensors_of(store, "base"), tensors_of(store, name)
    for tensor in ("dense.weight", "dense.bias", "scale"):
        # Without a remainder it is the linear value that is compared, before it is rounded.
        rel = 1e-9 if found[tensor].computed_from == "values" else 1e-6
        assert found[tensor].norm == pytest.approx(dense_change(one[tensor], two[tensor]), rel=rel)
    assert found["dense.weight"].computed_from == "values"
    base = matrix(one["dense.weight"])
    assert_numbers(found["dense.weight"], expected_numbers(base, matrix(two["dense.weight"]), base), 1e-6)


def test_a_difference_of_a_bf16_tensor_is_not_rounded(models):
    store, _ = models
    found = {tensor.name: tensor for tensor in diff(store, "base", "lossy").tensors}["dense.weight"]
    one, two = linear_values(store, "base")["dense.weight"], linear_values(store, "lossy")["dense.weight"]
    assert found.dtype == "BF16"
    assert_numbers(found, expected_numbers(one, two, one), 1e-6)


def test_a_grown_vocabulary_is_compared_where_both_have_it(models):
    store, _ = models
    there = diff(store, "base", "lossy").tensors
    found = next(tensor for tensor in there if tensor.name == "embedding.weight")
    one, two = (linear_values(store, name)["embedding.weight"] for name in ("base", "lossy"))
    assert (found.status, found.shape, found.shape_before) == ("resized", (66, 32), (64, 32))
    assert found.norm == pytest.approx(np.linalg.norm(two - one), rel=1e-9)
    back = next(tensor for tensor in diff(store, "lossy", "base").tensors if tensor.name == "embedding.weight")
    assert (back.status, back.shape, back.shape_before) == ("resized", (64, 32), (66, 32))
    assert back.norm == pytest.approx(found.norm, rel=1e-9)


@pytest.mark.parametrize("other", ["child", "exact"])
def test_added_rows_count_where_both_have_them(models, other):
    store, _ = models
    found = next(tensor for tensor in diff(store, "lossy", other).tensors if tensor.name == "embedding.weight")
    one, two = (tensors_of(store, name)["embedding.weight"] for name in ("lossy", other))
    assert (found.status, found.shape) == ("changed", (66, 32))
    assert found.norm == pytest.approx(dense_change(one, two), rel=1e-9)


def test_a_shrunk_vocabulary(tmp_path):
    weights = {"word.weight": random((64, 16), 1), "other.weight": random((16, 16), 2)}
    store = make_store(MemoryStorage())
    import_base(store, write_model(tmp_path / "base", weights), name="base")
    changed = weights | {"word.weight": weights["word.weight"][:50] + 0.1 * random((50, 16), 3)}
    commit(store, write_model(tmp_path / "short", changed), base="base")
    again = changed | {"word.weight": weights["word.weight"] + 0.1 * random((64, 16), 4)}
    commit(store, write_model(tmp_path / "whole", again), base="base")
    for a, b, status in (("base", "short", "resized"), ("short", "whole", "resized"), ("base", "whole", "changed")):
        found = {tensor.name: tensor for tensor in diff(store, a, b).tensors}["word.weight"]
        one, two = (linear_values(store, name)["word.weight"] for name in (a, b))
        rows = 64 if status == "changed" else 50
        assert found.status == status
        assert found.full_rank == 16
        assert found.norm == pytest.approx(np.linalg.norm(two[:rows] - one[:rows]), rel=1e-9)
        assert found.relative_norm == pytest.approx(found.norm / np.linalg.norm(one[:rows]), rel=1e-9)


def test_heads_that_only_one_side_has_and_heads_of_other_shapes(models, tmp_path):
    store, _ = models
    there = {tensor.name: tensor for tensor in diff(store, "base", "lossy").tensors}
    back = {tensor.name: tensor for tensor in diff(store, "lossy", "base").tensors}
    assert (there["head.weight"].status, back["head.weight"].status) == ("added", "removed")
    assert there["head.weight"].share is None
    same = {tensor.name: tensor for tensor in diff(store, "lossy", "exact").tensors}["head.weight"]
    one, two = (tensors_of(store, name)["head.weight"] for name in ("lossy", "exact"))
    assert (same.status, same.norm) == ("changed", pytest.approx(dense_change(one, two)))
    assert same.effective_rank_ratio is None
    commit(
        store,
        write_model(tmp_path / "wide", tuned(base_weights(), 1) | {"head.weight": torch.ones(7, 32)}),
        base="base",
    )
    other = {tensor.name: tensor for tensor in diff(store, "lossy", "wide").tensors}["head.weight"]
    assert (other.status, other.shape, other.shape_before, other.norm) == ("reshaped", (7, 32), (2, 32), None)


def test_a_checkpoint_is_compared_by_its_values(models):
    store, directory = models
    result = diff(store, "exact", directory / "exact")
    assert result.summary.identical
    assert result.b.path == str(directory / "exact")
    found = {tensor.name: tensor for tensor in diff(store, "base", str(directory / "lossy")).tensors}
    with open_checkpoint(directory / "lossy") as checkpoint:
        one, two = tensors_of(store, "base"), {name: checkpoint.read(name) for name in checkpoint.tensors}
    assert found["dense.weight"].norm == pytest.approx(dense_change(one["dense.weight"], two["dense.weight"]), rel=1e-9)
    assert found["dense.weight"].effective_rank_ratio is not None
    assert found["embedding.weight"].status == "resized"
    assert found["embedding.weight"].norm == pytest.approx(
        dense_change(one["embedding.weight"], two["embedding.weight"], 64), rel=1e-9
    )
    lost = diff(store, "lossy", directory / "lossy")
    assert not lost.summary.same_base
    assert 0 < lost.summary.relative_norm < 0.01


def test_other_prefixes_are_matched(models, tmp_path):
    store, _ = models
    renamed = {f"bert.{name}": tensor for name, tensor in tensors_of(store, "lossy").items()}
    result = diff(store, "lossy", write_model(tmp_path / "renamed", renamed, "one"))
    assert set(result.summary.counts) == {"unchanged"}
    assert {tensor.name for tensor in result.tensors} == set(renamed)
    import_base(store, tmp_path / "renamed", name="renamed")
    again = diff(store, "lossy", "renamed")
    assert (again.summary.same_base, again.summary.counts) == (False, result.summary.counts)
    moved = {tensor.name: tensor for tensor in diff(store, "renamed", "exact").tensors}
    one, two = tensors_of(store, "lossy")["dense.bias"], tensors_of(store, "exact")["dense.bias"]
    assert moved["dense.bias"].norm == pytest.approx(dense_change(one, two), rel=1e-9)


def test_variants_of_one_base_are_matched_by_its_names(models, tmp_path):
    store, _ = models
    renamed = {f"bert.{name}": tensor for name, tensor in tuned(base_weights(), 9).items()}
    commit(store, write_model(tmp_path / "prefixed", renamed), base="base")
    found = {tensor.name: tensor for tensor in diff(store, "base", "prefixed").tensors}
    assert found["bert.dense.weight"].key == "dense.weight"
    assert {tensor.status for name, tensor in found.items() if "head" not in name} == {
        "changed",
        "resized",
        "unchanged",
    }
    assert len(found) == 6
    back = {tensor.name: tensor.status for tensor in diff(store, "prefixed", "base").tensors}
    assert back == {
        tensor.key if tensor.key in base_weights() else tensor.name: tensor.status for tensor in found.values()
    } | {"bert.head.weight": "removed"}


def test_models_with_nothing_in_common(models, tmp_path):
    store, _ = models
    result = diff(store, "base", write_model(tmp_path / "other", {"x": torch.ones(3), "y": torch.ones(4, 4)}))
    assert result.summary.counts == {"added": 2, "removed": 5}
    assert result.summary.relative_norm == 0


def test_dtypes_integers_and_values_that_are_not_finite(tmp_path):
    weights = base_weights()
    store = make_store(MemoryStorage())
    import_base(store, write_model(tmp_path / "base", weights), name="base")
    broken = weights["dense.bias"].clone()
    broken[3] = math.nan
    changed = weights | {
        "position_ids": weights["position_ids"] + 1,
        "dense.bias": broken,
        "dense.weight": weights["dense.weight"].float(),
        "scale": weights["scale"].double() + 1,
    }
    commit(store, write_model(tmp_path / "ft", changed))
    for b in ("ft", tmp_path / "ft"):
        found = {tensor.name: tensor for tensor in diff(store, "base", b).tensors}
        assert {name: tensor.status for name, tensor in found.items()} == {
            "embedding.weight": "unchanged",
            "position_ids": "replaced",
            "dense.bias": "replaced",
            "dense.weight": "retyped",
            "scale": "changed",
        }
        assert (found["dense.weight"].dtype_before, found["dense.weight"].dtype) == ("BF16", "F32")
        assert found["scale"].norm == pytest.approx(1, abs=1e-3)
        assert found["dense.bias"].norm is None
    same = {tensor.name: tensor.status for tensor in diff(store, "ft", tmp_path / "ft").tensors}
    assert same["dense.bias"] == same["position_ids"] == "unchanged"


def test_tied_names_count_once(tmp_path):
    shared = random((20, 8), 1)
    store = make_store(MemoryStorage())
    for name, weight in (("base", shared), ("ft", shared + 0.1)):
        torch.save({"a.weight": weight, "b.weight": weight, "c": torch.ones(2)}, tmp_path / f"{name}.pt")
    import_base(store, tmp_path / "base.pt", name="base")
    commit(store, tmp_path / "ft.pt", base="base")
    torch.save({"a.weight": shared, "b.weight": shared.clone(), "c": torch.ones(2)}, tmp_path / "loose.pt")
    for b in ("ft", tmp_path / "ft.pt"):
        assert [tensor.name for tensor in diff(store, "base", b).tensors] == ["a.weight", "c"]
    loose = diff(store, "base", tmp_path / "loose.pt").summary
    assert [(change.what, change.before, change.after) for change in loose.layout] == [("tied names", "2", "0")]
    assert not loose.identical


def test_side_files_and_formats(tmp_path):
    weights = base_weights()
    store = make_store(MemoryStorage())
    one, two = write_model(tmp_path / "one", weights), write_model(tmp_path / "two", weights, "another day")
    (one / "config.json").write_text(json.dumps({"model_type": "tiny", "labels": 2, "old": [1], "null": None}))
    (two / "config.json").write_text(json.dumps({"labels": 3, "model_type": "tiny", "new": "x"}))
    (one / "tokenizer.json").write_text('{"a": 1}')
    (two / "tokenizer.json").write_text('{"a":1}')
    (one / "vocab.txt").write_text("a")
    (two / "merges.txt").write_text("b")
    (two / "model.safetensors").unlink()
    torch.save(weights, two / "pytorch_model.bin")
    import_base(store, one, name="one")
    commit(store, two, base="one")
    for b in ("two", two):
        summary = diff(store, "one", b).summary
        assert not summary.identical
        assert summary.counts == {"unchanged": 5}
        assert {file.name: (file.status, file.keys) for file in summary.side_files} == {
            "config.json": ("changed", {"labels": (2, 3), "old": ([1], None), "new": (None, "x")}),
            "tokenizer.json": ("changed", {}),
            "notes.txt": ("changed", None),
            "vocab.txt": ("removed", None),
            "merges.txt": ("added", None),
        }
        assert [(change.what, change.before, change.after) for change in summary.layout] == [
            ("format", "safetensors", "torch")
        ]


def test_one_revision_is_compared_with_its_first_parent(models):
    store, _ = models
    result = diff(store, "grandchild")
    assert (result.a.name, result.b.name) == ("child", "grandchild")
    assert result.tensors == diff(store, "child", "grandchild").tensors
    with pytest.raises(UsageError, match="no parent"):
        diff(store, "base")


def test_what_is_said_of_both_sides(models):
    store, _ = models
    result = diff(store, "base", "lossy")
    assert (result.a.commit, result.a.base, result.a.exact) == (store.resolve("base"), "base", True)
    assert (result.b.base, result.b.exact) == ("base", False)
    assert 0 < result.b.relative_error < 0.01


def test_tensors_are_chosen_by_pattern(models):
    store, _ = models
    result = diff(store, "base", "lossy", tensors="dense.*")
    assert {tensor.name for tensor in result.tensors} == {"dense.weight", "dense.bias"}
    assert sum(tensor.share for tensor in result.tensors) == pytest.approx(1)
    assert result.summary.pattern == "dense.*"
    with pytest.raises(NotFoundError, match="matches 'x"):
        diff(store, "base", "lossy", tensors="x*")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("dense", "Did you mean dense.bias or dense.weight?"),
        ("densse.weihgt", "Did you mean dense.weight"),
        ("x*", "Use \\* for any part of a name"),
    ],
)
def test_close_names_are_suggested(models, asked, hint):
    store, _ = models
    with pytest.raises(NotFoundError) as caught:
        diff(store, "base", "lossy", tensors=asked)
    assert re.match(hint, caught.value.hint)


@pytest.mark.parametrize("kind", SECTIONS)
def test_expressions_on_both_sides_are_compared_by_their_terms(lab, kind):
    one, two, three = (lab.residual(tall__weight=SECTIONS[kind](SHAPES["tall.weight"], seed)) for seed in (20, 30, 40))
    lab.variant("a", (one, 1), (two, "1/3"))
    lab.variant("b", (two, 1), (three, 1))
    values = {name: linear_values(lab.store, name)["tall.weight"] for name in ("base", "a", "b")}
    base, a, b = (values[name] for name in ("base", "a", "b"))
    cases = {
        ("0.5*a + 0.5*b", "a"): (base + 0.5 * (a - base) + 0.5 * (b - base), a),
        ("a", "mean(a, b) - 0.25*b"): (a, base + 0.5 * (a - base) + 0.25 * (b - base)),
        ("0.5*a + 0.5*b", "0.75*a + 0.5*b"): (base + (a + b) / 2 - base, base + 0.75 * (a - base) + 0.5 * (b - base)),
        ("base", "-1*b"): (base, 2 * base - b),
    }
    for (first, second), (before, after) in cases.items():
        result, found = lab.diff(first, second)
        assert (result.a.name, result.b.name) == (first, second)
        assert result.summary.same_base
        assert found["tall.weight"].computed_from == WAYS.get(kind, "factors")
        assert_numbers(found["tall.weight"], expected_numbers(before, after, base), 1e-9)


def test_an_expression_and_a_checkpoint(lab, tmp_path):
    name = "tall.weight"
    lab.variant("a", (lab.residual(tall__weight=SECTIONS["lowrank"](SHAPES[name], 20)), 1))
    changed = {**lab.weights, name: lab.weights[name] + random(SHAPES[name], 7)}
    path = write_model(tmp_path / "other", changed)
    base, a = (linear_values(lab.store, variant)[name] for variant in ("base", "a"))
    half = (base + 0.5 * (a - base)).astype(np.float32)
    for first, second, before, after in (
        ("0.5*a", path, half, matrix(changed[name])),
        (str(path), "0.5*a", matrix(changed[name]), half),
    ):
        result, found = lab.diff(first, second)
        assert not result.summary.same_base
        assert found[name].computed_from == "values"
        assert_numbers(found[name], expected_numbers(before.astype(float), after.astype(float), base), 1e-6)
    _, found = lab.diff(str(path), path)
    assert found[name].status == "unchanged"


def test_orders(models):
    store, _ = models

    def order(sort):
        return [tensor.name for tensor in diff(store, "base", "exact", sort=sort).tensors]

    found = {tensor.name: tensor for tensor in diff(store, "base", "exact").tensors}
    last = ["head.weight", "position_ids"]
    moved = [name for name in found if name not in last]
    assert len(moved) == 4
    assert order("share") == [*sorted(moved, key=lambda name: -found[name].share), *last]
    assert order("norm") == [*sorted(moved, key=lambda name: -found[name].relative_norm), *last]
    assert order("erank")[:2] == sorted(["embedding.weight", "dense.weight"], key=lambda n: -found[n].effective_rank)
    assert order("energy")[:2] == sorted(["embedding.weight", "dense.weight"], key=lambda n: -found[n].energy_in_tenth)
    assert order("name") == [*sorted(moved + last[:1]), *last[1:]]
    with pytest.raises(UsageError, match="cannot be sorted by 'size'"):
        diff(store, "base", "exact", sort="size")


def test_names_that_are_nothing(models, tmp_path):
    store, _ = models
    with pytest.raises(UnknownRevisionError):
        diff(store, "base", "lossi")
    with pytest.raises(UnknownRevisionError):
        diff(store, "nothing", "lossy")
    adapter_directory = tmp_path / "adapter"
    adapter_directory.mkdir()
    from safetensors.torch import save_file

    sides = {"lora_A": torch.ones(2, 48), "lora_B": torch.ones(32, 2)}
    save_file(
        {f"base_model.model.dense.{side}.weight": tensor for side, tensor in sides.items()},
        adapter_directory / "adapter_model.safetensors",
    )
    (adapter_directory / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["dense"]})
    )
    with pytest.raises(CheckpointError, match="adapter"):
        diff(store, "base", adapter_directory)


def test_progress_is_told(models):
    store, _ = models
    told = []
    diff(store, "base", "lossy", progress=lambda *step: told.append(step))
    assert told == [("comparing", number, 6) for number in range(1, 7)]


@pytest.mark.models
def test_real_fine_tunes(tmp_path):
    """What was measured of this family by other means (relative norm .216; pooler moved by 4.8, 24 % of it), and numpy."""
    paths = rxnfp()
    store = make_store(MemoryStorage())
    import_base(store, paths["bert_pretrained"], name="bert")
    commit(store, paths["bert_ft"], base="bert")
    stored, original = diff(store, "bert", "bert_ft"), diff(store, "bert", paths["bert_ft"])
    for result, tolerance in ((stored, 0.02), (original, 0.003)):
        pooler = result.tensors[0]
        assert result.summary.relative_norm == pytest.approx(0.216, rel=tolerance)
        assert pooler.name == "pooler.dense.weight"
        assert pooler.relative_norm == pytest.approx(4.8, rel=0.01)
        assert pooler.share == pytest.approx(0.24, abs=0.006)
        assert [share.name for share in result.summary.outstanding] == ["pooler.dense.weight"]
        assert result.summary.counts["removed"] == 7
    with open_checkpoint(paths["bert_ft"]) as checkpoint:
        after = {name: checkpoint.read(name) for name in checkpoint.tensors}
    before = tensors_of(store, "bert")
    matrices = [tensor for tensor in original.tensors if tensor.energy]
    assert len(matrices) > 70
    for tensor in matrices[::4]:
        one, two = matrix(before[tensor.key]), matrix(after[tensor.name])
        assert_numbers(tensor, expected_numbers(one, two, one), 1e-6)
