"""Commands that combine variants: merge, soup."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from erestore.cli.derived import (
    conflict_options,
    conflicts_as_data,
    max_error_option,
    message_options,
    name_option,
    report,
)
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import listed
from erestore.errors import UsageError
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.soup import Tried
    from erestore.variant.state_dict import StateDict

LINEAR = ("average", "weighted", "task-arithmetic", "ema", "slerp", "model-stock")
OTHERS = ("ties", "dare", "fisher", "regmean", "tsv", "knots", "iso-c", "core-space")
"""The strategies of :mod:`erestore.merge.registry`, which is not imported for a help text."""


@verb(
    "merge",
    "Combine variants into one.",
    example="erestore merge task-a task-b --name both\n"
    "erestore merge task-a task-b --strategy weighted --weights 0.7,0.3 --name both\n"
    'erestore merge "a + 0.5*(b - a)" --name between\n'
    "erestore merge --recipe mergekit.yaml --name both\n"
    "erestore merge both --undo task-b",
)
@click.argument("revisions", nargs=-1, metavar="[REVISION]...")
@name_option()
@click.option("--strategy", metavar="S", help=f"Strategy: {', '.join(LINEAR + OTHERS)}. Default: average.")
@click.option("--weights", metavar="W,...", help="Weights of the variants, such as 0.7,0.3 or 2/3,1/3.")
@click.option(
    "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the strategy; may be repeated."
)
@max_error_option(f"For {', '.join(OTHERS)}, whose result is encoded: maximum fraction of its squared norm")
@click.option(
    "--statistics",
    multiple=True,
    metavar="FILE",
    help="For fisher and regmean, once for each variant: a file of tensors under its names, of squared gradients or of second "
    "moments of the inputs of linear layers.",
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A merge configuration of mergekit (YAML) instead of revisions, strategy, weights and options; its models are "
    "revisions.",
)
@click.option("--undo", metavar="OPERAND", help="Remove this operand from the merge REVISION.")
@conflict_options
@message_options
@json_option
@click.pass_obj
def merge(
    session: Session,
    *,
    revisions: tuple[str, ...],
    name: str | None,
    strategy: str | None,
    weights: str | None,
    pairs: tuple[str, ...],
    max_error: float | None,
    statistics: tuple[str, ...],
    recipe: Path | None,
    undo: str | None,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Combine variants of one base, or evaluate an expression over variants, and name the result REF.

    The linear strategies (those before ties) only write a list of residuals with coefficients; no tensor is computed. With the
    others the result is computed tensor by tensor and encoded as one residual. In an expression a name stands for the
    variant's change to the base. The result behaves like any other variant.

    With --recipe, a merge configuration of mergekit says what is merged and how; features that do not apply to variants
    (slices of layers, gradients, filters) are refused by name.
    """
    has_options = bool(strategy or weights or pairs or statistics)
    if undo is not None and (len(revisions) != 1 or name or recipe or choose or has_options or max_error is not None):
        raise UsageError("--undo takes the name of one merge and nothing else.")
    if recipe is not None and (revisions or has_options):
        raise UsageError(
            "--recipe says what is merged and how.", hint="Leave revisions, --strategy, --weights and --option out."
        )
    from erestore.algebra.expression import is_expression

    if len(revisions) > 1 and any(text in ("+", "-", "*", "/") or is_expression(text) for text in revisions):
        raise UsageError(
            "An expression must be a single argument; the shell split it.",
            hint=f'Put it in quotes: `erestore merge "{" ".join(revisions)}" --name {name or "NAME"}`.',
        )
    differs = None
    with session.open() as store, progress_bar(session) as progress, conflicts_as_data(as_json=as_json):
        store.author = author or store.author
        if undo is not None:
            done = store.unmerge(revisions[0], undo, message=message, progress=progress)
        elif recipe is not None:
            followed = store.merge_recipe(
                recipe, name=_required(name), max_error=max_error, choose=choose, message=message, progress=progress
            )
            done, differs = followed.made, followed.differs
        else:
            done = store.merge(
                revisions,
                name=_required(name),
                strategy=strategy,
                weights=None if weights is None else [weight.strip() for weight in weights.split(",")],
                options=dict(_pair(pair) for pair in pairs),
                max_error=max_error,
                statistics=statistics,
                choose=choose,
                message=message,
                progress=progress,
            )
    if as_json and differs is not None:
        click.echo(json_text(vars(done) | {"differs": differs}))
        return
    report(session, done, as_json=as_json)
    if differs:
        session.notice(f"This differs from mergekit's result: {differs}")


@verb(
    "soup",
    "Average variants: all, or only those that improve a score.",
    example="erestore soup run-1 run-2 run-3 --name soup\n"
    "erestore soup run-1 run-2 run-3 --name soup --eval 'python score.py {path}'",
)
@click.argument("revisions", nargs=-1, required=True, metavar="REVISION...")
@name_option(required=True)
@click.option(
    "--eval",
    "command",
    metavar="COMMAND",
    help="Make a greedy soup: COMMAND is run on each candidate, {path} stands for its checkpoint, and the last line it "
    "prints is the score.",
)
@click.option("--minimise", is_flag=True, help="Lower scores are better, as for a loss.")
@conflict_options
@message_options
@json_option
@click.pass_obj
def soup(
    session: Session,
    *,
    revisions: tuple[str, ...],
    name: str,
    command: str | None,
    minimise: bool,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Average variants of one base with equal weights and name the result REF.

    With --eval, variants are tried alone first; then, best first, each is added to the mean and stays if that scores no
    worse. Every candidate and its score is recorded with the commit (`erestore show`).
    """
    from erestore.ops.soup import soup as make

    if minimise and command is None:
        raise UsageError("--minimise needs --eval.", hint="Add --eval COMMAND.")
    with session.open() as store, progress_bar(session) as progress, conflicts_as_data(as_json=as_json):
        store.author = author or store.author
        evaluate = None if command is None else _score_command(command, progress.paused)
        done = make(
            store,
            revisions,
            name=name,
            evaluate=evaluate,
            minimise=minimise,
            choose=choose,
            message=message,
            tried=lambda run: session.say(_line(run)),
        )
    if as_json:
        click.echo(json_text(vars(done.made) | {"tried": [run._asdict() for run in done.tried]}))
        return
    report(session, done.made, as_json=False)


def _required(name: str | None) -> str:
    if name is None:
        raise UsageError("Missing --name for the result.", hint="Add --name REF.")
    return name


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"'{text}' is not a parameter.", hint="Write it as --option decay=0.9.")
    return key, value


def _score_command(command: str, paused: Callable[[], AbstractContextManager[None]]) -> Callable[[StateDict], float]:
    """Make a shell command a score: the last line that it prints."""
    from erestore.cli.gate import on_checkout, run_on

    def run(target: Path) -> tuple[int, str]:
        with paused():
            return run_on(command, target)

    def evaluate(candidate: StateDict) -> float:
        code, printed = on_checkout(candidate.variant, run)
        lines = printed.split()
        try:
            if code == 0:
                return float(lines[-1])
        except (ValueError, IndexError):
            pass
        reason = f"ended with exit code {code}" if code else "printed no number at its end"
        raise UsageError(
            f"The command `{command}` {reason}, so there is no score.", hint="Try it on one variant by hand."
        )

    return evaluate


def _line(run: Tried) -> str:
    alone = len(run.operands) == 1
    return f"eval: {listed(run.operands)}: {run.score:.6g}{'' if run.kept or alone else ', not kept'}"
