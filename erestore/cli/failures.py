"""Every way in which a command can fail, as a sentence, a next step and an exit code. The only place that maps them."""

from __future__ import annotations

import os
import sys
import traceback

import click

from erestore.errors import ErestoreError, RemoteError
from erestore.storage.access import access_error

INTERRUPTED = 130
PIPE_CLOSED = 141
UNEXPECTED = 70
"""As sysexits.h has it: an error in the software itself."""

DEBUG = "ERESTORE_DEBUG"


def report(error: BaseException) -> int:
    """Tell the user what went wrong, on standard error, and return the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        _print("interrupted", "Nothing that was written before is lost; repeat the command to go on.")
        return INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        path = context.command_path if context else "erestore"
        _print("error", error.format_message(), f"`{path} --help` shows how it is used.")
        return error.exit_code
    if isinstance(error, MemoryError):
        _print("error", "There is not enough memory.", "Close other programs, or use a machine with more.")
        return 10
    if isinstance(error, ConnectionError | TimeoutError):
        error = RemoteError(f"The connection failed: {error}.", hint="Check the network, then repeat the command.")
    elif isinstance(error, OSError):
        error = access_error(error, "use" if error.filename else "write", error.filename or "the output")
    if isinstance(error, ErestoreError):
        _print("error", error.message, error.hint)
        return error.exit_code
    _print(
        "error",
        f"Something unexpected happened ({type(error).__name__}: {error}).",
        f"This is a fault in erestore: please report it, with what `{DEBUG}=1` prints when you repeat the command.",
    )
    return UNEXPECTED


def _print(label: str, sentence: str, hint: str | None = None) -> None:
    try:
        click.echo(f"{click.style(f'{label}:', fg='red', bold=True)} {sentence}", err=True, color=_color())
        if hint:
            click.echo(f"{click.style('hint:', bold=True)} {hint}", err=True, color=_color())
    except OSError:  # nobody is listening any more; the exit code still tells
        pass


def _color() -> bool | None:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if plain or not sys.stderr.isatty() else None
