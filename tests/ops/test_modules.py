"""Modules in folders through the verbs: committed as residuals, compared, merged, taken out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erestore.api import Store
from erestore.encoding.quality import Quality
from erestore.errors import CombinationError, CorruptionError, UnsupportedFormatError, UsageError
from erestore.records import Layout

FINE = Quality(max_error=1e-6)


def write(root: Path, seed: int, *, listed: bool = True) -> Path:
    """Write a model with a Dense; where it is not listed, the library does not load it, and it is a side file."""
    generator = torch.Generator().manual_seed(seed)
    (root / "2_Dense").mkdir(parents=True)
    save_file({"q.weight": torch.randn(24, 16, generator=generator)}, root / "model.safetensors")
    save_file({"linear.weight": torch.randn(8, 16, generator=generator)}, root / "2_Dense/model.safetensors")
    (root / "2_Dense/config.json").write_text("{}")
    paths = ["", "2_Dense"] if listed else [""]
    (root / "modules.json").write_text(json.dumps([{"idx": at, "path": path} for at, path in enumerate(paths)]))
    return root


def dense(root: Path) -> torch.Tensor:
    return load_file(root / "2_Dense/model.safetensors")["linear.weight"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("modules")
    for seed, name in enumerate(("base", "a", "b")):
        write(place / name, seed)
    write(place / "former-base", 0, listed=False)
    write(place / "former", 3, listed=False)
    return place


@pytest.fixture(scope="module")
def store(place: Path) -> Store:
    store = Store.init(place / "store")
    store.import_base(place / "base", name="base")
    store.commit(place / "a", base="base", quality=Quality(max_error=1e-6, exact=True))
    store.commit(place / "b", base="base", quality=FINE)
    return store


def test_a_modules_weights_are_residuals_and_come_back_exactly(store: Store, place: Path, tmp_path: Path) -> None:
    shown = store.show("a")
    assert {tensor.name for tensor in shown.tensors} == {"q.weight", "2_Dense/linear.weight"}
    assert "2_Dense/model.safetensors" not in shown.side_files
    store.checkout("a", tmp_path / "a")
    assert torch.equal(dense(tmp_path / "a"), dense(place / "a"))
    assert store.cat("a", "2_Dense/linear.weight").shape == (8, 16)


def test_a_merge_and_a_comparison_have_the_modules_in_them(store: Store, place: Path, tmp_path: Path) -> None:
    store.merge(["a", "b"], name="m")
    store.checkout("m", tmp_path / "m")
    assert torch.allclose(dense(tmp_path / "m"), (dense(place / "a") + dense(place / "b")) / 2, atol=0.02)
    assert "2_Dense/linear.weight" in {tensor.name for tensor in store.diff("a", "b").tensors}
    store.merge(["a", "b"], name="t", strategy="ties", options={"density": "0.5"})
    store.checkout("t", tmp_path / "t")
    assert not torch.equal(dense(tmp_path / "t"), dense(place / "a"))


def test_a_module_that_was_committed_as_a_side_file_is_a_conflict_with_one_that_is_weights(
    place: Path, tmp_path: Path
) -> None:
    store = Store.init(tmp_path / "store")
    store.import_base(place / "former-base", name="base")
    store.commit(place / "former", base="base", quality=FINE)
    store.commit(place / "a", base="base", quality=FINE)
    with pytest.raises(CombinationError) as caught:
        store.merge(["former", "a"], name="m")
    assert [conflict.subject for conflict in caught.value.conflicts] == ["2_Dense/model.safetensors"]
    for choose, wanted in (("ours", "former"), ("theirs", "a")):
        store.merge(["former", "a"], name=choose, choose=choose)
        store.checkout(choose, tmp_path / choose)
        assert torch.equal(dense(tmp_path / choose), dense(place / wanted))
    assert store.fsck(deep=True).clean


def test_the_layout_says_so_in_a_field_that_others_lack(store: Store) -> None:
    manifest = store.manifest_of(store.resolve("a"))
    record = store.objects.get_record("layout", manifest.layout)
    assert record["modules"] == {"2_Dense": "safetensors"}
    assert Layout.from_record(record).to_record() == record
    for modules in ({}, {"": "safetensors"}, {"3_Other": "torch"}):
        with pytest.raises(CorruptionError):
            Layout.from_record(record | {"modules": modules})
    (root, (path, _, metadata)) = record["files"]
    with pytest.raises(CorruptionError):
        Layout.from_record(record | {"files": [root, [path, ["linear.weight"], metadata]]})
    with pytest.raises(UnsupportedFormatError):
        Layout.from_record(record | {"folders": {}})


def write_headed(root: Path, seed: int, head: bytes | None) -> Path:
    """Write what SetFit does: a model, and a classifier of scikit-learn beside it as a pickle."""
    write(root, seed)
    if head:
        (root / "model_head.pkl").write_bytes(head)
    (root / "README.md").write_text(f"{seed}")
    (root / "training_args.bin").write_bytes(bytes([seed]))
    return root


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Store:
    place = tmp_path_factory.mktemp("heads")
    store = Store.init(place / "store")
    store.import_base(write_headed(place / "base", 0, b"0"), name="base")
    for seed, (name, head) in enumerate({"a": b"1", "b": b"2", "same": b"1", "none": None}.items(), 1):
        store.commit(write_headed(place / name, seed, head), base="base", quality=FINE)
    return store


@pytest.mark.parametrize("other", ["b", "none"])
def test_weights_that_are_not_read_are_a_conflict_where_they_differ(heads: Store, tmp_path: Path, other: str) -> None:
    with pytest.raises(CombinationError) as caught:
        heads.merge(["a", other], name="m")
    assert [(conflict.kind, conflict.subject) for conflict in caught.value.conflicts] == [("file", "model_head.pkl")]
    with pytest.raises(CombinationError):
        heads.checkout(f"0.5*a + 0.5*{other}", tmp_path / "out")
    wanted = {"ours": b"1", "theirs": b"2" if other == "b" else b"1", "drop": None}
    for choose, head in wanted.items():
        made = heads.merge(["a", other], name=f"{choose}-{other}", choose=choose)
        assert [conflict.subject for conflict in made.chosen] == ["model_head.pkl"]
        first = "a" if choose != "theirs" else other
        expected = f"the result has those of '{first}': README.md, training_args.bin."
        assert [note for note in made.notes if expected in note] == list(made.notes)
        assert head_of(heads, made.ref, tmp_path) == head


def test_equal_ones_are_no_conflict_and_a_pick_brings_what_it_changed(heads: Store, tmp_path: Path) -> None:
    assert head_of(heads, heads.merge(["a", "same"], name="equal").ref, tmp_path) == b"1"
    root = write_headed(tmp_path / "next", 5, b"3")
    heads.commit(root, parent="a", name="a-next", quality=FINE)
    picked = heads.cherry_pick("a-next", onto="same", name="picked")
    assert picked.notes[0].startswith("The file of weights 'model_head.pkl' is that of '")
    assert head_of(heads, picked.ref, tmp_path) == b"3"
    assert head_of(heads, heads.revert("a-next", on="picked", name="back").ref, tmp_path) == b"1"
    part = heads.cherry_pick("a-next", onto="same", name="part", tensors="q.*")
    assert head_of(heads, part.ref, tmp_path) == b"1"


def head_of(store: Store, name: str, place: Path) -> bytes | None:
    store.checkout(name, place / name)
    path = place / name / "model_head.pkl"
    return path.read_bytes() if path.exists() else None


def test_a_file_of_weights_that_both_sides_of_a_carried_change_replaced_is_a_conflict(
    heads: Store, tmp_path: Path
) -> None:
    heads.import_base(write_headed(tmp_path / "other", 9, b"9"), name="other")
    with pytest.raises(CombinationError, match="both sides changed it") as caught:
        heads.rebase("a", onto="other", name="carried", carry=True)
    assert [(conflict.kind, conflict.subject) for conflict in caught.value.conflicts] == [("file", "model_head.pkl")]
    assert not heads.has_ref("carried")
    for choose, head in {"ours": b"9", "theirs": b"1"}.items():
        made = heads.rebase("a", onto="other", name=f"carried-{choose}", carry=True, choose=choose)
        assert [conflict.subject for conflict in made.chosen] == ["model_head.pkl"]
        assert any("has those of 'a': README.md" in note for note in made.notes)
        assert head_of(heads, made.ref, tmp_path) == head
    kept = heads.rebase("a", onto="other", name="kept")
    assert (kept.notes, kept.chosen) == ((), ())
    with pytest.raises(UsageError, match="need --carry"):
        heads.rebase("a", onto="other", name="kept", choose="ours")


def test_a_file_of_weights_that_one_side_changed_is_that_ones(heads: Store, tmp_path: Path) -> None:
    heads.commit(write_headed(tmp_path / "untouched", 6, b"0"), base="base", name="untouched", quality=FINE)
    heads.import_base(write_headed(tmp_path / "new-head", 10, b"9"), name="new-head")
    heads.import_base(write_headed(tmp_path / "old-head", 11, b"0"), name="old-head")
    for variant, base, head in (("untouched", "new-head", b"9"), ("a", "old-head", b"1")):
        made = heads.rebase(variant, onto=base, name=f"{variant}-{base}", carry=True)
        assert (made.chosen, head_of(heads, made.ref, tmp_path)) == ((), head)


def test_a_list_of_words_is_the_first_variants_and_what_others_have_more_is_left_out_with_a_note(
    tmp_path: Path,
) -> None:
    store = Store.init(tmp_path / "store")
    store.import_base(write(tmp_path / "base", 0), name="base")
    for seed, name in enumerate(("a", "b", "c"), 1):
        root = write(tmp_path / name, seed)
        (root / "vocab.bin").write_text(f"the\n{name}\n")
        (root / f"only-{name}.txt").write_text(name)
        store.commit(root, base="base", quality=FINE)
    notes = store.merge(["a", "b", "c"], name="m").notes
    assert any("has those of 'a': only-a.txt, vocab.bin." in note for note in notes)
    for name in "bc":
        assert f"Side files of '{name}' that 'a' lacks are left out of the result: only-{name}.txt." in notes
    store.checkout("m", tmp_path / "m")
    assert (tmp_path / "m/vocab.bin").read_text() == "the\na\n"
    assert not (tmp_path / "m/only-b.txt").exists()


def test_weights_by_any_name_are_a_conflict(tmp_path: Path) -> None:
    store = Store.init(tmp_path / "store")
    store.import_base(write(tmp_path / "base", 0), name="base")
    for seed, name in enumerate(("a", "b"), 1):
        root = write(tmp_path / name, seed)
        torch.save({"w": torch.full((2,), float(seed))}, root / "classifier.dat")
        store.commit(root, base="base", quality=FINE)
    with pytest.raises(CombinationError, match="differs"):
        store.merge(["a", "b"], name="m")
