"""Every way in which a command can fail, as a sentence, a next step and an exit code. The only place that maps them."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

import click

from erestore.cli.streams import STANDARD_OUTPUT
from erestore.errors import (
    AccessError,
    CheckpointError,
    CombinationError,
    ConflictError,
    CorruptionError,
    ErestoreError,
    GateError,
    NotFoundError,
    RemoteError,
    UnsafeRemoteError,
    UnsupportedFormatError,
)
from erestore.storage.access import access_error

INTERRUPTED = 130
PIPE_CLOSED = 141
UNEXPECTED = 70
"""As sysexits.h has it: an error in the software itself."""

DEBUG = "ERESTORE_DEBUG"


NEXT_STEPS = {
    GateError: "Correct the gate, or commit without one.",
    NotFoundError: "`erestore branch` lists all branches.",
    CorruptionError: "`erestore fsck` lists all damage and what it affects.",
    ConflictError: "Look at `erestore log` and `erestore reflog`, then decide.",
    RemoteError: "Check the network and your credentials, then repeat the command.",
    UnsupportedFormatError: "Upgrade erestore.",
    UnsafeRemoteError: "Use another remote, or --single-writer if nobody else is writing.",
    CheckpointError: "Check the file, or write it again with the library that made it.",
    AccessError: "Check the disk and your permissions, then repeat the command.",
}
"""What to do next where an error itself does not say."""


def report(error: BaseException, command: str = "erestore") -> int:
    """Tell the user what went wrong, on standard error, and return the exit code.

    Parameters
    ----------
    error : BaseException
    command : str
        What was run, without its arguments.
    """
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        _print("Interrupted.", "Everything stored so far is kept; repeat the command to finish.")
        return INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else command
        _print(error.format_message(), f"`{command} --help` shows how it is used.")
        return error.exit_code
    if isinstance(error, MemoryError):
        _print("There is not enough memory.", "Close other programs, or use a machine with more.")
        return 10
    if isinstance(error, ConnectionError | TimeoutError):
        error = RemoteError(f"The connection failed: {error}.", hint="Check the network, then repeat the command.")
    elif isinstance(error, OSError):
        error = _refusal(error)
    if isinstance(error, CombinationError):
        for conflict in error.conflicts if len(error.conflicts) > 1 else ():
            subject = f"{conflict.subject}: " if conflict.subject else ""
            _print_line(f"conflict: {subject}{conflict.reason} ({', '.join(conflict.operands)})")
    if isinstance(error, ErestoreError):
        steps = (step for kind, step in NEXT_STEPS.items() if isinstance(error, kind))
        _print(error.message, error.hint or next(steps, f"`{command} --help` shows how it is used."))
        return error.exit_code
    _print(
        f"Something unexpected happened ({type(error).__name__}: {error}).",
        f"This is a fault in erestore: please report it, with what `{DEBUG}=1` prints when you repeat the command.",
    )
    return UNEXPECTED


def _refusal(error: OSError) -> ErestoreError:
    """Say what the operating system refused."""
    if error.filename == STANDARD_OUTPUT:
        return AccessError(
            f"The output cannot be printed: {error.strerror}.",
            hint="The command itself succeeded; `erestore log` and `erestore reflog` show what it changed.",
        )
    if error.filename:
        return access_error(error, "use", error.filename)
    if isinstance(error, FileNotFoundError) and _is_folder_gone():
        return NotFoundError("The current folder no longer exists.", hint="Change to another folder, then repeat.")
    return access_error(error, "write", "a file")


def _is_folder_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - its error is what is asked for
    except FileNotFoundError:
        return True
    return False


def _print_line(line: str) -> None:
    with suppress(OSError):
        click.echo("".join(character if character.isprintable() else "?" for character in line), err=True)


def _print(sentence: str, hint: str) -> None:
    try:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {sentence}", err=True, color=_color())
        click.echo(f"{click.style('hint:', bold=True)} {hint}", err=True, color=_color())
    except OSError:  # nobody is reading any more; the exit code still tells
        pass


def _color() -> bool | None:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if plain or not sys.stderr.isatty() else None
