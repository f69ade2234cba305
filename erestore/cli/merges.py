"""Commands that make variants from variants: merge, soup, cherry-pick, revert."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from erestore.cli.bar import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import error_text, json_text, listed, plural, printable, short, size_text
from erestore.errors import CombinationError, UsageError

if TYPE_CHECKING:
    from erestore.derived import Derived
    from erestore.model.variant import Variant
    from erestore.ops.soup import Tried

_C = TypeVar("_C", bound=Callable[..., Any])
_T = TypeVar("_T")

LINEAR = ("average", "weighted", "task-arithmetic", "ema", "slerp", "model-stock")
OTHERS = ("ties", "dare", "fisher", "regmean", "tsv", "knots", "iso-c", "core-space")
"""The strategies of :mod:`erestore.merge.registry`, which is not imported for a help text."""


def conflict_options(function: _C) -> _C:
    """Give a command --ours, --theirs and --drop."""
    for choice, text in (
        ("drop", "Leave out what cannot be combined."),
        ("theirs", "Where something cannot be combined, take the last variant's that has it."),
        ("ours", "Where something cannot be combined, take the first variant's that has it."),
    ):
        function = click.option(f"--{choice}", "choose", flag_value=choice, default=None, help=text)(function)
    return function


def message_options(function: _C) -> _C:
    """Give a command -m and --author."""
    function = click.option("--author", metavar="TEXT", help="Who does this. Default: user.name of the configuration.")(
        function
    )
    return click.option("-m", "--message", default="", metavar="TEXT", help="What this is, for the log.")(function)


@verb(
    "merge",
    "Combine variants into one.",
    example="erestore merge task-a task-b --name both\n"
    "erestore merge task-a task-b --strategy weighted --weights 0.7,0.3 --name both\n"
    'erestore merge "a + 0.5*(b - a)" --name between\n'
    "erestore merge both --undo task-b",
)
@click.argument("revisions", nargs=-1, required=True, metavar="REVISION...")
@click.option("--name", metavar="REF", help="What to call the result.")
@click.option("--strategy", metavar="S", help=f"How: {', '.join(LINEAR + OTHERS)}. Default: average.")
@click.option("--weights", metavar="W,...", help="A weight for each variant, such as 0.7,0.3 or 2/3,1/3.")
@click.option(
    "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the strategy; may be repeated."
)
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help=f"For {', '.join(OTHERS)}, whose result is encoded: most of it that may be lost. Default: 0.001.",
)
@click.option(
    "--statistics",
    multiple=True,
    metavar="FILE",
    help="For fisher and regmean, once for each variant: a file of tensors under its names, of squared gradients or of second "
    "moments of the inputs of linear layers.",
)
@click.option("--undo", metavar="OPERAND", help="Take this operand out of the merge that REVISION is.")
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
    undo: str | None,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Combine variants of one base, or what an expression over variants stands for, and call the result REF.

    The first strategies write a list of residuals with coefficients; nothing of a tensor is computed. The result of the others
    (ties and those after it) is computed tensor by tensor and encoded as one residual. In an expression a name stands for what
    the variant changed of the base. The result is checked out, compared and committed upon like any variant.
    """
    with session.open() as store, progress_bar(session) as progress, _conflicts(as_json=as_json):
        store.author = author or store.author
        if undo is not None:
            if (
                len(revisions) != 1
                or name
                or strategy
                or weights
                or pairs
                or choose
                or statistics
                or max_error is not None
            ):
                raise UsageError("--undo takes the name of one merge and nothing else.")
            done = store.unmerge(revisions[0], undo, message=message, progress=progress)
        else:
            done = store.merge(
                revisions,
                name=_required(name),
                strategy=strategy,
                weights=None if weights is None else [each.strip() for each in weights.split(",")],
                options=dict(_pair(pair) for pair in pairs),
                max_error=max_error,
                statistics=statistics,
                choose=choose,
                message=message,
                progress=progress,
            )
    _report(session, done, as_json=as_json)


