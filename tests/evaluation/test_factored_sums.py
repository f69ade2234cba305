"""Sums written from factors and row tiles, against dense arithmetic: dtypes, shapes, kinds of sections, cancellation."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from erestore.api import Store
from erestore.encoding import delta
from erestore.encoding.computed_source import ComputedCheckpoint
from erestore.encoding.quality import Quality
from erestore.residual import operators
from erestore.variant import variant
from erestore.variant.variant import Variant

SHAPES = {
    "w32.weight": ((96, 64), torch.float32),
    "wide.weight": ((48, 120), torch.float32),
    "w16.weight": ((80, 48), torch.bfloat16),
    "half.weight": ((64, 64), torch.float16),
    "w64.weight": ((70, 50), torch.float64),
    "conv.weight": ((24, 6, 3, 3), torch.float32),
    "embed.weight": ((60, 32), torch.float32),
    "sparse.weight": ((200, 32), torch.float32),
    "nan.weight": ((40, 40), torch.float32),
    "bias": ((90,), torch.float32),
    "scale": ((), torch.float32),
    "none": ((0,), torch.float32),
    "flat": ((0, 7), torch.float32),
    "thin": ((5, 0), torch.float32),
}
RANKS = {"a": 2, "b": 9, "c": 1}
GROWN = 3
Tensors = dict[str, torch.Tensor]


class Sums:
    """A store with a base of many dtypes and shapes, and three fine-tunes of unequal ranks whose embeddings grew."""

    def __init__(self, place: Path) -> None:
        self.place, self.random, self.numbers = place, torch.Generator().manual_seed(5), count()
        self.store = Store.init(place / "store")
        self.base = {name: self.noise(*shape).to(dtype) for name, (shape, dtype) in SHAPES.items()}
        self.base["nan.weight"][3, 5] = torch.nan
        self.store.import_base(self.save("base", self.base), name="base")
        for name in RANKS:
            self.commit(name)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random, dtype=torch.float64)

    def save(self, name: str, tensors: Tensors, **files: object) -> Path:
        path = self.place / name
        path.mkdir()
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        for file, content in files.items():
            (path / f"{file}.json").write_text(json.dumps(content))
        return path

    def commit(self, name: str, quality: Quality | None = None) -> Tensors:
        tensors = {}
        for key, held in self.base.items():
            change = 0.01 * self.noise(*held.shape)
            if key == "sparse.weight":
                change[torch.rand(len(held), generator=self.random) > 0.1] = 0
            elif held.ndim > 1 and held.numel():
                flat = held.flatten(1)
                low = self.noise(len(flat), RANKS.get(name, 4)) @ self.noise(RANKS.get(name, 4), flat.shape[1])
                change = (
                    change * 0.05 + 0.05 * low.view(held.shape) - 0.01 * held.double()
                )  # with a multiple of the base
            tensors[key] = (held.double() + change).to(held.dtype)
        tensors["embed.weight"] = torch.cat([tensors["embed.weight"], self.noise(GROWN, 32).float()])
        words = {f"<{number}>": 60 + number for number in range(GROWN)}
        self.store.commit(self.save(name, tensors, added_tokens=words), base="base", name=name, quality=quality)
        return tensors

    def lost(self, before: str, after: str) -> float:
        """Squared error after rounding, over the squared norm of the change, of what has a base."""
        error = norm = 0.0
        one, two = self.store.state_dict(before), self.store.state_dict(after)
        for key, held in self.base.items():
            if key == "nan.weight" or held.numel() == 1:  # single numbers stand outside of errors
                continue
            mine, other = (each[key].double()[: len(held)] if held.ndim else each[key].double() for each in (one, two))
            error += float((mine - other).square().sum())
            norm += float((mine - held.double()).square().sum())
        return error / norm


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Sums:
    return Sums(tmp_path_factory.mktemp("sums"))


@pytest.fixture(params=["whole", "tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are held; with limits that all of them exceed, they are evaluated row by row, several at a time."""
    if request.param == "tiles":
        monkeypatch.setattr(operators, "HELD", 500)
        monkeypatch.setattr(operators, "TILE", 200)
        monkeypatch.setattr(variant, "BLOCK", 300)
        monkeypatch.setattr(delta, "FACTORS", 0)


