"""config: where settings come from, and what they may be."""

from __future__ import annotations

import os
import pwd
import tomllib
from pathlib import Path

import pytest
from lineages import add, empty_store

from erestore.api import Store
from erestore.cli.session import cache_directory
from erestore.errors import AccessError, NotFoundError, StoreNotFoundError, UsageError
from erestore.ops.config import config, set_config
from erestore.settings import SETTINGS, read_setting, read_user, user_path, variable


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


def origins(store=None, **environment: str) -> dict[str, str]:
    return {entry.key: entry.origin for entry in config(store, environment=environment)}


def test_every_default_is_valid() -> None:
    for entry in config(None):
        assert entry.origin == "default"
        assert entry.description.endswith(".")
        read_setting(entry.key)


def test_precedence() -> None:
    store = empty_store()
    key = "gc.grace_days"
    assert store.setting(key) == 14
    set_config(None, key, "3", user=True)
    assert (store.setting(key), origins(store)[key]) == (3, "user")
    store.set_setting(key, "2.5")
    assert (store.setting(key), origins(store)[key]) == (2.5, "store")
    store.environment = {"ERESTORE_GC_GRACE_DAYS": "1"}
    assert (store.setting(key), origins(store, ERESTORE_GC_GRACE_DAYS="1")[key]) == (1, "environment")
    store.environment = {"ERESTORE_GC_GRACE_DAYS": ""}
    store.set_setting(key, None)
    assert store.setting(key) == 3
    set_config(None, key, None, user=True)
    assert store.setting(key) == 14


def test_the_author_of_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    store.author = None
    assert "@" in store.begin().author
    monkeypatch.setenv("ERESTORE_AUTHOR", "nobody")  # a library is not steered from outside
    store.set_setting("user.name", "Ada")
    add(store, "base")
    assert store.log()[0].author == "Ada"
    store.environment = {"ERESTORE_AUTHOR": "Grace"}
    assert store.begin().author == "Grace"
    store.author = "Joan"
    assert store.begin().author == "Joan"


@pytest.mark.parametrize(
    "key, value",
    [
        ("user.name", " "),
        ("user.name", "a\x1b[31m"),
        ("commit.max_error", "1"),
        ("commit.max_error", "0"),
        ("commit.max_error", "nan"),
        ("gc.grace_days", "-1"),
        ("gc.grace_days", "inf"),
        ("gc.grace_days", "soon"),
        ("cache.limit_bytes", "-5"),
        ("cache.limit_bytes", "1.5"),
        ("storage.single_writer", "yes"),
    ],
)
def test_values_are_checked_when_set_and_when_read(key: str, value: str) -> None:
    user = "store" not in SETTINGS[key].scopes
    with pytest.raises(UsageError, match=f"'{key}'") as caught:
        set_config(empty_store(), key, value, user=user)
    assert caught.value.hint
    with pytest.raises(UsageError, match=variable(key)):
        read_setting(key, environment={variable(key): value})


def test_unknown_keys_and_wrong_places() -> None:
    store = empty_store()
    with pytest.raises(NotFoundError) as caught:
        store.set_setting("gc.grace", "1")
    assert "gc.grace_days" in str(caught.value.hint)
    with pytest.raises(NotFoundError):
        store.setting("colour")
    with pytest.raises(UsageError, match="cannot be set for a store"):
        store.set_setting("cache.directory", "/tmp")
    with pytest.raises(UsageError, match="cannot be set for a user"):
        store.set_setting("gc.reflog_deleted_days", "1", user=True)
    with pytest.raises(StoreNotFoundError):
        set_config(None, "gc.grace_days", "1")
    assert not user_path().exists()


def test_the_users_file_keeps_comments_and_types() -> None:
    path = user_path()
    path.parent.mkdir(parents=True)
    path.write_text("# mine\n[gc]\ngrace_days = 7 # a week\n[other]\nthing = [1]\n", encoding="utf-8")
    set_config(None, "user.name", "Ada", user=True)
    set_config(None, "storage.single_writer", "true", user=True)
    set_config(None, "gc.grace_days", "8", user=True)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# mine\n")
    assert "# a week" in text
    assert tomllib.loads(text) == {
        "gc": {"grace_days": 8},
        "other": {"thing": [1]},
        "user": {"name": "Ada"},
        "storage": {"single_writer": True},
    }
    assert read_setting("storage.single_writer") is True
    assert [entry.value for entry in config(None) if entry.origin == "user"] == ["Ada", "8", "true"]


def test_a_file_that_is_no_toml() -> None:
    path = user_path()
    path.parent.mkdir(parents=True)
    path.write_text("gc = [", encoding="utf-8")
    with pytest.raises(UsageError, match="is not TOML"):
        config(None)
    with pytest.raises(UsageError, match="is not TOML"):
        set_config(None, "user.name", "Ada", user=True)
    path.unlink()
    path.mkdir()
    with pytest.raises(AccessError):
        config(None)


def test_gc_and_commit_follow_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty_store()
    add(store, "base")
    add(store, "a", "base")
    store.delete_branches(["a"])
    assert store.gc(dry_run=True, grace_days=0).deleted_objects == 0
    set_config(None, "gc.reflog_days", "0", user=True)
    set_config(None, "gc.grace_days", "0", user=True)
    store.set_setting("gc.reflog_deleted_days", "0")
    assert store.gc(dry_run=True).deleted_objects == 1


def test_a_user_without_a_home_or_a_name_has_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)
    store = Store.init(tmp_path / "s")
    assert user_path() is None
    assert read_user() == {}
    assert store.setting("cache.directory") == ""
    assert store.begin().author.startswith(f"{os.getuid()}@")
    assert cache_directory("remotes") is None
    with pytest.raises(UsageError, match="no home folder"):
        set_config(None, "user.name", "ada", user=True)
