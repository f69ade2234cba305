"""What commands that make variants from variants share: options, and how they report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from erestore.cli.session import Session
from erestore.cli.text import coefficient_text, error_text, listed, plural, printable, short, size_text
from erestore.errors import CombinationError, Conflict, UsageError
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.history.derive import Derived

_C = TypeVar("_C", bound=Callable[..., Any])


def name_option(default: str = "", *, required: bool = False) -> Callable[[_C], _C]:
    """Give a command --name; `default` says what it is by default."""
    text = "Name of the result." + (f" Default: {default}." if default else "")
    return click.option("--name", required=required, metavar="REF", help=text)


def one_of(argument: str, flags: Mapping[str, tuple[str, str]]) -> Callable[[_C], _C]:
    """Give a command flags of which one at most is given.

    Parameters
    ----------
    argument : str
        Of the command: the value that is chosen, or None.
    flags : Mapping[str, (str, str)]
        Flag without dashes to its value and help text.
    """

    def decorate(function: _C) -> _C:
        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            names = [flag for flag in flags if options.pop(flag)]
            if len(names) > 1:
                raise UsageError(
                    f"--{' and --'.join(names)} exclude each other.", hint=f"Give one of --{', --'.join(flags)}."
                )
            return function(*args, **options, **{argument: flags[names[0]][0] if names else None})

        command: Any = wrapper
        for flag in reversed(list(flags)):
            command = click.option(f"--{flag}", is_flag=True, help=flags[flag][1])(command)
        decorated: _C = command
        return decorated

    return decorate


def conflict_options(function: _C) -> _C:
    """Give a command --ours, --theirs and --drop, one of which is its `choose`."""
    text = "On a conflict, take the value of the {} variant that has one."
    flags = {
        "ours": ("ours", text.format("first")),
        "theirs": ("theirs", text.format("last")),
        "drop": ("drop", "On a conflict, leave the tensor out."),
    }
    return one_of("choose", flags)(function)


def mainline_option(function: _C) -> _C:
    """Give a command --mainline."""
    text = "For a merge: take its change relative to parent N."
    return click.option("--mainline", type=int, metavar="N", help=text)(function)


def max_error_option(text: str, default: str = "0.001") -> Callable[[_C], _C]:
    """Give a command --max-error, for a result that is encoded; `text` says of what."""
    return click.option("--max-error", type=float, metavar="E", help=f"{text} to lose. Default: {default}.")


def message_options(function: _C) -> _C:
    """Give a command -m and --author."""
    function = click.option(
        "--author", metavar="TEXT", help="Author of the commit. Default: user.name of the configuration."
    )(function)
    return click.option("-m", "--message", default="", metavar="TEXT", help="Message for the log.")(function)


class conflicts_as_data(AbstractContextManager[None]):  # noqa: N801 - used as a statement
    """Print conflicts, which are data, as JSON before they end a command that was asked for that."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, CombinationError):
            return
        if self._as_json:
            click.echo(json_text({"conflicts": [conflict._asdict() for conflict in error.conflicts]}))


def report(session: Session, done: Derived, *, as_json: bool) -> None:
    """Print what a combination made."""
    if as_json:
        click.echo(json_text(done))
        return
    head = headline(done.ref, done.commit)
    if done.unchanged:
        session.result(f"{head} Already up to date.")
        return
    terms = done.tensors.get("terms", 0)
    session.result(f"{head} {plural(terms, 'residual')} of {done.base}, {size_text(done.stored_bytes)}")
    result_of_version(session, done.ref, done.previous)
    session.result(f"  {error_text(done.relative_error, exact=done.exact, bound=done.error_bound)}")
    shown = list(done.coefficients.items())
    text = ", ".join(f"{coefficient_text(coefficient)} {printable(name)}" for name, coefficient in shown[:8])
    session.result(f"  {text}{f' and {len(shown) - 8} more' if len(shown) > 8 else ''}")
    notice_lost_remainders(session, done.loses_exact)
    notice_decisions(session, done.chosen, done.notes)


def notice_decisions(session: Session, conflicts: Sequence[Conflict], notes: Sequence[str]) -> None:
    """Say which conflicts were decided, and what was resolved without being one."""
    for conflict in conflicts:
        session.notice(f"Resolved as requested: {printable(conflict.subject)}: {printable(conflict.reason)}.")
    for note in notes:
        session.notice(printable(note))


def notice_lost_remainders(session: Session, names: Sequence[str]) -> None:
    """Say whose exact remainders are left out."""
    if names:
        shown = printable(listed(names))
        session.notice(f"Exact remainders do not apply to the result and were left out ({shown}).")


def result_of_version(session: Session, ref: str, previous: str | None) -> None:
    """Say that a branch was there before, so that a name that is given twice does not pass for a new one."""
    if previous:
        session.result(f"  new version of {ref} (was {short(previous)})")


def headline(ref: str, commit: str) -> str:
    """Return a branch and its new commit, as git prints them."""
    return f"[{click.style(ref, fg='green', bold=True)} {click.style(short(commit), fg='yellow')}]"
