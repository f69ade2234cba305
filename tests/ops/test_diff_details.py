"""What a page shows beyond the numbers, held against dense arithmetic."""

from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.residual.marchenko_pastur import singular_value_quantiles

SHAPES = {"tall": (90, 20), "wide": (20, 90), "square": (40, 40)}


def weights(seed, scale, rank=None):
    noise = torch.Generator().manual_seed(seed)
    found = {"bias": torch.randn(20, generator=noise) * scale}
    for name, (m, n) in SHAPES.items():
        if rank:
            found[name] = scale * torch.randn(m, rank, generator=noise) @ torch.randn(rank, n, generator=noise)
        else:
            found[name] = scale * torch.randn(m, n, generator=noise)
    return found


def plus(one, two):
    return {name: value + two[name] for name, value in one.items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("details")
    found, base = Store.init(place / "store"), weights(1, 1.0)
    files = {"base": base, "low": plus(base, weights(2, 0.1, rank=3)), "full": plus(base, weights(3, 0.1))}
    for name, tensors in files.items():
        save_file(tensors, place / f"{name}.safetensors")
    found.import_base(place / "base.safetensors", name="base")
    for name in ("low", "full"):
        found.commit(place / f"{name}.safetensors", base="base", name=name, quality=Quality(max_error=1e-4))
    return found


def difference(store, a, b, name):
    before, after = (dict(store.state_dict(each)) for each in (a, b))
    return (after[name].double() - before[name].double()), before[name].double()


@pytest.mark.parametrize("pair", [("base", "low"), ("base", "full"), ("low", "full")])
@pytest.mark.parametrize("name", SHAPES)
def test_curves_rows_and_columns_are_those_of_the_difference(store, pair, name):
    result = store.diff(*pair, details=True)
    found = result.details[name]
    delta, _ = difference(store, *pair, name)
    values = torch.linalg.svdvals(delta)
    ranks = torch.tensor(found.spectrum.ranks)
    assert ranks[0] == 1
    assert ranks[-1] == 20 if name != "square" else 40
    assert found.spectrum.change == pytest.approx((values[ranks - 1] / values[0]).tolist(), abs=2e-5)
    energy = values.square().cumsum(0) / values.square().sum()
    assert found.spectrum.energy == pytest.approx(energy[ranks - 1].tolist(), abs=1e-5)
    base = torch.linalg.svdvals(dict(store.state_dict("base"))[name].double())
    assert found.spectrum.base == pytest.approx((base[ranks - 1] / base[0]).tolist(), rel=1e-5)
    assert list(found.spectrum.noise) == singular_value_quantiles(SHAPES[name], found.spectrum.ranks)
    for lines, dim in ((found.rows, 1), (found.columns, 0)):
        shares = delta.square().sum(dim=dim) / delta.square().sum()
        assert [line.index for line in lines] == torch.topk(shares, len(lines)).indices.tolist()
        assert [line.share for line in lines] == pytest.approx(torch.topk(shares, len(lines)).values.tolist(), rel=1e-4)


def test_from_factors_and_from_values_they_are_the_same(store, tmp_path):
    store.checkout("low", tmp_path / "low")
    stored, outside = (store.diff("base", side, details=True) for side in ("low", tmp_path / "low"))
    origin = {tensor.name: tensor.computed_from for tensor in stored.tensors}
    assert origin["square"] == "factors"
    assert {tensor.computed_from for tensor in outside.tensors if tensor.name in SHAPES} == {"values"}
    for name in SHAPES:
        one, two = stored.details[name], outside.details[name]
        assert [line.index for line in one.rows] == [line.index for line in two.rows]
        assert [line.share for line in one.columns] == pytest.approx([line.share for line in two.columns], rel=1e-4)
        assert one.spectrum.energy == pytest.approx(two.spectrum.energy, abs=1e-5)


def test_vectors_have_no_curves(store):
    found = store.diff("base", "full", details=True).details["bias"]
    assert (found.spectrum, found.rows, found.columns, found.angles) == (None, (), (), None)
    assert found.kept.bytes > 0


def test_what_is_kept_is_what_show_says(store):
    found = store.diff("base", "full", details=True).details
    for tensor in store.show("full").tensors:
        kept = found[tensor.name].kept
        assert kept.sections == tensor.sections
        assert kept.bytes == tensor.bytes
        assert kept.relative_error == tensor.relative_error
        assert kept.bits == pytest.approx(8 * tensor.bytes / torch.Size(tensor.shape).numel(), rel=0.01)


def test_angles_are_between_two_changes_of_one_base(store):
    found = store.diff("low", "full", details=True).details
    overlaps = {each.name: each for each in store.similar(["low", "full"], angles=True).overlaps[0].tensors}
    for name in SHAPES:
        angles, expected = found[name].angles, overlaps[name]
        assert angles.columns == pytest.approx([torch.tensor(a).cos().item() for a in expected.column_angles[:32]])
        assert (angles.rank_a, angles.cosine) == (expected.rank_a, expected.cosine)
    assert all(each.angles is None for each in store.diff("base", "full", details=True).details.values())


def test_details_come_when_they_are_asked_for(store, tmp_path):
    assert store.diff("base", "low").details is None
    store.checkout("low", tmp_path / "low")
    outside = store.diff("low", tmp_path / "low", details=True)
    assert outside.details == {}
    assert load_file(tmp_path / "low")
    assert set(asdict(store.diff("base", "low", details=True))["details"]) == {*SHAPES, "bias"}


def test_of_rows_that_were_added_the_noise_is_of_what_was_compared(tmp_path):
    noise = torch.Generator().manual_seed(4)
    base = {"embed_tokens.weight": torch.randn(30, 20, generator=noise)}
    grown = {
        "embed_tokens.weight": torch.cat([base["embed_tokens.weight"] + 0.1, torch.randn(200, 20, generator=noise)])
    }
    found = Store.init(tmp_path / "store")
    for name, weights in (("base", base), ("grown", grown)):
        save_file(weights, tmp_path / f"{name}.safetensors")
    found.import_base(tmp_path / "base.safetensors", name="base")
    found.commit(tmp_path / "grown.safetensors", base="base", name="grown")
    spectrum = found.diff("base", "grown", details=True).details["embed_tokens.weight"].spectrum
    assert list(spectrum.noise) == singular_value_quantiles((30, 20), spectrum.ranks)


def test_only_rows_of_words_have_tokens(tmp_path):
    noise = torch.Generator().manual_seed(5)
    base = {
        name: torch.randn(80, 8, generator=noise) for name in ("embed_tokens.weight", "layers.0.mlp.up_proj.weight")
    }
    found = Store.init(tmp_path / "store")
    for name, shift in (("base", 0.0), ("tuned", 0.1)):
        (tmp_path / name).mkdir()
        save_file({key: value + shift for key, value in base.items()}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "vocab.txt").write_text("".join(f"w{place}\n" for place in range(80)))
    found.import_base(tmp_path / "base", name="base")
    found.commit(tmp_path / "tuned", base="base", name="tuned")
    details = found.diff("base", "tuned", details=True).details
    assert {line.token for line in details["layers.0.mlp.up_proj.weight"].rows} == {None}
    assert all(line.token == f"w{line.index}" for line in details["embed_tokens.weight"].rows)
