"""Settings: their keys, defaults and places, read from the environment, a store, the user's file, or the defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erestore.errors import NotFoundError, UsageError, similar_names
from erestore.operation import default_author
from erestore.storage.access import refusals
from erestore.storage.sharing import CHOICES

ANYWHERE = ("store", "user")
SHARED = "core.shared"
"""How a store in a directory is shared."""
PROTECTED = "branch.protected"
"""Patterns of branches that are not deleted and only go forward."""


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
        "Branches that cannot be deleted, renamed or rewound.",
        "",
        ("store",),
    ),
    "user.name": Setting(_text, "a name", "Who commits.", default_author),
    "commit.max_error": Setting(
        _share,
        "a number between 0 and 1",
        "Maximum fraction of a residual's squared norm that a commit may lose.",
        "0.01",
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
    "gc.reflog_days": Setting(_days, "a number of days", "How long reflog entries are kept.", "90"),
    "gc.reflog_deleted_days": Setting(
        _days, "a number of days", "How long the reflogs of deleted names are kept.", "30", ("store",)
    ),
    "cache.directory": Setting(
        _directory,
        "a directory",
        "Directory of cached remote data and results.",
        _cache_directory,
        ("user",),
    ),
    "cache.limit_bytes": Setting(
        _count,
        "a number of bytes; 0 for no cache",
        "Maximum size of cached remote data.",
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


def entries(stored: Mapping[str, str] | None, environment: Mapping[str, str] | None = None) -> tuple[ConfigEntry, ...]:
    """List all settings with where they come from: environment, else store, else user, else default.

    Parameters
    ----------
    stored : Mapping[str, str] or None
        The configuration of a store; None where there is none, or none can be opened yet.
    environment : Mapping[str, str], optional
        Variables that override the rest; a library passes none, the command line those of the process.
    """
    scopes = {"store": stored or {}, "user": read_user()}
    listed = []
    for key, setting in SETTINGS.items():
        value, origin = setting.default if isinstance(setting.default, str) else setting.default(), "default"
        for scope in reversed(setting.scopes):
            if key in scopes[scope]:
                value, origin = scopes[scope][key], scope
        if "user" in setting.scopes and environment and environment.get(variable(key)):
            value, origin = environment[variable(key)], "environment"
        listed.append(ConfigEntry(key, value, origin, setting.description))
    return tuple(listed)


def read_setting(
    key: str, stored: Mapping[str, str] | None = None, *, environment: Mapping[str, str] | None = None
) -> Any:
    """Return the value of one setting, parsed; parameters as in :func:`entries`.

    Raises
    ------
    NotFoundError
        If there is no such key.
    UsageError
        If what is set is not valid; where it was set is said.
    """
    check_key(key)
    entry = next(entry for entry in entries(stored, environment) if entry.key == key)
    origin = variable(key) if entry.origin == "environment" else f"the {entry.origin} configuration"
    return parse(key, entry.value, f" in {origin}")


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


def parse(key: str, text: str, where: str) -> Any:
    """Return the value of a setting's text.

    Raises
    ------
    UsageError
        If it is not valid; `where` ends the first half of the sentence.
    """
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
    settings = {}
    for table, values in tables.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            settings[f"{table}.{name}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return settings
