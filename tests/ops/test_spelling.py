"""Names that differ in case only, on storages that do and do not tell the difference."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from lineages import add, reopened

from erestore.api import Store
from erestore.storage.local import LocalStorage
from erestore.storage.memory import MemoryStorage
from erestore.storage.spelling import FEATURE_KEY, choose, plain, spelled
from erestore.store import MARKER


class IgnoresCase(LocalStorage):
    """Looks paths up as macOS, exFAT and SMB do: what is there keeps its spelling, and is found under any."""

    def _path(self, key: str) -> Path:
        super()._path(key)
        path = self.directory
        for part in key.split("/"):
            names = {inside.name for inside in path.iterdir()} if path.is_dir() else set()
            same = (name for name in names if name.casefold() == part.casefold())
            path /= part if part in names else next(same, part)
        return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    Store.init(tmp_path / "s")
    made = reopened(IgnoresCase(tmp_path / "s"))
    add(made, "base")
    return made


def test_a_storage_knows_whether_it_ignores_case(store: Store, tmp_path: Path) -> None:
    assert store.storage.ignores_case
    assert not LocalStorage(tmp_path / "s").ignores_case
    assert not LocalStorage(tmp_path / "nothing").ignores_case


@pytest.mark.parametrize(
    "names", [("team-a", "Team-A", "TEAM-a"), ("Team-A", "team-a", "tEAM-A"), ("x/B", "X/b", "x/b")]
)
def test_names_that_differ_in_case_are_two(store: Store, names: tuple[str, ...]) -> None:
    commits = {name: add(store, name, "base") for name in names}
    assert {name: entry.number for name, entry in store.refs.all().items() if name in names} == dict.fromkeys(names, 1)
    second = add(store, names[1], names[1], edge="versioned")
    assert store.resolve(names[1]) == second
    assert store.resolve(names[0]) == commits[names[0]]
    assert [entry.ref for entry in store.reflog(names[1])] == [names[1]] * 2
    store.delete_branches([names[0]])
    assert not store.has_ref(names[0])
    assert store.undo().refs[0].name == names[0]
    assert {branch.name for branch in store.branches()} == {"base", *names}
    assert store.fsck().clean


def test_such_a_store_reads_the_same_elsewhere(store: Store) -> None:
    for name in ("team-a", "Team-A"):
        add(store, name, "base", message=name)
    tiny.copy_store(store.storage, copy := MemoryStorage("spelled"))
    assert copy.exists(FEATURE_KEY)
    there = Store.open("memory://spelled")
    assert {name: there.resolve(name) for name in ("team-a", "Team-A")} == {
        name: store.resolve(name) for name in ("team-a", "Team-A")
    }
    add(there, "Team-A", "Team-A", edge="versioned")
    assert there.refs.read("Team-A").number == 2  # type: ignore[union-attr]
    assert there.fsck().clean


def test_a_name_alone_is_spelled_as_ever(store: Store, tmp_path: Path) -> None:
    names = ("Team-A", "other", "MNLI/seed-3")
    for name in names:
        add(store, name, "base")
    assert {path.name for path in (tmp_path / "s" / "refs").iterdir()} == {
        "base",
        *map(plain, ("Team-A", "other", "MNLI/seed-3")),
    }
    assert not store.storage.exists(FEATURE_KEY)
    assert store.storage.exists(MARKER)


NAMES = st.text("aAbB1-/", min_size=1, max_size=8)


@given(st.lists(NAMES, min_size=1, max_size=12, unique=True))
def test_no_two_names_share_a_folder(names: list[str]) -> None:
    folders: dict[str, str] = {}
    for name in names:
        folders[choose(name, folders.keys(), ignores_case=True)] = name
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(unquote(folder) == name for folder, name in folders.items())
    assert all(choose(name, folders.keys(), ignores_case=True) == folder for folder, name in folders.items())
    assert all(
        spelled(name) == plain(name) for name in names if name.casefold() == name.swapcase().casefold() == name.upper()
    )
