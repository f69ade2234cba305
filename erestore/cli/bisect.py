"""The command bisect."""

from __future__ import annotations

import click

from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import printable, short
from erestore.report.json_values import json_text


@verb(
    "bisect",
    "Find the first commit at which a test fails.",
    example="erestore bisect task-a~5 task-a --run 'python eval.py {path}'",
)
@click.argument("good")
@click.argument("bad")
@click.option(
    "--run",
    "command",
    required=True,
    metavar="COMMAND",
    help="Test to run on each commit; {path} stands for its checkpoint. Exit code 0 is good, 1 to 125 bad.",
)
@json_option
@click.pass_obj
def bisect(session: Session, *, good: str, bad: str, command: str, as_json: bool) -> None:
    """Find the first commit after GOOD, along first parents to BAD, for which COMMAND fails, by bisection."""
    from erestore.cli.gate import command_gate, on_checkout
    from erestore.ops.bisect import bisect as find

    with session.open() as store, progress_bar(session) as progress:
        gate = command_gate(command, session, progress.paused, option="--run")
        done = find(
            store,
            good,
            bad,
            lambda candidate: on_checkout(candidate.variant, gate.passes),
            tried=lambda probe: session.say(f"bisect: {short(probe.commit)}: {'good' if probe.passed else 'bad'}"),
        )
    if as_json:
        click.echo(json_text(vars(done) | {"probes": [probe._asdict() for probe in done.probes]}))
        return
    session.result(f"{short(done.first_bad)} is the first bad commit: {printable(done.message.partition(chr(10))[0])}")
    session.result(f"{short(done.last_good)} is the last good commit.")
