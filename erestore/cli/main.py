"""The entry point ``erestore``."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from gc import set_threshold
from itertools import pairwise
from types import FrameType

import click

from erestore.cli.bisect import bisect
from erestore.cli.calibration import calibrate
from erestore.cli.checkout import cat, checkout, verify
from erestore.cli.cherry_pick import cherry_pick, revert
from erestore.cli.commits import commit, import_, init
from erestore.cli.diff import diff, report
from erestore.cli.errors import DEBUG
from erestore.cli.errors import report as report_failure
from erestore.cli.fleet import blame, identify, similar
from erestore.cli.history import log, show
from erestore.cli.maintenance import du, fsck, gc, status
from erestore.cli.merges import merge, soup
from erestore.cli.probe import probe
from erestore.cli.rebase import flatten, rebase
from erestore.cli.refs import branch, reflog, tag, undo
from erestore.cli.repack import repack
from erestore.cli.session import Session, global_options
from erestore.cli.settings import config
from erestore.cli.streams import prepare_streams
from erestore.cli.ui import ui
from erestore.cli.unlock import unlock

VERBS = (
    init,
    import_,
    calibrate,
    commit,
    checkout,
    verify,
    status,
    log,
    show,
    diff,
    report,
    similar,
    identify,
    blame,
    probe,
    branch,
    tag,
    reflog,
    undo,
    merge,
    soup,
    cherry_pick,
    revert,
    rebase,
    flatten,
    repack,
    bisect,
    cat,
    du,
    gc,
    unlock,
    fsck,
    ui,
    config,
)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version("erestore")
        except PackageNotFoundError:
            text = "(not installed: run from its sources)"
        click.echo(f"erestore {text}")
        ctx.exit()


ALIASES = {"ls": ("branch",), "rm": ("branch", "-d")}
"""What is not worth a command of its own, and what it stands for."""

_COUNT = re.compile(r"-[0-9]+")
"""``log -3``, as git has it."""


class Root(click.Group):
    """The group of all commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, taking the short forms that users of git type without thinking."""
        name, *rest = args
        if name == "help":
            if not rest:
                click.echo(ctx.get_help(), color=ctx.color)
                ctx.exit()
            args = [rest[0], "--help"]
        elif name in ("log", "reflog"):
            args = [name]
            for before, argument in pairwise([name, *rest]):
                is_count = _COUNT.fullmatch(argument) and before not in ("-n", "--limit")
                args += ["-n", argument[1:]] if is_count else [argument]
        elif name in ALIASES:
            args = [*ALIASES[name], *rest]
        return super().resolve_command(ctx, args)

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the commands in the order in which one meets them."""
        return list(self.commands)


@click.group(
    cls=Root,
    params=[
        *global_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version and exit.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Run COMMAND --help, or help COMMAND, for details. ls is branch, and rm is branch -d. "
    'Completion: eval "$(_ERESTORE_COMPLETE=bash_source erestore)" (or zsh_source, fish_source).',
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keep many variants of one model compactly, the way git stores versions of text.

    A base model is stored once; every fine-tune of it is stored as a small, mostly low-rank residual.
    """
    ctx.ensure_object(Session)


for _verb in VERBS:
    cli.add_command(_verb)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; nothing is raised.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.
    """
    command = "erestore"
    try:
        with cli.make_context(command, list(arguments)) as ctx:
            command += f" {next((argument for argument in arguments if argument in cli.commands), '')}".rstrip()
            cli.invoke(ctx)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the one place where every failure gets its sentence and code
        is_interrupted = _interrupted and not isinstance(error, click.exceptions.Exit)
        code = report_failure(KeyboardInterrupt() if is_interrupted else error, command)
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return code
    return 0


def _discard_output() -> None:
    """Keep the interpreter from failing once more when it flushes what nobody can take."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""Signals that ask to end: by `kill`, and when the terminal is closed."""


_interrupted: list[int] = []
"""Holds SIGINT once it came: libraries that are being imported turn its exception into one of their own."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Do what Python does, and remember it."""
    _interrupted.append(number)
    raise KeyboardInterrupt


def _terminate(number: int, _frame: FrameType | None) -> None:
    """Leave as if by an exception, so that leases and temporary files are removed."""
    raise click.exceptions.Exit(128 + number)


def main() -> None:
    """Run the command line and exit the process."""
    if "_ERESTORE_COMPLETE" in os.environ:
        cli.main(prog_name="erestore")
    if not sys.warnoptions and not os.environ.get(DEBUG):
        warnings.simplefilter("ignore")  # what libraries say to developers is noise to users
    prepare_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started this wants it ignored
        signal.signal(signal.SIGINT, _interrupt)
    for number in _ENDING:
        signal.signal(number, _terminate)
    # A command is short and imports much: walking all of that for cycles, again and again, costs more than it frees.
    set_threshold(100_000, 20, 20)
    code = run(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # everything is closed and flushed; taking libraries apart object by object takes a quarter second