@verb(
    "soup",
    "Average variants: all of them, or those that help.",
    example="erestore soup run-1 run-2 run-3 --name soup\n"
    "erestore soup run-1 run-2 run-3 --name soup --eval 'python score.py {path}'",
)
@click.argument("revisions", nargs=-1, required=True, metavar="REVISION...")
@click.option("--name", required=True, metavar="REF", help="What to call the result.")
@click.option(
    "--eval",
    "command",
    metavar="COMMAND",
    help="Make it a greedy soup: COMMAND is run on candidates, {path} standing for a checkpoint as checkout writes it, and "
    "the last line that it prints is the score.",
)
@click.option("--minimise", is_flag=True, help="A smaller score is better, as of a loss.")
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
    """Average variants of one base with equal weights and call the result REF.

    With --eval, variants are tried alone first; then, best first, each is added to the mean and stays if that scores no
    worse. Every candidate and its score is recorded with the commit (`erestore show`).
    """
    from erestore.ops.soup import soup as make

    if minimise and command is None:
        raise UsageError("--minimise is for a score.", hint="Add --eval COMMAND.")
    with session.open() as store, progress_bar(session) as progress, _conflicts(as_json=as_json):
        store.author = author or store.author
        evaluate = None if command is None else _scored(command, progress.paused)
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
    _report(session, done.made, as_json=False)


