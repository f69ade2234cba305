"""Flatten and merges on factors build nothing of a tensor's size, up to the commit; elsewhere than here it would be seen."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from erestore.api import Store
from erestore.encoding import residual_encoder
from erestore.ingest import variant_writer
from erestore.residual.operators import TILE

MODERATE = {"tall.weight": (1536, 1024), "wide.weight": (1024, 1536)}
LARGE = {"tall.weight": (6144, 4096), "wide.weight": (128, 256)}
ELEMENTS = 6144 * 4096
RANK = 6
NAMES = ("a", "b", "c")


class InPlace(Executor):
    """Runs what it is given at once, in the thread that asks, which is the one that is watched."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:  # noqa: BLE001 - is raised where the result is asked for
            future.set_exception(error)
        return future


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation of torch returns."""

    found = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        sizes = [each.nbytes for each in tree_flatten(result)[0] if isinstance(each, torch.Tensor)]
        self.found = max(self.found, *sizes, 0)
        return result


@contextmanager
def in_place() -> Iterator[Executor]:
    yield InPlace()


def torch_bytes(action: Callable[[], object]) -> int:
    """Return the bytes of torch's largest tensor."""
    with Largest() as mode:
        action()
    return mode.found


def other_bytes(action: Callable[[], object]) -> int:
    """Return the bytes that numpy and Python hold at most beyond the start."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def made(place: Path, shapes: dict[str, tuple[int, int]]) -> Store:
    """Return a store with a base, adapters of it, and their mean."""
    random = torch.Generator().manual_seed(0)
    (place / "base").mkdir()
    tensors = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    save_file(tensors, place / "base" / "model.safetensors", metadata={"format": "pt"})
    store = Store.init(place / "store")
    store.import_base(place / "base", name="base")
    for name in NAMES:
        (place / name).mkdir()
        sides = {}
        for key, (rows, columns) in shapes.items():
            module = f"base_model.model.{key.removesuffix('.weight')}"
            sides[f"{module}.lora_A.weight"] = 0.02 * torch.randn(RANK, columns, generator=random)
            sides[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=random)
        save_file(sides, place / name / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["tall", "wide"]}
        (place / name / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "base"}))
        store.commit(place / name, base="base", name=name)
    store.merge(NAMES, name="mean")
    return store


@pytest.fixture(scope="module")
def moderate(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("moderate"), MODERATE)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("large"), LARGE)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_encoder, "tensor_threads", in_place)
    monkeypatch.setattr(variant_writer, "tensor_threads", in_place)


def write(store: Store, what: str) -> None:
    """Write what is called so, and make sure that it is a residual of its own."""
    if what == "flatten":
        store.flatten("mean", name=what)
    else:
        store.merge(NAMES, name=what, strategy=what)
    (term,) = store.manifest_of(what).terms
    assert term.coefficient == 1


WRITTEN = pytest.mark.parametrize("what", ["flatten", "tsv", "knots", "iso-c", "core-space"])


@WRITTEN
def test_no_tensor_is_larger_than_a_tile(moderate: Store, what: str) -> None:
    assert torch_bytes(lambda: write(moderate, what)) <= 8 * TILE
    assert moderate.fsck(deep=True).corrupt == ()


@WRITTEN
def test_no_array_is_as_large_as_the_matrix(large: Store, what: str) -> None:
    """All that is held together is less: segments of 8 MB as they are read, tiles, factors."""
    assert other_bytes(lambda: write(large, what)) < 2 * ELEMENTS


def test_this_would_be_seen() -> None:
    assert torch_bytes(lambda: torch.zeros(MODERATE["tall.weight"])) > 2 * 8 * TILE
    assert torch_bytes(lambda: InPlace().submit(torch.zeros, 2 * TILE + 1).result()) > 8 * TILE
    assert other_bytes(lambda: np.zeros(LARGE["tall.weight"], np.int16)) >= 2 * ELEMENTS
