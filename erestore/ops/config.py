"""``config``: settings of a store and of a user, where each comes from, and what they may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erestore.errors import NotFoundError, StoreNotFoundError, UsageError, similar_names
from erestore.storage.access import refusals
from erestore.storage.sharing import CHOICES
from erestore.store import PROTECTED, SHARED, Store, default_author

ANYWHERE = ("store", "user")


@dataclass(frozen=True)
class Setting:
    """One key.

    Attributes
    ----------
    parse : callable
        Text to value; ValueError where it is none.
    expected : str
        What the text has to be, in words.
    description : str
    default : str or callable
        Text, or what returns it.
    scopes : tuple of str
        Where it can be set: ``store``, ``user``. What is needed to open a store cannot be read from it.
    """

    parse: Callable[[str], Any]
    expected: str
    description: str
    default: str | Callable[[], str]
    scopes: tuple[str, ...] = ANYWHERE


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < math.inf:
        raise ValueError
    return days


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise ValueError
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError
    return count


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _sharing(text: str) -> str:
    if text not in CHOICES:
        raise ValueError
    return text


def _patterns(text: str) -> str:
    return _text(text) if text else ""


def _cache_directory() -> str:
    import platformdirs

    try:
        return platformdirs.user_cache_dir("erestore")
    except RuntimeError:  # no HOME and no entry in passwd, as in batch jobs: nothing is kept
        return ""


def _directory(text: str) -> str:
    return _text(text) if text else ""


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError
    return text


SETTINGS: Mapping[str, Setting] = {
    SHARED: Setting(
        _sharing,
        f"one of {', '.join(CHOICES)}",
        "Who may write to a store in a folder, whatever their umask.",
        CHOICES[0],
        ("store",),
    ),
    PROTECTED: Setting(
        _patterns,
        'names and patterns with commas between them, such as "main,release/*"',
        "Branches that are not deleted, renamed or rewound.",
        "",
        ("store",),
    ),
    "user.name": Setting(_text, "a name", "Who commits.", default_author),
    "commit.max_error": Setting(
        _share, "a number between 0 and 1", "Most of a residual's squared norm that a commit may lose.", "0.01"
    ),
    "commit.flatten_rank": Setting(
        _count,
        "a number of components; 0 for never",
        "Total rank of a chain past which a commit is encoded on the base.",
        "512",
    ),
    "gc.grace_days": Setting(
        _days, "a number of days", "How long an object has to be unreachable before it is deleted.", "14"
    ),
    "gc.reflog_days": Setting(_days, "a number of days", "How long old entries of reflogs are kept.", "90"),
    "gc.reflog_deleted_days": Setting(
        _days, "a number of days", "How long the reflogs of deleted names are kept.", "30", ("store",)
    ),
    "cache.directory": Setting(
        _directory,
        "a directory",
        "Where copies of what was read from remotes, and results worth keeping, are.",
        _cache_directory,
        ("user",),
    ),
    "cache.limit_bytes": Setting(
        _count,
        "a number of bytes; 0 for no cache",
        "What copies of what was read from remotes may take.",
        str(20 << 30),
        ("user",),
    ),
    "storage.single_writer": Setting(
        _flag, "true or false", "Skip the check that a remote lets one of several writers win.", "false", ("user",)
    ),
}


@dataclass(frozen=True)
class ConfigEntry:
    """One setting; the fields are those of its JSON.

    Attributes
    ----------
    key, value : str
    origin : str
        ``environment``, ``store``, ``user`` or ``default``.
    description : str
    """

    key: str
    value: str
    origin: str
    description: str


def variable(key: str) -> str:
    """Return the environment variable that overrides a key that a user can set."""
    return "ERESTORE_AUTHOR" if key == "user.name" else f"ERESTORE_{key.upper().replace('.', '_')}"


def config(store: Store | None, *, environment: Mapping[str, str] | None = None) -> tuple[ConfigEntry, ...]:
    """List all settings with where they come from: environment, else store, else user, else default.

    Parameters
    ----------
    store : Store or None
        None where there is none, or none can be opened yet.
    environment : Mapping[str, str], optional
        Variables that override the rest; a library passes none, the command line those of the process.
    """
    held = {"store": store.config() if store else {}, "user": read_user()}
    entries = []
    for key, setting in SETTINGS.items():
        value, origin = setting.default if isinstance(setting.default, str) else setting.default(), "default"
        for scope in reversed(setting.scopes):
            if key in held[scope]:
                value, origin = held[scope][key], scope
        if "user" in setting.scopes and environment and environment.get(variable(key)):
            value, origin = environment[variable(key)], "environment"
        entries.append(ConfigEntry(key, value, origin, setting.description))
    return tuple(entries)


def read_setting(store: Store | None, key: str, *, environment: Mapping[str, str] | None = None) -> Any:
    """Return the value of one setting, parsed.

    Raises
    ------
    UsageError
        If what is set is not valid; where it was set is said.
    """
    check_key(key)
    entry = next(entry for entry in config(store, environment=environment) if entry.key == key)
    origin = variable(key) if entry.origin == "environment" else f"the {entry.origin} configuration"
    return _parse(key, entry.value, f" in {origin}")


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
        _parse(key, value, "")
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


def check_key(key: str) -> Setting:
    """Return what is known of a key.

    Raises
    ------
    NotFoundError
        If there is no such key; similar ones are given.
    """
    if key not in SETTINGS:
        near = similar_names(key, SETTINGS)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`erestore config` lists all settings."
        raise NotFoundError(f"There is no setting '{key}'.", hint=hint)
    return SETTINGS[key]


def _parse(key: str, text: str, where: str) -> Any:
    try:
        return SETTINGS[key].parse(text)
    except (ValueError, KeyError):
        raise UsageError(
            f"'{text}' is not a value for '{key}'{where}.", hint=f"Give {SETTINGS[key].expected}."
        ) from None


def user_path() -> Path | None:
    """Return where the user's configuration is; None for a user without a home."""
    import platformdirs

    try:
        return platformdirs.user_config_path("erestore") / "config.toml"
    except RuntimeError:  # no HOME and no entry in passwd, as in batch jobs
        return None


def read_user() -> dict[str, str]:
    """Return the user's configuration, by key.

    Raises
    ------
    UsageError
        If the file is no TOML.
    """
    import tomllib

    path = user_path()
    try:
        with refusals("read", path or ""):
            content = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
        tables = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not TOML: {error}.", hint="Correct or remove it.") from error
    found = {}
    for table, values in tables.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            found[f"{table}.{name}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


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
