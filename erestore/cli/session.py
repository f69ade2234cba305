"""What the commands share: global options, the store they work on, and how they print."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from erestore.errors import StoreNotFoundError, UsageError

if TYPE_CHECKING:
    from erestore.api import Store

_C = TypeVar("_C", bound=Callable[..., Any])


@dataclass
class Session:
    """One run of the command line: what the global options said."""

    store: str | None = None
    quiet: bool = False
    single_writer: bool | None = None

    def location(self) -> str | Path | None:
        """Return where the store is: ``--store``, else ``ERESTORE_STORE``, else the nearest ``.erestore`` upward."""
        from erestore.store import find_store

        named = self.named_location()
        return find_store(Path.cwd()) if named is None else named

    def named_location(self) -> str | None:
        """Return the location that was named explicitly, or None."""
        if (
            self.store is not None
        ):  # an empty one is not the store that happens to be near: it is refused where it is opened
            return self.store
        return os.environ.get("ERESTORE_STORE") or None

    def open(self, location: str | Path | None = None) -> Store:
        """Open the store at `location`, by default at :meth:`location`."""
        from erestore.api import Store

        location = self.location() if location is None else location
        if location is None:
            raise StoreNotFoundError(
                f"There is no store in {Path.cwd()} or any folder above it.",
                hint="`erestore commit PATH --base BASE` makes one here, and so does `erestore init`; "
                "--store names one elsewhere.",
            )
        store = Store.open(location, **self.storage_options(location))
        store.environment = os.environ
        return store

    def storage_options(self, location: str | Path) -> dict[str, Any]:
        """Return the options for opening a store beside its location: none, unless it is on a remote.

        Raises
        ------
        UsageError
            If nothing would be left of the store when the command ends.
        """
        from erestore.storage.urls import parse_location

        scheme, _ = parse_location(location)
        if scheme == "memory":
            raise UsageError(
                f"A store at {location} is in the memory of this process, and gone when it ends.",
                hint="Use a folder, or s3://bucket/path. From Python, memory:// is for tests and scratch work.",
            )
        if scheme == "file":
            return {}
        from erestore.settings import read_setting

        single_writer = read_setting("storage.single_writer", environment=os.environ)
        options: dict[str, Any] = {"single_writer": self.single_writer or single_writer}
        if directory := cache_directory("remotes"):
            limit = read_setting("cache.limit_bytes", environment=os.environ)
            options |= {"cache_directory": directory, "cache_limit_bytes": limit}
        return options

    def result(self, text: str) -> None:
        """Print in words what a command did; ``--json`` prints the same as data."""
        if not self.quiet:
            click.echo(text)

    def say(self, text: str) -> None:
        """Tell the user something that is not the command's data."""
        if not self.quiet:
            click.echo(text, err=True)

    def notice(self, text: str) -> None:
        """Tell the user something to think about."""
        if not self.quiet:
            click.echo(f"{click.style('note:', fg='yellow')} {text}", err=True)


def cache_directory(kind: str) -> Path | None:
    """Return where copies of a kind may be kept, None if none may."""
    from erestore.settings import read_setting

    if not read_setting("cache.limit_bytes", environment=os.environ):
        return None
    directory = read_setting("cache.directory", environment=os.environ)
    return Path(directory).expanduser() / kind if directory else None


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store_value(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        session = ctx.ensure_object(Session)
        if value not in (None, False):  # an option after the command that is not given leaves the one before it
            setattr(session, name, value)

    return store_value


def _set_color(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value == "always":
        ctx.color = True
    elif value == "never":
        ctx.color = False
    elif value == "auto" or ctx.parent is None:
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        ctx.color = False if plain else None


def global_options() -> list[click.Parameter]:
    """Return the options that every command takes, before or after its name."""
    return [
        click.Option(
            ["--store"],
            metavar="URL",
            expose_value=False,
            callback=_set("store"),
            help="The store: a directory or a URL such as s3://bucket/path. Default: $ERESTORE_STORE, else the "
            "nearest .erestore in this folder or above.",
        ),
        click.Option(
            ["--single-writer"],
            is_flag=True,
            expose_value=False,
            callback=_set("single_writer"),
            help="Skip the check that a remote has atomic create-if-absent. Use only if nobody else is writing.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_set("quiet"),
            help="Print data and errors only.",
        ),
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            expose_value=False,
            callback=_set_color,
            help="Whether to colour; auto: on a terminal, unless NO_COLOR is set.",
        ),
    ]


class VerbCommand(click.Command):
    """One command: its own options, the global ones, and an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._example = example
        self._global = global_options()
        self.params.extend(self._global)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the global ones."""
        options: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                (shared if parameter in self._global else options).append(record)
        with formatter.section("Options"):
            formatter.write_dl(options)
        with formatter.section("Global options"):
            formatter.write_dl(shared)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Example" if "\n" not in self._example else "Examples"):
            for line in self._example.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}$ {line}\n")


def verb(name: str, summary: str, *, example: str) -> Callable[[Callable[..., Any]], VerbCommand]:
    """Make a function a command called `name`; its docstring is the help text, `summary` its line in the list."""
    return click.command(name, cls=VerbCommand, short_help=summary, example=example)


def json_option(function: _C) -> _C:
    """Give a command ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def is_terminal(stream: Any) -> bool:
    """Return whether a person is looking at `stream` on something that can move a cursor."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def is_colored() -> bool:
    """Return whether colours reach whoever reads the data: as ``--color`` says, else on a terminal."""
    color = click.get_current_context().color
    return is_terminal(sys.stdout) if color is None else color


def terminal_width() -> int | None:
    """Return the columns of the terminal that data goes to; None where it goes elsewhere and nothing is to be shortened."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def print_long(text: str) -> None:
    """Print data, through the pager when it goes to a terminal."""
    if not is_terminal(sys.stdout):
        click.echo(text)
        return
    os.environ.setdefault("LESS", "FRX")  # as git does: colours, and no waiting where one screen is enough
    click.echo_via_pager(text + "\n", color=click.get_current_context().color is not False)
