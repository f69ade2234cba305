"""What is compared block by block is what the whole is: parts of residuals, exact remainders, sides, checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import EXACT, Tensors, base_weights, make_store, tuned, write_model

from erestore import arrays
from erestore.analysis.diff import base_spectra
from erestore.analysis.diff.base_spectra import BaseSpectra
from erestore.analysis.diff.measurement import Measurement
from erestore.analysis.diff.side import CheckpointSide, Side, VariantSide
from erestore.arrays import as_array, matrix_shape, regrouped, row_blocks
from erestore.checkpoint.open import open_checkpoint
from erestore.errors import CorruptionError
from erestore.objects.patch import Patch
from erestore.objects.residual import Residual
from erestore.ops.commit import commit
from erestore.ops.diff import diff
from erestore.ops.import_base import import_base
from erestore.residual import exact_remainder, remainder_classes
from erestore.residual.codecs import remainder
from erestore.storage.memory import MemoryStorage
from erestore.store import Store
from erestore.variant import variant
from erestore.variant.variant import Variant

SMALL = 100


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Have blocks and parts of a hundred elements, so that tiny tensors have several."""
    for module in (arrays, variant):
        patch.setattr(module, "BLOCK", SMALL)
    patch.setattr(remainder, "PART", SMALL)
    for module in (exact_remainder, remainder_classes):
        patch.setattr(module, "CHUNK", SMALL)
    patch.setattr(base_spectra, "_BLOCK_ROWS", 7)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def store(directory: Path) -> Store:
    """A base, a lossy variant, an exact one, a child of that with a remainder over its parent's value, two of full rank."""
    made = make_store(MemoryStorage())
    weights = base_weights()
    exact = tuned(weights, 3)

    def write(name: str, tensors: Tensors) -> Path:
        return write_model(directory / name, tensors)

    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        import_base(made, write("base", weights), name="base")
        commit(made, write("lossy", tuned(weights, 1)), base="base")
        commit(made, write("exact", exact), base="base", quality=EXACT)
        commit(made, write("child", shaken(exact, 1e-4, 4)), parent="exact", quality=EXACT)
        for seed, name in enumerate(("noisy", "noisier")):
            commit(made, write(name, shaken(weights, 0.1, seed)), base="base")
    return made


def shaken(weights: Tensors, size: float, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor + size * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def opened(store: Store, name: str) -> Variant:
    return Variant(store.objects, store.manifest_of(name))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 50])
@pytest.mark.parametrize("lengths", [[], [7], [1, 1, 5], [3, 0, 4], [2, 9, 2, 1]])
def test_regrouped(lengths: list[int], size: int) -> None:
    buffer = np.zeros(9, dtype=np.int16)

    def blocks(start: int = 0):
        for length in lengths:  # in one buffer: a block is good until the next is asked for
            buffer[:length] = np.arange(start, start + length)
            yield buffer[:length]
            start += length

    found = [block.copy() for block in regrouped(blocks(), size)]
    assert np.array_equal(np.concatenate([*found, []]), np.arange(sum(lengths)))
    assert [len(block) for block in found[:-1]] == [size] * (len(found) - 1)
    assert all(0 < len(block) <= size for block in found)


@pytest.mark.parametrize("name", ["base", "lossy", "exact", "child", "noisy"])
def test_blocks_of_a_variant_are_the_whole(store: Store, directory: Path, name: str) -> None:
    found = opened(store, name)
    if name == "child":
        assert found.patch is not None
        assert any(held.predictor[0] == "stored" for held in found.patch.tensors.values())
    with open_checkpoint(directory / name) as checkpoint:
        for side in (VariantSide(found), CheckpointSide(checkpoint)):
            for own, held in side.tensors.items():
                shape = matrix_shape(held.shape)
                blocks = [block.clone() for block in side.blocks(own)]
                assert [len(block) for block in blocks] == [stop - start for start, stop in row_blocks(*shape)]
                assert len(blocks) > 1 or shape[0] * shape[1] <= SMALL or shape[0] == 1
                assert torch.equal(torch.cat(blocks).reshape(side.stored(own).shape), side.stored(own))


