"""The command about settings: config."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import printable, table
from erestore.errors import UsageError
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.store import Store


@verb(
    "config",
    "List, read and set settings.",
    example="erestore config\n"
    "erestore config gc.grace_days\n"
    "erestore config gc.grace_days 7\n"
    'erestore config --user user.name "Ada Lovelace <ada@example.org>"',
)
@click.argument("key", required=False)
@click.argument("value", required=False)
@click.option("--user", is_flag=True, help="Set it for all your stores, in the user configuration.")
@click.option("--unset", is_flag=True, help="Remove KEY from the configuration.")
@json_option
@click.pass_obj
def config(session: Session, *, key: str | None, value: str | None, user: bool, unset: bool, as_json: bool) -> None:
    """List settings and where they come from, print the one called KEY, or set it to VALUE.

    An option of a command comes first, then an environment variable (ERESTORE_GC_GRACE_DAYS for gc.grace_days,
    ERESTORE_AUTHOR for user.name), then the store's configuration, then yours, then the default.
    """
    from erestore.ops.config import config as read
    from erestore.ops.config import set_config
    from erestore.settings import PROTECTED, check_key

    if unset and (key is None or value is not None):
        raise UsageError("--unset takes a key and no value.")
    if key is not None:
        check_key(key)
    location = session.location()
    store = session.open(location) if location is not None else None
    if key is not None and (unset or value is not None):
        entry = set_config(store, key, value, user=user)
        text = f"Unset {key}" if value is None else f"{key} is {value} now"
        scope = "for all your stores" if user else "for this store"
        click.echo(json_text(entry)) if as_json else session.result(f"{text} {scope}.")
        if store is not None and key == PROTECTED and value:
            _note_unmatched(session, store, value)
        return
    entries = read(store, environment=os.environ)
    if key is not None:
        entry = next(entry for entry in entries if entry.key == key)
        click.echo(json_text(entry) if as_json else printable(entry.value))
    elif as_json:
        click.echo(json_text(entries))
    else:
        rows = [[entry.key, printable(entry.value) or "-", f"({entry.origin})", entry.description] for entry in entries]
        click.echo(table(rows))


def _note_unmatched(session: Session, store: Store, value: str) -> None:
    """Say which patterns of ``branch.protected`` match no branch yet: one may be a slip."""
    from erestore.store import patterns_of

    branches = store.refs.names("branch")
    for pattern in patterns_of(value):
        if not any(fnmatchcase(name, pattern) for name in branches):
            session.notice(f"No branch matches '{printable(pattern)}' yet.")