EXPRESSIONS = ["0.5*a + 0.25*b - c", "a - 0.9*a + b", "mean(a, b, c)", "-2*b"]


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("bound", [0.02, 1e-5])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_sum_is_within_the_error(sums: Sums, expression: str, bound: float) -> None:
    before, after = (f"{what}-{next(sums.numbers)}" for what in ("sum", "flat"))
    sums.store.merge([expression], name=before)
    done = sums.store.flatten(before, name=after, max_error=bound)
    error = sums.lost(before, after)
    assert done.flatten_error <= bound
    assert error == pytest.approx(done.flatten_error, rel=1e-6)
    assert done.after.terms == 1
    one, two = (sums.store.state_dict(name) for name in (before, after))
    assert torch.equal(one["nan.weight"].isnan(), two["nan.weight"].isnan())
    assert torch.equal(one["nan.weight"].nan_to_num(), two["nan.weight"].nan_to_num())
    assert torch.equal(one["embed.weight"][-GROWN:], two["embed.weight"][-GROWN:])
    assert {key: (each.shape, each.dtype) for key, each in one.items()} == {
        key: (each.shape, each.dtype) for key, each in two.items()
    }
    assert sums.store.fsck(deep=True).corrupt == ()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("strategy", ["tsv", "iso-c", "knots", "core-space", "ties"])
def test_a_merge_is_the_same_however_it_is_evaluated(sums: Sums, strategy: str, request: pytest.FixtureRequest) -> None:
    name = f"{strategy}-{request.node.callspec.params['tiles']}"
    done = sums.store.merge(tuple(RANKS), name=name, strategy=strategy, max_error=1e-5)
    assert done.relative_error <= 1e-5
    other = f"{strategy}-whole"
    if sums.store.has_ref(other):
        assert sums.lost(other, name) < 1e-4
    assert sums.store.fsck(deep=True).corrupt == ()


@pytest.mark.usefixtures("tiles")
def test_exact_variants_stay_exact(sums: Sums, request: pytest.FixtureRequest) -> None:
    name = f"exact-{request.node.callspec.params['tiles']}"
    tensors = sums.commit(name, Quality(exact=True, max_error=0.05))
    more = {key: (each.double() + 0.01 * sums.noise(*each.shape)).to(each.dtype) for key, each in tensors.items()}
    path = sums.save(f"{name}-2", more, added_tokens={f"<{number}>": 60 + number for number in range(GROWN)})
    sums.store.commit(path, parent=name, name=name, quality=Quality(exact=True, max_error=0.05))
    done = sums.store.flatten(name, max_error=0.02)
    assert done.exact
    assert done.after.terms == 1
    found = sums.store.state_dict(name)
    for key, each in more.items():
        assert each.reshape(-1).view(torch.uint8).equal(found[key].reshape(-1).view(torch.uint8)), key


def test_added_rows_are_read_alone(sums: Sums) -> None:
    """What is above them is not evaluated for their sake."""

    def refuse(key: str) -> None:
        raise AssertionError(key)

    held = Variant(sums.store.objects, sums.store.manifest_of("a"))
    rows = ComputedCheckpoint(held, refuse).rows_from("embed.weight", 60)
    assert torch.equal(rows, held.tensor("embed.weight")[60:])


