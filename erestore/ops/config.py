"""``config``: settings of a store and of a user, where each comes from, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erestore.errors import StoreNotFoundError, UsageError
from erestore.settings import SETTINGS, ConfigEntry, check_key, entries, parse, read_user, user_path
from erestore.storage.access import refusals
from erestore.store import Store


def config(store: Store | None, *, environment: Mapping[str, str] | None = None) -> tuple[ConfigEntry, ...]:
    """List all settings with where they come from; see :func:`erestore.settings.entries`.

    Parameters
    ----------
    store : Store or None
        None where there is none, or none can be opened yet.
    environment : Mapping[str, str], optional
    """
    return entries(store.config() if store else None, environment)


def set_config(store: Store | None, key: str, value: str | None, *, user: bool = False) -> ConfigEntry:
    """Set one setting, or with None go back to what it is without.

    Parameters
    ----------
    store : Store or None
        May be None with `user`.
    key : str
    value : str or None
    user : bool
        In the user's configuration, for all stores, instead of the store's.

    Raises
    ------
    NotFoundError
        If there is no such key; similar ones are given.
    UsageError
        If the value is not valid, or the key cannot be set there.
    ConflictError
        If another writer changed the store's configuration at the same time.
    """
    setting = check_key(key)
    if value is not None:
        parse(key, value, "")
    scope = "user" if user else "store"
    if scope not in setting.scopes:
        raise UsageError(
            f"'{key}' cannot be set for a {scope}.",
            hint="It is needed before a store is opened: add --user." if scope == "store" else "Leave --user out.",
        )
    if user:
        _write_user(key, value)
    elif store is None:
        raise StoreNotFoundError("There is no store to configure.", hint="Add --user to set it for all your stores.")
    else:
        store.configure(key, value)
    return ConfigEntry(key, "" if value is None else value, scope, setting.description)


def _write_user(key: str, value: str | None) -> None:
    """Change one key and leave all else, comments included, as it is."""
    import secrets

    import tomlkit

    read_user()
    path = user_path()
    if path is None:
        raise UsageError(
            "This user has no home folder, so there is no place for settings of all stores.",
            hint="Set HOME or XDG_CONFIG_HOME, or leave --user out.",
        )
    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    table, _, name = key.partition(".")
    section: Any = document.setdefault(table, tomlkit.table())
    if value is None:
        section.pop(name, None)
    else:
        parsed = SETTINGS[key].parse(value)
        section[name] = int(parsed) if isinstance(parsed, float) and parsed.is_integer() else parsed
    with refusals("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        new.write_text(tomlkit.dumps(document), encoding="utf-8")
        new.replace(path)
