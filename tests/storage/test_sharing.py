"""Stores that several people write to: permissions do not depend on their umasks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from erestore.api import Store
from erestore.errors import UsageError
from erestore.ops.init import init
from erestore.store import MARKER


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def folder(path: Path, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


def modes(store: Path) -> tuple[set[int], set[int]]:
    """Modes of all folders and of all files."""
    paths = [store, *store.rglob("*")]
    found = [(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths]
    return {mode for is_folder, mode in found if is_folder}, {mode for is_folder, mode in found if not is_folder}


def fill(place: Path) -> None:
    store = Store.open(place)
    store.objects.put_blob(b"some")
    store.set_setting("gc.grace_days", "7")
    store.gc()


@pytest.mark.parametrize(
    ("mode", "folders", "files"), [(0o2775, 0o2775, 0o664), (0o2770, 0o2770, 0o660), (0o2777, 0o2777, 0o666)]
)
def test_a_store_in_a_groups_folder_is_the_groups(
    tmp_path: Path, umask: int, mode: int, folders: int, files: int
) -> None:
    group = folder(tmp_path / "group", mode)
    init(group / "new")
    fill(group / "new")
    expected = ({folders | 0o777 & ~umask}, {files | 0o666 & ~umask})
    assert modes(group / "new") == expected
    init(folder(group / "there", mode))
    fill(group / "there")
    assert modes(group / "there") == (expected[0] | {mode}, expected[1])


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o1777])
def test_a_store_elsewhere_is_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    init(folder(tmp_path / "home", mode) / "s")
    fill(tmp_path / "home" / "s")
    assert modes(tmp_path / "home" / "s") == ({0o777 & ~umask}, {0o666 & ~umask})


@pytest.mark.parametrize(("shared", "folders", "files"), [("group", 0o2070, 0o060), ("all", 0o2075, 0o064)])
def test_the_setting_comes_first_and_changes_what_is_there(
    tmp_path: Path, umask: int, shared: str, folders: int, files: int
) -> None:
    init(tmp_path / "s")
    fill(tmp_path / "s")
    Store.open(tmp_path / "s").set_setting("core.shared", shared)
    expected = ({0o777 & ~umask | folders}, {0o666 & ~umask | files})
    assert modes(tmp_path / "s") == expected
    Store.open(tmp_path / "s").objects.put_blob(b"more")
    assert modes(tmp_path / "s") == expected
    Store.open(tmp_path / "s").set_setting("core.shared", "umask")
    Store.open(tmp_path / "s").objects.put_blob(b"even more")
    assert 0o666 & ~umask in modes(tmp_path / "s")[1]


def test_init_shared(tmp_path: Path, umask: int) -> None:
    init(tmp_path / "s", shared="group")
    fill(tmp_path / "s")
    assert modes(tmp_path / "s") == ({0o777 & ~umask | 0o2070}, {0o666 & ~umask | 0o060})
    assert Store.open(tmp_path / "s").setting("core.shared") == "group"


def test_what_somebody_put_beside_the_stores_files_is_not_shared(tmp_path: Path) -> None:
    init(tmp_path / "s")
    fill(tmp_path / "s")
    names = ["token", "config/secrets.yaml", "objects/data/x", "refs/paper.txt", "gc/notes", "features/x/y"]
    private = [tmp_path / "s" / name for name in names]
    for path in private:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("private")
        path.chmod(0o600)
    (tmp_path / "s/objects/data").chmod(0o700)
    (tmp_path / "s/config").chmod(0o700)  # holds the store's configuration, too
    Store.open(tmp_path / "s").set_setting("core.shared", "all")
    assert [stat.S_IMODE(path.stat().st_mode) for path in private] == [0o600] * len(private)
    assert stat.S_IMODE((tmp_path / "s/objects/data").stat().st_mode) == 0o700
    for name in ("config", "config/0000000000000001", "erestore.json", "gc/reserved space"):
        assert (tmp_path / "s" / name).stat().st_mode & 0o064 == 0o064


def test_only_files_have_permissions() -> None:
    with pytest.raises(UsageError, match="no file permissions"):
        init("memory://shared", shared="group")
    store = Store.init("memory://not-shared")
    with pytest.raises(UsageError, match="no file permissions"):
        store.set_setting("core.shared", "group")
    with pytest.raises(UsageError, match="not a value"):
        store.set_setting("core.shared", "everybody")
    assert store.setting("core.shared") == "folder"


def test_a_damaged_configuration_does_not_keep_a_store_from_opening(tmp_path: Path) -> None:
    init(tmp_path / "s", shared="group")
    (entry,) = (tmp_path / "s" / "config").iterdir()
    entry.write_bytes(b"garbage")
    assert Store.open(tmp_path / "s").storage.exists(MARKER)
