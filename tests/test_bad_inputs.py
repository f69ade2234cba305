"""Bad inputs at the command line: each gets one sentence, a next step and its exit code, and leaves the store as it was."""

import json
import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny
import torch

from erestore.api import Store
from erestore.cli.main import run
from erestore.encoding.quality import Quality


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prepared")
    base = tiny.base_weights()
    tiny.write_model(directory / "base", base)
    tiny.write_model(directory / "ft", tiny.tuned(base, 1))
    store = Store.init(directory / ".erestore")
    store.import_base(directory / "base", name="base")
    store.commit(directory / "ft", base="base", name="task-mnli", quality=Quality(exact=True))
    return directory


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ERESTORE_STORE", "ERESTORE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def erestore(here, capsys):
    def call(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


def refs(directory: Path) -> list[Path]:
    return sorted((directory / ".erestore" / "refs").rglob("*"))


def assert_refused(ran: Ran, code: int, sentence: str) -> None:
    """Expect one sentence that matches, one next step, and no data."""
    assert (ran.code, ran.out) == (code, "")
    error, hint = ran.err.splitlines()
    assert re.fullmatch(f"error: {sentence}", error), error
    assert re.fullmatch(r"hint: .{10,}", hint), hint


def test_no_store(erestore, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_refused(erestore("checkout", "task-mnli"), 3, r"There is no store .*")
    assert_refused(erestore("--store", "nothing", "log"), 3, r"There is no store at '\S*nothing'\.")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_unknown_ref(erestore):
    ran = erestore("checkout", "task-mnIi")
    assert_refused(ran, 3, r"There is no revision 'task-mnIi'\.")
    assert "Did you mean task-mnli?" in ran.err


def test_base_missing(erestore, here):
    before = refs(here)
    assert_refused(erestore("commit", "ft", "--base", "roberta-large"), 3, r"There is no base 'roberta-large': .*")
    assert refs(here) == before


def test_wrong_architecture(erestore, here):
    before = refs(here)
    other = {"dense.weight": torch.zeros(9, 7), "dense.bias": torch.zeros(9), "scale": torch.tensor(2.0)}
    tiny.write_model(here / "other", {**other, "extra.weight": torch.zeros(3, 3)})
    ran = erestore("commit", "other", "--base", "base")
    assert_refused(
        ran, 9, r"The checkpoint has another architecture .*'dense\.bias' is \[9\] here and \[32\] in the .*"
    )
    assert "1 of 4 tensors" in ran.err
    assert refs(here) == before


def test_values_that_are_not_finite_are_kept_exactly(erestore, here):
    weights = tiny.tuned(tiny.base_weights(), 2)
    weights["dense.weight"].view(torch.int16)[0, :3] = torch.tensor([0x7FC1, 0x7F80, -0x80], dtype=torch.int16)
    assert math.isnan(weights["dense.weight"][0, 0])
    assert math.isinf(weights["dense.weight"][0, 1])
    tiny.write_model(here / "odd", weights)
    ran = erestore("commit", "odd", "--base", "base")
    assert ran.code == 0
    assert "1 tensor kept whole because of NaN or infinity: dense.weight." in ran.err
    assert erestore("checkout", "odd", "back").code == 0
    found = tiny.weights_of(here / "back")["dense.weight"]
    assert tiny.same_tensors({"": found}, {"": weights["dense.weight"]})


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated_safetensors(erestore, here, kept):
    before = refs(here)
    file = here / "ft" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert_refused(erestore("commit", "ft", "--name", "x", "--base", "base"), 9, r".*model\.safetensors.*")
    assert refs(here) == before


class Code:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_with_code(erestore, here, old_format):
    torch.save({"w": Code()}, here / "evil.pt", _use_new_zipfile_serialization=not old_format)
    assert_refused(erestore("commit", "evil.pt", "--base", "base"), 9, r".*evil\.pt.*\b(posix|os)\.mkdir\b.*")
    assert not (here / "owned").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/erestore-outside.txt", "a/../../outside.txt", ".bashrc"])
def test_hostile_name_of_a_side_file(erestore, here, name):
    """A store that somebody else made names a file outside the directory; nothing is written at all."""
    from dataclasses import replace

    from erestore.records import Layout, Manifest

    store = Store.open(here / ".erestore")
    commit = store.commit_record(store.resolve("task-mnli"))
    manifest = Manifest.from_record(store.objects.get_record("manifest", commit.manifest))
    record = Layout.from_record(store.objects.get_record("layout", manifest.layout)).to_record()
    record["side_files"] = {**record["side_files"], name: store.objects.put_blob(b"owned").oid}
    layout = store.objects.put_record("layout", record).oid
    changed = store.objects.put_record("manifest", replace(manifest, layout=layout).to_record()).oid
    store.record(replace(commit, manifest=changed), "hostile", store.begin(), expected=0)
    seen = set(here.parent.rglob("*"))
    ran = erestore("checkout", "hostile")
    assert ran.code in (4, 9)
    assert_refused(ran, ran.code, rf".*{re.escape(repr(name))}.*")
    assert set(here.parent.rglob("*")) == seen


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB; making one needs rights that not every machine gives."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=777", "none", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_disk_full(erestore, small_disk):
    (small_disk / "ballast").write_bytes(os.urandom(200 << 10))
    done = erestore("checkout", "task-mnli", small_disk / "first")
    while done.code == 0:  # a checkpoint is small: fill the disk with what is under test
        done = erestore("checkout", "task-mnli", small_disk / f"more{len(list(small_disk.iterdir()))}")
    assert_refused(done, 10, r".* cannot be written: No space left on device\.")
    left = sorted(path.name for path in small_disk.iterdir())
    assert left == sorted(["ballast", "first", *(f"more{number}" for number in range(2, len(left)))])  # no half ones


def test_disk_full_for_the_store(erestore, small_disk, here):
    assert erestore("init", small_disk / "store").code == 0
    (small_disk / "ballast").write_bytes(bytes(170 << 10))  # beside what the store keeps in reserve
    assert_refused(
        erestore("--store", small_disk / "store", "commit", "ft", "--base", "base"), 10, r".*no space left.*"
    )
    (small_disk / "ballast").unlink()
    assert json.loads(erestore("--store", small_disk / "store", "log", "--json").out) == []
    assert erestore("--store", small_disk / "store", "commit", "ft", "--base", "base").code == 0
    assert erestore("--store", small_disk / "store", "fsck", "--read-data").code == 0


def test_read_only_directory(erestore, small_disk, here):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert_refused(erestore("checkout", "task-mnli", small_disk / "back"), 10, r".*[Rr]ead-only.*")
    assert_refused(erestore("init", small_disk / "store"), 10, r".*[Rr]ead-only.*")


def test_ref_raced_by_another_writer(erestore, here):
    """Another writer moves the branch while a commit is encoding."""
    other = Store.open(here / ".erestore")
    moved = threading.Event()

    def move(*_: object) -> None:
        if not moved.is_set():
            moved.set()
            other.branch("task-mnli", "base", force=True)

    store = Store.open(here / ".erestore")
    with pytest.raises(Exception, match="moved by another writer") as caught:
        store.commit(here / "ft", name="task-mnli", progress=move)
    assert caught.value.exit_code == 5
    assert store.resolve("task-mnli") == store.resolve("base")


def test_corrupt_object(erestore, here):
    store = Store.open(here / ".erestore")
    (oid,) = store.commit_record(store.resolve("task-mnli")).own
    (file,) = (path for path in (here / ".erestore").rglob("*") if oid in str(path).replace("/", ""))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(content))
    ran = erestore("checkout", "task-mnli")
    assert_refused(ran, 4, rf".*{oid[:12]}.*")
    assert not (here / "task-mnli").exists()
    found = erestore("fsck", "--read-data")
    assert (found.code, oid[:12] in found.out + found.err) == (4, True)
    file.unlink()
    assert_refused(erestore("checkout", "task-mnli"), 4, rf"The residual {oid[:12]} is referred to but missing.*")
