"""An adapter's own files in the checkout: where the base's stood, but for what would have the adapter applied again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.ingest.adapter_files import adapted_places, replaced


def write_base(root: Path, *, listed: bool = True) -> Path:
    (root / "2_Dense").mkdir(parents=True)
    save_file({"q.weight": torch.ones(16, 16)}, root / "model.safetensors")
    save_file({"linear.weight": torch.zeros(8, 16)}, root / "2_Dense/model.safetensors")
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "2_Dense/config.json",
        "special_tokens_map.json",
    ):
        (root / name).write_text(json.dumps({"of": "base"}))
    for name in ("chat_template.jinja", "README.md", "notes.txt"):
        (root / name).write_text("base")
    write_modules(root, ["", "2_Dense"] if listed else [""])
    return root


def write_modules(root: Path, paths: list[str]) -> None:
    (root / "modules.json").write_text(json.dumps([{"idx": at, "path": path} for at, path in enumerate(paths)]))


def write_adapter(root: Path, scale: float = 1.0, *, tokenizer: bool = True) -> Path:
    (root / "2_Dense").mkdir(parents=True)
    factors = {"A": torch.ones(2, 16), "B": torch.full((16, 2), scale)}
    save_file(
        {f"base_model.model.q.lora_{side}.weight": factor for side, factor in factors.items()},
        root / "adapter_model.safetensors",
    )
    save_file({"linear.weight": torch.full((8, 16), scale)}, root / "2_Dense/model.safetensors")
    configuration = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}
    (root / "adapter_config.json").write_text(json.dumps(configuration))
    names = [
        "config.json",
        "config_sentence_transformers.json",
        *(["tokenizer.json", "tokenizer_config.json"] * tokenizer),
    ]
    for name in names:
        (root / name).write_text(json.dumps({"of": "adapter"}))
    for name in ("README.md", "training_args.bin", "value_head.pkl"):
        (root / name).write_text("adapter")
    write_modules(root, ["", "2_Dense"])
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adapters")
    write_base(place / "base")
    write_base(place / "former", listed=False)
    write_adapter(place / "one")
    write_adapter(place / "two", 3.0, tokenizer=False)
    return place


@pytest.fixture(scope="module")
def store(place: Path) -> Store:
    store = Store.init(place / "store")
    store.import_base(place / "base", name="base")
    for name in ("one", "two"):
        store.commit(place / name, base="base")
    return store


def owners(root: Path) -> dict[str, str]:
    """Return whose each text file of a checkout is."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    content = {path.relative_to(root).as_posix(): path.read_text() for path in paths}
    return {
        name: next(who for who in ("base", "adapter") if who in text)
        for name, text in content.items()
        if "of" in text or text in ("base", "adapter")
    }


def test_what_the_adapter_has_wins_and_what_is_its_own_is_apart(store: Store, place: Path, tmp_path: Path) -> None:
    store.checkout("one", tmp_path / "out")
    assert owners(tmp_path / "out") == {
        "config.json": "base",
        "2_Dense/config.json": "base",
        "README.md": "base",
        "notes.txt": "base",
        "tokenizer.json": "adapter",
        "tokenizer_config.json": "adapter",
        "config_sentence_transformers.json": "adapter",
        "adapter/README.md": "adapter",
        "adapter/config.json": "adapter",
        "adapter/training_args.bin": "adapter",
        "adapter/value_head.pkl": "adapter",
    }
    assert not list((tmp_path / "out").glob("adapter_*"))
    assert (tmp_path / "out/adapter/adapter_config.json").is_file()
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["q.weight"], torch.full((16, 16), 3.0))
    module = "2_Dense/model.safetensors"
    assert (tmp_path / "out" / module).read_bytes() == (place / "one" / module).read_bytes()


def test_a_second_adapter_on_top_has_its_files_alone_and_keeps_the_tokenizer(
    store: Store, place: Path, tmp_path: Path
) -> None:
    store.commit(place / "two", parent="one", name="both")
    store.checkout("both", tmp_path / "out")
    found = owners(tmp_path / "out")
    assert found["tokenizer.json"] == "adapter"
    assert "chat_template.jinja" not in found
    assert torch.equal(load_file(tmp_path / "out/2_Dense/model.safetensors")["linear.weight"], torch.full((8, 16), 3.0))
    store.checkout("two", tmp_path / "two")
    assert owners(tmp_path / "two")["chat_template.jinja"] == "base"


def test_trained_modules_of_adapters_are_averaged(store: Store, tmp_path: Path) -> None:
    made = store.merge(["one", "two"], name="mean")
    assert any("tokenizer.json" in note for note in made.notes)
    store.checkout("mean", tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out/2_Dense/model.safetensors")["linear.weight"], torch.full((8, 16), 2.0))


def test_a_module_that_the_base_holds_as_a_side_file_becomes_the_adapters_weights(place: Path, tmp_path: Path) -> None:
    store = Store.init(tmp_path / "store")
    store.import_base(place / "former", name="base")
    store.commit(place / "one", base="base")
    store.checkout("one", tmp_path / "out")
    found = load_file(tmp_path / "out/2_Dense/model.safetensors")
    assert {name: float(tensor.mean()) for name, tensor in found.items()} == {"linear.weight": 1.0}
    assert load_file(tmp_path / "out/model.safetensors").keys() == {"q.weight"}
    assert store.fsck(deep=True).clean


def test_places_of_files_that_are_weights_or_another_adapters() -> None:
    names = ["model_head.pkl", "other.pt", "reference/adapter_config.json", "2_Own/pytorch_model.bin"]
    unread = {"model_head.pkl", "other.pt", "2_Own/pytorch_model.bin"}
    assert adapted_places(names, {"model_head.pkl"}, {"2_Own/pytorch_model.bin"}, unread) == {
        "model_head.pkl": "model_head.pkl",
        "other.pt": "adapter/other.pt",
        "reference/adapter_config.json": "adapter/reference/adapter_config.json",
        "2_Own/pytorch_model.bin": "adapter/2_Own/pytorch_model.bin",
    }


def test_a_template_alone_leaves_the_tokenizer_alone() -> None:
    parent = {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "0_T/vocab.txt", "adapter/notes"}
    assert replaced(["chat_template.jinja", "tokenizer_config.json"], parent) == set()
    assert replaced(["tokenizer.json", "tokenizer_config.json"], parent) == {"vocab.txt"}
    assert replaced([], {*parent, "adapter/adapter_config.json"}) == {"adapter/notes", "adapter/adapter_config.json"}
