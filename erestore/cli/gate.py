"""Commands of the user's that judge checkpoints: as a gate, a test or a score."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from erestore.cli.session import Session
from erestore.cli.text import size_text
from erestore.encoding.gate import Gate, Trial
from erestore.errors import UsageError

if TYPE_CHECKING:
    from erestore.variant.variant import Variant

_T = TypeVar("_T")

PLACE = "{path}"
_NOUNS = {"--gate": "gate", "--run": "test"}
_STDERR = 2
_CANNOT_RUN, _NOT_FOUND = 126, 127
"""From here on exit codes say that the shell could not run the command, or that a signal ended it."""
_PATIENCE = 5.0
"""Seconds for a command to end after it was asked to."""


def command_gate(
    text: str, session: Session, paused: Callable[[], AbstractContextManager[None]], option: str = "--gate"
) -> Gate:
    """Make a shell command a gate: exit code 0 passes, 1 to 125 do not, all else ends the commit.

    Parameters
    ----------
    text : str
        With ``{path}`` for the place of the model.
    session : Session
        Told of every run.
    paused : Callable
        Gives a context in which the terminal is the command's.
    option : str
        What it was given as, for messages.

    Raises
    ------
    UsageError
        If the command does not say where the model goes.
    """
    _require_place(f"The {_NOUNS[option]} `{text}`", text, f"{option} 'python eval.py {PLACE}'")

    def passes(path: Path) -> bool:
        with paused():
            code = _run(text.replace(PLACE, shlex.quote(str(path))), _STDERR)
        if 0 <= code < _CANNOT_RUN:
            return code == 0
        number = -code if code < 0 else code - 128
        if number in signal.valid_signals():
            reason = f"was ended by signal {number}"
        else:
            reason = "cannot be run" if code <= _NOT_FOUND else "exited unexpectedly"
        raise UsageError(
            f"The {_NOUNS[option]} `{text}` {reason} (exit code {code}), which is not an answer.",
            hint="Try it on the original; it should exit with 0 for a model that is good enough, and with 1 to 125 otherwise.",
        )

    return Gate(text, passes, lambda trial: session.say(_line(trial)))


def run_on(text: str, path: Path) -> tuple[int, str]:
    """Run a shell command on a checkpoint; return its exit code, negative for a signal, and what it printed.

    Raises
    ------
    UsageError
        If the command does not say where the model goes.
    """
    _require_place(f"The command `{text}`", text, f"--eval 'python score.py {PLACE}'")
    with tempfile.TemporaryFile() as output:  # not a pipe, which whatever is left running would keep open
        code = _run(text.replace(PLACE, shlex.quote(str(path))), output)
        output.seek(0)
        return code, output.read().decode(errors="replace")


def on_checkout(variant: Variant, do: Callable[[Path], _T]) -> _T:
    """Do something with a checkpoint of a variant that is removed afterwards."""
    from erestore.variant.write import write_variant

    with tempfile.TemporaryDirectory(prefix="erestore-eval-", ignore_cleanup_errors=True) as directory:
        target = Path(directory, "model")
        if not variant.layout.is_directory:
            target.mkdir()
            target /= Path(variant.layout.files[0].name).name
        write_variant(variant, target)
        return do(target)


def _require_place(what: str, text: str, example: str) -> None:
    if PLACE not in text:
        raise UsageError(f"{what} does not say where the model's path goes.", hint=f"Write it as {example}.")


def _run(command: str, output: int | IO[bytes]) -> int:
    """Run a command in a session of its own, which does not outlive this call; return its exit code."""
    with subprocess.Popen(  # noqa: S602 - the command is the user's own, as they would type it
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        start_new_session=True,  # what asks at the terminal fails, where in the background it would be stopped for good
    ) as process:
        try:
            return process.wait()
        except BaseException:
            _ask_to_end(process)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process and what it started to end, and wait a little."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_PATIENCE)


def _line(trial: Trial) -> str:
    what = (
        "the original"
        if trial.bytes is None
        else f"{size_text(trial.bytes)}, relative error {trial.relative_error:.3g}"
    )
    return f"gate, run {trial.number}: {what}: {'passed' if trial.passed else 'failed'}"
