"""A real, small, full disk: what frees space runs on it. Takes the right to mount (a namespace of its own, or root)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from erestore.api import Store
from erestore.errors import AccessError
from erestore.storage.abc import Data
from erestore.storage.access import is_full, refusals
from erestore.storage.local import TEMPORARY, LocalStorage
from erestore.storage.reserve import BYTES, NAMES

ROOT = Path(__file__).parents[2]

PROGRAM = """
import subprocess, sys
from pathlib import Path
from erestore.api import Store
from erestore.errors import AccessError

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", sys.argv[3], "tmpfs", disk], check=True)
sys.path.insert(0, sys.argv[2])
from lineages import add

store = Store.init(disk / "s")
add(store, "base")
for name in ("a", "b", "c"):
    add(store, name, "base")
    store.tag(f"tag-{name}", name)
for name in ("a", "b", "c"):
    store.objects.put_blob(name.encode() * 5000)
for number in range(1000):
    try:
        (disk / f"filler-{number}").write_bytes(bytes(1024))
    except OSError:
        break
try:
    store.tag("more", "a")
except AccessError as error:
    print("tag", error.exit_code, "no space" in error.message)
store.delete_branches(["a", "b"])
store.delete_tags(["tag-a", "tag-b"])
print("undo", store.undo().refs[0].name)
done = store.gc(grace_days=0, reflog_days=0)
print("gc", done.deleted_objects == 3, done.waiting)
store.tag("more", "c")
print(store.fsck(read_data=True).clean, (disk / "s/gc/reserved space").stat().st_size)
"""


@pytest.mark.parametrize("limit", ["size=512k", "size=4m,nr_inodes=150"])
def test_what_frees_space_runs_on_a_full_disk(tmp_path: Path, limit: str) -> None:
    namespace = ["unshare", "-rm"]
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a small disk")
    (tmp_path / "disk").mkdir()
    command = [*namespace, sys.executable, "-c", PROGRAM, str(tmp_path / "disk"), str(ROOT / "tests" / "ops"), limit]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.stdout.splitlines() == ["tag 10 True", "undo tag-b", "gc True None", f"True {BYTES}"], done.stderr


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    made = LocalStorage(tmp_path)
    made.reserve()
    return made


def test_the_reserve_is_no_value_and_is_filled_up(storage: LocalStorage) -> None:
    assert list(storage.list()) == []
    paths = [storage.directory / name for name in NAMES]
    assert [path.stat().st_size for path in paths] == [BYTES] * len(paths)
    os.truncate(paths[0], 100)
    paths[1].unlink()
    storage.reserve()
    assert [path.stat().st_size for path in paths] == [BYTES] * len(paths)


def test_only_what_frees_space_may_spend_it(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    write, path = os.write, storage.directory / NAMES[0]

    def refuse(descriptor: int, data: bytes) -> int:
        if path.exists():
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(AccessError) as caught:
        storage.create("refs/a/0000000000000001", b"x")
    assert is_full(caught.value)
    with storage.spending_reserve():
        assert storage.create("refs/a/0000000000000001", b"x")
        assert not path.exists()
        with pytest.raises(RuntimeError):  # what comes in chunks cannot be written twice
            storage.create("objects/ab/cd", chunks())
    assert path.stat().st_size == BYTES


def chunks():
    yield b"x"
    raise RuntimeError


def test_a_disk_that_stays_full_ends_with_its_error(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "write", refuse)
    with storage.spending_reserve(), pytest.raises(AccessError, match="no space left"):
        storage.create("refs/a/0000000000000001", b"x")


def test_a_list_that_does_not_fit_comes_last_and_has_a_way_out(tmp_path: Path) -> None:
    class Full(LocalStorage):
        def create(self, key: str, data: Data) -> bool:
            if key.startswith("gc/condemned/"):
                with refusals("write", key):
                    raise OSError(28, "No space left on device")
            return super().create(key, data)

    store = Store.init(tmp_path)
    store.objects.put_blob(b"garbage")
    stray = tmp_path / "gc" / f"{TEMPORARY}0123456789abcdef"
    stray.write_bytes(b"of a writer that the full disk killed")
    for path in (stray, *(tmp_path / "objects").rglob("*")):
        os.utime(path, (1, 1))
    full = store.on(Full(tmp_path))
    with pytest.raises(AccessError, match="no space") as caught:
        full.gc()
    assert "--grace-days 0" in str(caught.value.hint)
    assert not stray.exists()
    assert full.gc(grace_days=0).deleted_objects == 1