@verb(
    "cherry-pick",
    "Add what one commit changed to another variant.",
    example="erestore cherry-pick fix --onto task-a\nerestore cherry-pick style~1 --onto task-a --scale 0.5 --name styled\n"
    "erestore cherry-pick style --onto task-a --tensors '*attention*' --components 1-4",
)
@click.argument("revision")
@click.option("--onto", required=True, metavar="REVISION", help="The variant that it is added to.")
@click.option(
    "--name", metavar="REF", help="What to call the result. Default: the next version of the branch --onto names."
)
@click.option("--scale", default="1", metavar="X", help="How much of it is added. Default: 1.")
@click.option("--tensors", metavar="PATTERN", help="Only tensors whose names match, as '*attention*' does.")
@click.option("--components", metavar="A-B", help="Only components A to B of factors; the first is the strongest.")
@click.option("--mainline", type=int, metavar="N", help="Of a merge: count its change from parent N.")
@conflict_options
@message_options
@json_option
@click.pass_obj
def cherry_pick(
    session: Session,
    *,
    revision: str,
    onto: str,
    name: str | None,
    scale: str,
    tensors: str | None,
    components: str | None,
    mainline: int | None,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Add what the commit REVISION changed since its parent to another variant of the same base."""
    with session.open() as store, _conflicts(as_json=as_json):
        store.author = author or store.author
        done = store.cherry_pick(
            revision,
            onto=onto,
            name=name,
            scale=scale,
            tensors=tensors,
            components=components,
            mainline=mainline,
            choose=choose,
            message=message,
        )
    _report(session, done, as_json=as_json)


@verb(
    "revert",
    "Take what one commit changed from a variant.",
    example="erestore revert task-a~1\nerestore revert 3f1c09aa21be --on task-a",
)
@click.argument("revision")
@click.option("--on", metavar="REVISION", help="What it is taken from. Default: the branch that REVISION starts from.")
@click.option("--name", metavar="REF", help="What to call the result. Default: the next version of that branch.")
@click.option("--mainline", type=int, metavar="N", help="Of a merge: count its change from parent N.")
@conflict_options
@message_options
@json_option
@click.pass_obj
def revert(
    session: Session,
    *,
    revision: str,
    on: str | None,
    name: str | None,
    mainline: int | None,
    choose: str | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Take what the commit REVISION changed since its parent from a variant that has it; later changes stay."""
    with session.open() as store, _conflicts(as_json=as_json):
        store.author = author or store.author
        done = store.revert(revision, on=on, name=name, mainline=mainline, choose=choose, message=message)
    _report(session, done, as_json=as_json)


@verb(
    "rebase",
    "Put a variant on another base.",
    example="erestore rebase task-a --onto roberta-large-v2 --preserve --name task-a-v2\n"
    "erestore rebase task-a --onto roberta-large-v2 --carry --name task-a-carried",
)
@click.argument("revision")
@click.option("--onto", required=True, metavar="BASE", help="The new base, of the same architecture.")
@click.option(
    "--carry", "kept", flag_value="change", default=None, help="Add what the variant changed to the new base."
)
@click.option("--preserve", "kept", flag_value="weights", help="Keep the variant's weights, held against the new base.")
@click.option("--name", required=True, metavar="REF", help="What to call the result.")
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help="Most of the squared norm of what the result changes of the new base that may be lost. Default: 0.001.",
)
@message_options
@json_option
@click.pass_obj
def rebase(
    session: Session,
    *,
    revision: str,
    onto: str,
    kept: str | None,
    name: str,
    max_error: float | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Put the variant REVISION on another base, in one of two senses that give different models.

    With --preserve its weights stay what they are (those of an exact variant to the bit), and take less space where the new
    base is nearer. With --carry what it changed of its old base is added to the new one, as if it had been tuned from that.
    """
    if kept is None:
        raise UsageError(
            "A rebase has two meanings.", hint="Add --preserve (the weights stay) or --carry (the change is moved)."
        )
    with session.open() as store, progress_bar(session) as progress:
        store.author = author or store.author
        done = store.rebase(
            revision,
            onto=onto,
            name=name,
            carry=kept == "change",
            max_error=max_error,
            message=message,
            progress=progress,
        )
    if as_json:
        click.echo(json_text(done))
        return
    head = f"[{click.style(done.ref, fg='green', bold=True)} {click.style(short(done.commit), fg='yellow')}]"
    lost = "exact" if done.exact else f"lost {done.rebase_error:.3g} of what it changes of that"
    session.result(f"{head} {size_text(done.stored_bytes)}, the {done.kept} on {done.base}; {lost}")


@verb(
    "bisect",
    "Find the commit at which a test fails first.",
    example="erestore bisect task-a~5 task-a --run 'python eval.py {path}'",
)
@click.argument("good")
@click.argument("bad")
@click.option(
    "--run",
    "command",
    required=True,
    metavar="COMMAND",
    help="Run on commits, {path} standing for a checkpoint as checkout writes it; exit code 0 is good, 1 to 125 bad.",
)
@json_option
@click.pass_obj
def bisect(session: Session, *, good: str, bad: str, command: str, as_json: bool) -> None:
    """Find the first commit after GOOD, along first parents to BAD, for which COMMAND fails, by halving."""
    from erestore.cli.gate import command_gate
    from erestore.ops.bisect import bisect as find

    with session.open() as store, progress_bar(session) as progress:
        gate = command_gate(command, session, progress.paused, option="--run")
        done = find(
            store,
            good,
            bad,
            lambda variant: _on_checkout(variant, gate.passes),
            tried=lambda probe: session.say(f"bisect: {short(probe.commit)}: {'good' if probe.passed else 'bad'}"),
        )
    if as_json:
        click.echo(json_text(vars(done) | {"probes": [probe._asdict() for probe in done.probes]}))
        return
    session.result(f"{short(done.first_bad)} is the first bad commit: {printable(done.message.partition(chr(10))[0])}")
    session.result(f"{short(done.last_good)} is the last good one.")


@verb(
    "flatten",
    "Encode a sum of residuals as one.",
    example="erestore flatten soup\nerestore flatten task-a --name task-a-flat --max-error 1e-4",
)
@click.argument("revision")
@click.option("--name", metavar="REF", help="What to call the result. Default: the next version of REVISION, a branch.")
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help="Most of the squared norm of all that the variant changed of its base that may be lost. Default: 0.001, or a "
    "quarter of what was lost before, if that is known and less.",
)
@message_options
@json_option
@click.pass_obj
def flatten(
    session: Session,
    *,
    revision: str,
    name: str | None,
    max_error: float | None,
    message: str,
    author: str | None,
    as_json: bool,
) -> None:
    """Encode what the variant REVISION adds to its base as one residual, so that a checkout reads and adds one.

    Long chains and merges of many have as many residuals as commits went into them. Exact variants stay exact.
    """
    with session.open() as store, progress_bar(session) as progress:
        store.author = author or store.author
        done = store.flatten(revision, name=name, max_error=max_error, message=message, progress=progress)
    if as_json:
        click.echo(json_text(done))
        return
    head = f"[{click.style(done.ref, fg='green', bold=True)} {click.style(short(done.commit), fg='yellow')}]"
    if done.unchanged:
        session.result(f"{head} Nothing to flatten: it has {plural(done.before.terms, 'residual')}.")
        return
    before, after = done.before, done.after
    session.result(
        f"{head} {plural(before.terms, 'residual')} of {size_text(before.residual_bytes)} became "
        f"{plural(after.terms, 'residual')} of {size_text(after.residual_bytes)}"
    )
    lost = "exact" if done.exact else f"lost {done.flatten_error:.3g} of what the variant changed of {done.base}"
    session.result(f"  total rank {before.rank:.3g}, now {after.rank:.3g}; {lost}")


class _conflicts(AbstractContextManager[None]):  # noqa: N801 - used as a statement
    """Print conflicts, which are data, as JSON before they end a command that was asked for that."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, CombinationError):
            return
        if self._as_json:
            click.echo(json_text({"conflicts": [conflict._asdict() for conflict in error.conflicts]}))


def _report(session: Session, done: Derived, *, as_json: bool) -> None:
    if as_json:
        click.echo(json_text(done))
        return
    head = f"[{click.style(done.ref, fg='green', bold=True)} {click.style(short(done.commit), fg='yellow')}]"
    if done.unchanged:
        session.result(f"{head} Nothing to do: it is that already.")
        return
    terms = done.tensors.get("terms", 0)
    session.result(f"{head} {plural(terms, 'residual')} of {done.base}, {size_text(done.stored_bytes)}")
    session.result(f"  {error_text(done.relative_error, exact=done.exact, bound=done.error_bound)}")
    shown = list(done.coefficients.items())
    text = ", ".join(f"{coefficient} {printable(name)}" for name, coefficient in shown[:8])
    session.result(f"  {text}{f' and {len(shown) - 8} more' if len(shown) > 8 else ''}")
    if done.loses_exact:
        session.notice(f"Exact remainders do not apply to the result and were left out ({listed(done.loses_exact)}).")
    for conflict in done.chosen:
        session.notice(f"Decided as asked: {printable(conflict.subject)}: {printable(conflict.reason)}.")


def _required(name: str | None) -> str:
    if name is None:
        raise UsageError("Say what to call the result.", hint="Add --name REF.")
    return name


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"'{text}' is not a parameter.", hint="Write it as --option decay=0.9.")
    return key, value


def _scored(command: str, paused: Callable[[], AbstractContextManager[None]]) -> Callable[[Variant], float]:
    """Make a shell command a score: the last line that it prints."""
    from erestore.cli.gate import run_on

    def run(target: Path) -> tuple[int, str]:
        with paused():
            return run_on(command, target)

    def evaluate(variant: Variant) -> float:
        code, printed = _on_checkout(variant, run)
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


def _on_checkout(variant: Variant, do: Callable[[Path], _T]) -> _T:
    """Do something with a checkpoint of a variant that is removed afterwards."""
    from erestore.model.writing import write_variant

    with tempfile.TemporaryDirectory(prefix="erestore-eval-", ignore_cleanup_errors=True) as place:
        target = Path(place, "model")
        if not variant.layout.is_directory:
            target.mkdir()
            target /= Path(variant.layout.files[0].name).name
        write_variant(variant, target)
        return do(target)


def _line(run: Tried) -> str:
    alone = len(run.operands) == 1
    return f"eval: {listed(run.operands)}: {run.score:.6g}{'' if run.kept or alone else ', not kept'}"