class Adapters:
    """A store with LoRA adapters, so that all that is added to the base are factors."""

    def __init__(self, place: Path) -> None:
        self.place, self.random = place, torch.Generator().manual_seed(3)
        self.store = Store.init(place / "store")
        self.base = {"q.weight": self.noise(90, 60), "k.weight": self.noise(60, 90), "bias": self.noise(60)}
        (place / "base").mkdir()
        save_file(self.base, place / "base" / "model.safetensors", metadata={"format": "pt"})
        self.store.import_base(place / "base", name="base")

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random)

    def commit(self, name: str, sides: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        path = self.place / name
        path.mkdir()
        tensors = {}
        for module, (up, down) in sides.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = down.contiguous()
            tensors[f"base_model.model.{module}.lora_B.weight"] = up.contiguous()
        save_file(tensors, path / "adapter_model.safetensors")
        rank = next(iter(sides.values()))[1].shape[0]
        settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q", "k"]}
        (path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "base"}))
        self.store.commit(path, base="base", name=name)

    def sides(self, rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {
            "q": (0.1 * self.noise(90, rank), self.noise(rank, 60)),
            "k": (0.1 * self.noise(60, rank), self.noise(rank, 90)),
        }

    def near(self, wanted: dict[str, np.ndarray], name: str, error: float) -> None:
        found = self.store.state_dict(name)
        lost = sum(
            float(np.square(found[f"{key}.weight"].double().numpy() - each).sum()) for key, each in wanted.items()
        )
        base = {key: self.base[f"{key}.weight"].double().numpy() for key in wanted}
        norm = sum(float(np.square(each - base[key]).sum()) for key, each in wanted.items())
        assert lost <= error * norm


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path)


@pytest.mark.parametrize("ranks", [(4, 1, 7), (20, 20), (40, 30, 25)], ids=str)
@pytest.mark.parametrize("limit", [0, 1 << 23])
def test_factors_of_any_number(
    adapters: Adapters, ranks: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than half of the short side, more, and more than all of it."""
    monkeypatch.setattr(delta, "FACTORS", limit)
    made = [adapters.sides(rank) for rank in ranks]
    for number, sides in enumerate(made):
        adapters.commit(f"v{number}", sides)
    adapters.store.merge([f"v{number}" for number in range(len(ranks))], name="mean")
    done = adapters.store.flatten("mean", max_error=1e-4)
    assert done.flatten_error <= 1e-4
    assert done.after.rank <= 60
    wanted = {
        key: adapters.base[f"{key}.weight"].double().numpy()
        + sum((sides[key][0].double() @ sides[key][1].double()).numpy() for sides in made) / len(ranks)
        for key in ("q", "k")
    }
    adapters.near(wanted, "mean", 1.01e-4)
    kinds = {section.codec for tensor in _residual(adapters.store, "mean").values() for section in tensor.sections}
    if sum(ranks) < 30:  # of more, the values themselves are cheaper
        assert kinds == {"lowrank2"}


def test_what_cancels_leaves_nothing(adapters: Adapters) -> None:
    """The same change once more, in other factors."""
    one = adapters.sides(4)
    adapters.commit("one", one)
    adapters.commit("two", {key: (up.flip(1), down.flip(0)) for key, (up, down) in one.items()})
    adapters.store.merge(["one - two"], name="nothing")
    assert len(adapters.store.manifest_of("nothing").terms) == 2
    done = adapters.store.flatten("nothing")
    assert (done.flatten_error, done.after.terms) == (0.0, 0)
    found = adapters.store.state_dict("nothing")
    assert all(torch.equal(found[key], each) for key, each in adapters.base.items())


def test_no_components_at_all(adapters: Adapters) -> None:
    """`up` is zeros, as of an adapter that was never trained; what merges find of two of them has no columns."""
    for name in ("one", "two"):
        adapters.commit(name, {key: (0 * up, down) for key, (up, down) in adapters.sides(3).items()})
    adapters.store.merge(["one", "two"], name="mean")
    assert adapters.store.flatten("mean").after.terms == 0
    for strategy in ("tsv", "iso-c", "knots", "core-space"):
        adapters.store.merge(["one", "two"], name=strategy, strategy=strategy)
        assert adapters.store.manifest_of(strategy).terms == ()
        assert torch.equal(adapters.store.state_dict(strategy)["q.weight"], adapters.base["q.weight"])


def _residual(store: Store, name: str):
    (held,) = Variant(store.objects, store.manifest_of(name)).residuals
    return held[1].tensors