@pytest.mark.parametrize("name", ["lossy", "noisy"])
def test_streamed_sections_evaluate_to_the_same_bits(store: Store, name: str) -> None:
    found = opened(store, name)
    (term,) = store.manifest_of(name).terms
    residual = Residual.open(store.objects, term.residual)
    kinds = set()
    for key, tensor in residual.tensors.items():
        rows, _ = tensor.matrix
        base = found.base_rows(key)
        whole, streamed = residual.sections(key), residual.streamed(key)
        kinds |= {type(section).__name__ for section in streamed}
        for start in range(0, rows, 5):
            stop = min(rows, start + 9)  # rows may come twice, or be skipped
            held = arrays.widen(base(start, stop))
            for one, two in zip(whole, streamed, strict=True):
                assert np.array_equal(one.rows(start, stop, held), two.rows(start, stop, held))
    assert {"lossy": "LowRankSection", "noisy": "StreamedRemainder"}[name] in kinds


def test_a_damaged_part_is_found_when_its_rows_are_asked_for() -> None:
    codes = np.arange(12, dtype=np.int16).reshape(4, 3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remainder, "PART", 6)
        encoded = remainder.encode([codes[:2], codes[2:]], remainder.dyadic.Dyadic(1, 0), (4, 3))
        parts = [part.content for part in encoded.parts]
        section = remainder.Remainder.open(encoded.parameters, [parts[0], parts[1][:-1]], (4, 3))
        assert np.array_equal(section.rows(0, 2, np.zeros((2, 3))), codes[:2])
        with pytest.raises(CorruptionError, match="wrong length"):
            section.rows(1, 3, np.zeros((2, 3)))
        with pytest.raises(CorruptionError, match="number of parts"):
            remainder.Remainder.open(encoded.parameters, parts[:1], (4, 3))
        with pytest.raises(CorruptionError, match="malformed"):
            remainder.Remainder.open({}, parts, (4, 3))
        assert not remainder.Remainder.open(encoded.parameters, [], (4, 3)).rows(0, 4, np.ones((4, 3))).any()


@pytest.mark.parametrize("size", [1, 33, 100, 10**6])
def test_an_exact_remainder_takes_its_prediction_in_any_blocks(store: Store, size: int) -> None:
    found = opened(store, "exact")
    key = "embedding.weight"
    held = found.layout.tensors[key]
    patch = Patch.open(store.objects, store.manifest_of("exact").patch)
    predicted = found.predicted(patch.tensors[key].predictor, key, held.dtype, held.shape)
    whole = patch.apply(key, predicted)
    assert np.array_equal(np.concatenate(list(patch.blocks(key, regrouped([predicted], size)))), whole.reshape(-1))
    wrong = predicted.copy()
    wrong[-1, -1] += 1
    with pytest.raises(CorruptionError, match="digest"):
        list(patch.blocks(key, [wrong]))


class Watched(Side):
    """A side that does not give any matrix of several blocks whole."""

    def __init__(self, side: Side) -> None:
        self.__dict__ |= side.__dict__
        self._side = side

    def stored(self, name: str) -> torch.Tensor:
        assert np.prod(self.tensors[name].shape) <= SMALL, f"{name} was read whole"
        return self._side.stored(name)

    def blocks(self, name: str):
        for block in self._side.blocks(name):
            assert len(block) == 1 or block.numel() <= SMALL
            yield block

    def side_file(self, name: str) -> bytes:
        return self._side.side_file(name)

    def is_whole(self, name: str) -> bool:
        return self._side.is_whole(name)


@pytest.mark.parametrize("a", ["base", "noisy", "exact", "child", "0.5*noisier + 0.5*noisy"])
@pytest.mark.parametrize("b", ["lossy", "0.25*noisy - noisier", "files", "torch file"])
def test_no_matrix_is_held_whole(
    store: Store, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: str, b: str
) -> None:
    files = directory / "lossy"
    if b == "torch file":
        with open_checkpoint(files) as checkpoint:
            torch.save({name: checkpoint.read(name) for name in checkpoint.tensors}, tmp_path / "lossy.pt")
    other = {"files": files, "torch file": tmp_path / "lossy.pt"}.get(b, b)
    expected = diff(store, a, other)
    monkeypatch.setattr("erestore.ops.diff.VariantSide", WatchedVariant)
    monkeypatch.setattr("erestore.ops.diff.CheckpointSide", lambda checkpoint: Watched(CheckpointSide(checkpoint)))
    read = Variant.base_tensor
    monkeypatch.setattr(Variant, "base_tensor", lambda self, key: small_only(read(self, key), key))
    assert diff(store, a, other) == expected


