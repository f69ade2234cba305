"""A budget is what a commit adds to the store, everything included, and it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from erestore.api import Store
from erestore.cli.main import cli, run
from erestore.encoding.encode_pass import Passes
from erestore.encoding.quality import Quality
from erestore.errors import UsageError

SHAPES = {"dense.weight": (300, 200), "embed.weight": (500, 64), "head.bias": (300,), "norm.weight": (200,)}


def weights(seed: int, share: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: share * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    base = weights(1)
    tuned = {name: base[name] + change for name, change in weights(2, 0.01).items()}
    save_file(base, tmp_path / "base.safetensors")
    save_file({**tuned, "new.weight": weights(3)["dense.weight"][:8]}, tmp_path / "ft.safetensors")
    Store.init(tmp_path / "store").import_base(tmp_path / "base.safetensors", name="base")
    return tmp_path


def stored(store: Store) -> int:
    return sum(entry.size for kind in ("objects/", "refs/") for entry in store.storage.list(kind))


@pytest.mark.parametrize("budget", [20_000, 60_000, 0.25])
def test_a_budget_is_met_within_one_per_cent_from_below(place: Path, budget: float) -> None:
    store = Store.open(place / "store")
    before = stored(store)
    done = store.commit(place / "ft.safetensors", base="base", name="ft", quality=Quality(budget=budget))
    allowed = budget if isinstance(budget, int) else budget * done.original_bytes
    assert done.stored_bytes == stored(store) - before
    assert 0.99 * allowed < done.stored_bytes <= allowed
    assert store.fsck(deep=True).clean


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_budget_whose_lossy_commit_would_lose_nothing_is_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    """A step far below the last place of a narrow type decodes to every bit, in more bytes than an exact remainder takes."""
    base = {"dense.weight": (0.02 * weights(1)["embed.weight"]).to(dtype)}
    tuned = {"dense.weight": (base["dense.weight"].float() + 3e-5 * weights(2)["embed.weight"]).to(dtype)}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "ft.safetensors")
    sizes = {}
    for name, quality in (("exact", Quality(exact=True)), ("rich", Quality(budget=200_000))):
        store = Store.init(tmp_path / name)
        store.import_base(tmp_path / "base.safetensors", name="base")
        done = store.commit(tmp_path / "ft.safetensors", base="base", name="ft", quality=quality)
        assert done.exact
        sizes[name] = done.stored_bytes
    assert sizes["rich"] <= sizes["exact"] + 200  # the record of the commit is a little longer


def test_a_larger_budget_loses_less(place: Path) -> None:
    store = Store.open(place / "store")
    errors = [
        store.commit(place / "ft.safetensors", base="base", name=f"ft{b}", quality=Quality(budget=b)).relative_error
        for b in (20_000, 40_000, 120_000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


def test_more_than_is_needed_is_not_used_up(place: Path) -> None:
    store = Store.open(place / "store")
    done = store.commit(place / "ft.safetensors", base="base", name="ft", quality=Quality(budget=100_000_000))
    assert done.relative_error < 1e-7
    assert done.stored_bytes < done.original_bytes


def test_a_budget_without_room_is_refused_and_nothing_is_named(place: Path) -> None:
    store = Store.open(place / "store")
    for budget in (300, 3_000):  # less than the records take, and than the new head
        with pytest.raises(UsageError, match="budget"):
            store.commit(place / "ft.safetensors", base="base", name="ft", quality=Quality(budget=budget))
    assert not store.has_ref("ft")


@pytest.mark.parametrize("text", ["20k", "20000", "0.02M", "20kB"])
def test_bytes_on_the_command_line(place: Path, text: str) -> None:
    arguments = ["--store", str(place / "store"), "commit", str(place / "ft.safetensors"), "--base", "base"]
    done = CliRunner().invoke(cli, [*arguments, "--name", "ft", "--budget", text, "--json"])
    assert done.exit_code == 0, done.output
    store = Store.open(place / "store")
    assert store.commit_record(store.resolve("ft")).quality["budget"] == "20000"


@pytest.mark.parametrize(
    "options", [["--budget", "lots"], ["--budget", "1%", "--max-error", "0.1"], ["--budget", "1M", "--exact"]]
)
def test_budgets_that_make_no_sense(place: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--store", str(place / "store"), "commit", str(place / "ft.safetensors"), "--base", "base"]
    assert run([*arguments, *options]) == 2
    assert "budget" in capsys.readouterr().err.lower()


def test_words_count(place: Path) -> None:
    """A long message is part of what the commit adds."""
    words = " ".join(f"{number * 7919 % 100_003:x}" for number in range(1500))
    store = Store.open(place / "store")
    before = stored(store)
    quality = Quality(budget=30_000)
    store.commit(place / "ft.safetensors", base="base", name="ft", message=words, metrics={"k": words}, quality=quality)
    assert 29_700 < stored(store) - before <= 30_000


def test_a_budget_for_what_did_not_change_is_kept_too(place: Path) -> None:
    """Nothing is encoded then, but a new head is kept as it is."""
    save_file({**weights(1), "new.weight": torch.randn(80, 200)}, place / "head.safetensors")
    store = Store.open(place / "store")
    with pytest.raises(UsageError, match="too small"):
        store.commit(place / "head.safetensors", base="base", name="head", quality=Quality(budget=20_000))
    assert not store.has_ref("head")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    original = Passes.encode

    def count(self: Passes, *arguments: object) -> object:
        counted.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Passes, "encode", count)
    return counted


def test_changes_that_are_multiples_of_the_base(place: Path, passes: list[int]) -> None:
    save_file({name: 2 * tensor for name, tensor in weights(1).items()}, place / "double.safetensors")
    store = Store.open(place / "store")
    done = store.commit(place / "double.safetensors", base="base", name="double", quality=Quality(budget=20_000))
    assert done.relative_error < 1e-8
    assert len(passes) == 2  # nothing better is looked for but the exact value


def test_hardly_any_room(place: Path, passes: list[int]) -> None:
    """Where a residual does not fit, or only one of a few bytes, that is found out soon."""
    store, refused = Store.open(place / "store"), 0
    for budget in range(6_500, 7_300, 80):
        passes.clear()
        try:
            done = store.commit(
                place / "ft.safetensors", base="base", name=f"b{budget}", quality=Quality(budget=budget)
            )
        except UsageError:
            refused += 1
        else:
            assert done.stored_bytes <= budget
        assert len(passes) <= 16
    assert 0 < refused < 10
    assert store.fsck(deep=True).clean


def test_the_same_again_is_the_same(place: Path) -> None:
    found = set()
    for number in range(3):
        store = Store.init(place / f"store{number}")
        store.import_base(place / "base.safetensors", name="base")
        store.commit(place / "ft.safetensors", base="base", name="ft", quality=Quality(budget=20_000))
        found.add(store.commit_record(store.resolve("ft")).own)
    assert len(found) == 1
