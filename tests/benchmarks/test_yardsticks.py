"""The yardsticks of the fidelity benchmark: their sizes by hand, their errors by their definitions."""

import pytest
import torch
import yardsticks
from safetensors.torch import save_file
from yardsticks import Residual

from erestore.api import Store
from erestore.encoding.quality import Quality

SHAPES = {
    "wide": (32, 48),
    "kernel": (40, 6, 3, 3),
    "bias": (32,),
    "same": (32, 48),
    "narrow": (2, 600),
    "tiny": (8, 9),
}
RAW = 4 * (32 + 2 * 600 + 8 * 9)
"""Bytes of what changed and is no matrix."""


@pytest.fixture(scope="module")
def weights() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    tuned = {name: own + 0.1 * torch.randn(own.shape, generator=generator) for name, own in base.items()}
    tuned["same"] = base["same"].clone()
    tuned["wide"] = base["wide"] + (tuned["wide"] - base["wide"]) * torch.logspace(-2, 0, 32).unsqueeze(1)
    tuned["head"] = torch.randn((7, 32), generator=generator)
    base |= {"steps": torch.tensor([3]), "grown": torch.zeros(9)}
    return base, tuned | {"steps": torch.tensor([4]), "grown": torch.zeros(8)}


@pytest.fixture(scope="module")
def residual(weights) -> Residual:
    return Residual(*weights)


def test_what_is_compared(residual):
    assert set(residual.tuned) == set(SHAPES)
    assert {name: tuple(delta.shape) for name, delta in residual.matrices.items()} == {
        "wide": (32, 48),
        "kernel": (40, 54),
    }
    assert residual.vector_bytes == RAW
    assert residual.elements == 32 * 48 + 40 * 54 + RAW // 4


def test_error_is_that_of_rounded_values(residual):
    base = {"a": torch.tensor([1.0, 256.0], dtype=torch.bfloat16)}
    small = Residual(base, {"a": torch.tensor([1.0, 260.0], dtype=torch.bfloat16)})
    assert small.relative_error(small.values({"a": torch.tensor([0.0, 3.4])})) == 0.0  # 259.4 rounds to 260
    assert small.relative_error(small.values({"a": torch.tensor([0.0, 2.4])})) == pytest.approx(4 / 16)
    assert residual.relative_error(residual.base) == pytest.approx(1.0)
    assert residual.relative_error(residual.tuned) == 0.0


def test_ere_charges_four_bits_a_code_and_two_bytes_a_singular_value(residual):
    found = yardsticks.ere(residual, 4, alpha=1)
    assert found.matrix_bytes == 4 * ((32 + 48 + 40 + 54) * 4 // 8 + 2 * 2)
    assert found.vector_bytes == RAW
    assert torch.equal(found.values["bias"], residual.tuned["bias"])


def test_ere_loses_what_the_codec_of_the_store_loses(weights, residual, tmp_path):
    base, tuned = weights
    for name, tensors in (("base", base), ("tuned", tuned)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    store = Store.init(tmp_path / "store")
    store.import_base(tmp_path / "base.safetensors", name="base")
    done = store.commit(tmp_path / "tuned.safetensors", base="base", quality=Quality(codec="ere", rank=6))
    found = yardsticks.ere(residual, 6)
    assert residual.relative_error(found.values) == pytest.approx(done.relative_error, rel=1e-3)


def test_ere_with_the_best_ranks_loses_less():
    base = {"flat": torch.zeros(64, 64), "steep": torch.zeros(64, 64)}
    steep = torch.outer(torch.linspace(1, 2, 64), torch.linspace(2, 1, 64))
    residual = Residual(base, {"flat": torch.randn(64, 64, generator=torch.Generator().manual_seed(5)), "steep": steep})
    best, paper = yardsticks.ere(residual, 8, spread="greedy"), yardsticks.ere(residual, 8)
    assert best.method == "ere-greedy"
    assert residual.relative_error(best.values) < residual.relative_error(paper.values)
    assert best.matrix_bytes <= 16 * (128 * 4 // 8 + 2)


def test_low_rank_leaves_the_tail_of_the_spectrum(residual):
    found = yardsticks.lowrank_fp16(residual, 5)
    tails = [torch.linalg.svdvals(delta)[5:].square().sum() for delta in residual.matrices.values()]
    assert residual.relative_error(found.values) == pytest.approx(float(sum(tails)) / residual.squared_norm, rel=1e-3)
    assert (found.matrix_bytes, found.vector_bytes) == (2 * 5 * (32 + 48 + 40 + 54), RAW)


def test_low_rank_gives_way_to_the_values(residual):
    found = yardsticks.lowrank_fp16(residual, 20)
    assert found.matrix_bytes == 2 * 32 * 48 + 2 * 20 * (40 + 54)  # 20 (32 + 48) is more than 32 x 48
    torch.testing.assert_close(found.values["wide"], residual.tuned["wide"], rtol=1e-3, atol=1e-4)


def test_bitq(residual):
    found = yardsticks.bitq(residual)
    assert (found.matrix_bytes, found.vector_bytes) == (residual.elements // 2 + 2 * 5, 0)
    for name in ("wide", "bias"):
        delta = residual.tuned[name].double() - residual.base[name].double()
        step = float(delta.abs().max()) / 7
        off = (found.values[name].double() - residual.tuned[name].double()).abs()
        assert 0.4 * step < float(off.max()) <= 0.51 * step


def test_a_scale_per_row_loses_less(residual):
    rows, whole = yardsticks.bitq_rows(residual), yardsticks.bitq(residual)
    off = (rows.values["wide"].double() - residual.tuned["wide"].double()).abs().amax(1)
    assert (off < 0.51 / 7 * residual.matrices["wide"].abs().amax(1) + 1e-6).all()
    assert rows.matrix_bytes == (32 * 48 + 40 * 54) // 2 + 2 * (32 + 40)
    assert residual.relative_error(rows.values) < residual.relative_error(whole.values)


def test_signs(residual):
    found = yardsticks.sign(residual)
    assert (found.matrix_bytes, found.vector_bytes) == ((32 * 48 + 40 * 54) // 8 + 2 * 2, RAW)
    delta = residual.matrices["wide"]
    approximation = found.values["wide"].double() - residual.base["wide"].double()
    torch.testing.assert_close(approximation, delta.sign() * delta.abs().mean(), rtol=1e-3, atol=1e-6)
    rows = yardsticks.sign_rows(residual)
    assert rows.matrix_bytes == (32 * 48 + 40 * 54) // 8 + 2 * (32 + 40)
    assert residual.relative_error(rows.values) < residual.relative_error(found.values)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_half_precision_does_not_depend_on_scale(scale):
    numbers = torch.arange(-50, 51).double() * scale
    torch.testing.assert_close(yardsticks.half(numbers), numbers, rtol=2**-11, atol=0)
    assert not yardsticks.half(torch.zeros(3)).any()