class WatchedVariant(VariantSide):
    def stored(self, name: str) -> torch.Tensor:
        return small_only(super().stored(name), name)


def small_only(tensor, key: str):
    wide = key == "dense.weight"  # as a whole: more columns than rows
    assert np.prod(tensor.shape) <= SMALL or wide or len(tensor.shape) < 2, f"{key} was read whole"
    return tensor


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (1, 7), (1, 1)])
@pytest.mark.parametrize("height", [1, 2, 100])
def test_a_measurement(shape: tuple[int, int], height: int) -> None:
    generator = torch.Generator().manual_seed(shape[0])
    change, before = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    if shape[0] > 4:
        change[2:4] = 0
    measured = Measurement(shape)
    for start in range(0, shape[0], height):
        measured.add(start, change[start : start + height], before[start : start + height])
    assert measured.norm == pytest.approx(float(change.norm()))
    assert measured.norm_before == pytest.approx(float(before.norm()))
    values, norms = measured.singular_values(), measured.sides()
    if min(shape) == 1:
        assert (values, norms) == (None, None)
        return
    torch.testing.assert_close(values, torch.linalg.svdvals(change), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(norms.rows, change.norm(dim=1))
    torch.testing.assert_close(norms.columns, change.norm(dim=0))


def test_a_measurement_of_nothing_and_of_what_is_not_finite() -> None:
    still = Measurement((4, 3))
    still.add(0, torch.zeros(4, 3, dtype=torch.float64))
    assert (still.norm, still.norm_before, still.singular_values()) == (0, 0, None)
    broken = Measurement((4, 3))
    broken.add(0, torch.ones(2, 3, dtype=torch.float64))
    broken.add(2, torch.full((2, 3), float("nan"), dtype=torch.float64))
    assert not np.isfinite(broken.norm)


def test_spectra_of_bases_come_from_blocks(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {
        "tall": torch.randn(30, 8, generator=generator),
        "half": torch.randn(30, 8, generator=generator).bfloat16(),
        "wide": torch.randn(8, 30, generator=generator),
        "double": torch.randn(30, 8, generator=generator).double() * 1e200,
        "broken": torch.randn(30, 8, generator=generator),
    }
    weights["broken"][29, 7] = float("nan")
    store = make_store(MemoryStorage())
    import_base(store, write_model(tmp_path / "base", weights), name="base")
    found = opened(store, "base")
    for name, tensor in weights.items():
        values = BaseSpectra().of(found, name)
        if name == "broken":
            assert values is None
        else:
            torch.testing.assert_close(values, torch.linalg.svdvals(tensor.double()), rtol=1e-6, atol=0)


def test_rows_of_a_checkpoint(tmp_path: Path) -> None:
    weights = {
        "matrix": torch.arange(35.0).reshape(7, 5),
        "conv": torch.arange(48, dtype=torch.int16).reshape(4, 3, 2, 2),
        "half": torch.arange(12.0).reshape(4, 3).bfloat16(),
        "empty": torch.zeros(0, 3),
    }
    write_model(tmp_path / "safe", weights)
    torch.save({**weights, "turned": torch.arange(12.0).reshape(4, 3).T}, tmp_path / "model.pt")
    for path in (tmp_path / "safe", tmp_path / "model.pt"):
        with open_checkpoint(path) as checkpoint:
            for name in checkpoint.tensors:
                whole = checkpoint.read(name)
                for start in range(len(whole) + 1):
                    for stop in range(start, len(whole) + 3):
                        rows = checkpoint.rows(name, start, stop)
                        assert rows.is_contiguous()
                        assert np.array_equal(as_array(rows), as_array(whole[start:stop]))
