"""Commands that make a store and write to it: init, import, commit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erestore.checkpoint.missing import no_checkpoint
from erestore.cli.derived import result_of_version
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import error_text, listed, matching_text, plural, printable, share_text, short, size_text
from erestore.errors import NotFoundError, UsageError
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.api import Store
    from erestore.ops.commit import CommitResult

FAR = 0.7
"""A residual longer than this share of its parent is a hint that the base is not the one it was tuned from."""

KINDS = {
    "dense": "stored densely",
    "ere": "low-rank (ere)",
    "factors": "as adapter factors",
    "gamma": "scaled",
    "lowrank2": "low-rank",
    "patch": "with an exact remainder",
    "remainder": "as quantised values",
    "unchanged": "unchanged",
    "dropped": "changed but dropped",
    "whole": "kept whole",
    "codes": "kept as whole codes or scales",
    "added rows": "with added rows",
}
"""Section kinds in words, to follow a count of tensors."""


@verb(
    "init",
    "Make a new, empty store.",
    example="erestore init\nerestore init s3://bucket/models\nerestore init --shared /srv/models",
)
@click.argument("url", required=False)
@click.option(
    "--shared",
    is_flag=True,
    help="Let the folder's group write, whatever the umask of its members. Default: as the mode of the folder says.",
)
@click.option(
    "--repair", is_flag=True, help="Write a new marker (erestore.json) for a store whose own is missing or damaged."
)
@json_option
@click.pass_obj
def init(session: Session, *, url: str | None, shared: bool, repair: bool, as_json: bool) -> None:
    """Make a new, empty store at URL.

    Without URL the store is made where --store or ERESTORE_STORE says, else in .erestore in the current directory.
    `erestore commit` makes the latter by itself.
    """
    from erestore.ops.init import init as make
    from erestore.store import DIRECTORY

    location = session.named_location() if url is None else url
    if location is None:
        location = str(Path(DIRECTORY).absolute())
    sharing = "group" if shared else None
    result = make(location, shared=sharing, repair=repair, **session.storage_options(location))
    if as_json:
        click.echo(json_text(result))
    else:
        session.result(f"{'Repaired the' if repair else 'Made an empty'} store at {result.store}.")


@verb(
    "import",
    "Store a checkpoint as a base.",
    example="erestore import ./roberta-large\nerestore import ./snapshot --name llama",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH")
@click.option("--name", metavar="REF", help="Name of the base. Default: the name of the directory.")
@click.option("-m", "--message", default="", metavar="TEXT", help="Message for the log.")
@click.option("--author", metavar="TEXT", help="Author of the commit. Default: user.name of the configuration.")
@json_option
@click.pass_obj
def import_(
    session: Session, *, paths: tuple[str, ...], name: str | None, message: str, author: str | None, as_json: bool
) -> None:
    """Store the checkpoint at PATH as a base: in full, deduplicated.

    PATH is a Hugging Face directory or one file of weights. `erestore commit --base` imports a base on first use, so
    this is for bases that should be there first or under another name.
    """
    from erestore.checkpoint.open import open_checkpoint

    _require_paths(paths, "import")
    if len(paths) > 1:
        raise UsageError("A base is imported by itself.", hint=f"erestore import {paths[0]}")
    (path,) = paths
    if session.location() is None:
        open_checkpoint(Path(path)).close()  # refuses what cannot succeed before a store is made for it
    with open_or_make(session) as store, progress_bar(session) as progress:
        store.author = author or store.author
        imported = store.import_base(path, name=name, message=message, progress=progress)
    if as_json:
        click.echo(json_text(imported))
        return
    session.result(
        f"Imported {_name(imported.ref, imported.commit)}: {plural(imported.tensors, 'tensor')}, "
        f"{share_text(imported.stored_bytes, imported.original_bytes)}."
    )
    for note in imported.notes:
        session.notice(printable(note))
    note_left_out(session, imported.left_out)


@verb(
    "commit",
    "Store a checkpoint as a variant of a base.",
    example="erestore commit ft/ --base roberta-large\n"
    'erestore commit ft/ --name task-mnli --exact -m "MNLI, seed 3"\n'
    "erestore commit ft/ --gate 'python eval.py {path}'\n"
    "erestore commit ft-more/ --parent task-mnli\n"
    "erestore commit runs/*/ --base roberta-large\n"
    "erestore commit ft/ --exact --dry-run",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--base",
    metavar="REF|PATH",
    help="What PATH was tuned from: a base in the store, a local path, or a model in the local Hugging Face cache; "
    "imported on first use. Not needed if the store has one base only.",
)
@click.option("--parent", metavar="REVISION", help="The variant that PATH continues.")
@click.option("--name", metavar="REF", help="Name of the variant. Default: the name of the directory.")
@click.option("--new", is_flag=True, help="Refuse a name that exists, instead of committing its next version.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what the commit would take, without writing to the store.")
@click.option("-m", "--message", default="", metavar="TEXT", help="Message for the log.")
@click.option("--metric", "metrics", multiple=True, metavar="KEY=VALUE", help="A result to record; may be repeated.")
@click.option("--author", metavar="TEXT", help="Author of the commit. Default: user.name of the configuration.")
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help="Maximum fraction of the residual's squared norm to lose, measured after rounding. Default: 0.01.",
)
@click.option(
    "--budget",
    metavar="BYTES|PERCENT",
    help="Maximum total size the commit may add to the store: bytes, with k, M or G if you like, or a percentage of the "
    "checkpoint. The error is then as small as that allows.",
)
@click.option(
    "--gate",
    metavar="COMMAND",
    help="Keep the smallest encoding that COMMAND accepts. It is run on candidates; {path} stands for a checkpoint as "
    "checkout writes it. Exit code 0 accepts, 1 to 125 rejects. See above.",
)
@click.option("--exact", is_flag=True, help="Keep every bit, beside a linear part that can be merged.")
@click.option("--exact-only", is_flag=True, help="Keep every bit and nothing else; cannot be merged.")
@click.option("--codec", type=click.Choice(["lowrank", "ere"]), help="How to encode. Default: lowrank.")
@click.option("--rank", type=int, metavar="R", help="For ere: the prior rank. Default: 16.")
@click.option("--bits", type=int, metavar="B", help="For ere: bits per code, 2 to 8. Default: 4.")
@click.option("--alpha", type=float, metavar="A", help="For ere: the weight of the prior rank, 0 to 1. Default: 0.5.")
@click.option(
    "--allocation",
    type=click.Choice(["ere", "greedy", "uniform"]),
    help="For ere: how ranks are shared among tensors. Default: ere.",
)
@click.option(
    "--objective",
    type=click.Choice(["frobenius", "calibrated"]),
    help="Error to minimise: of the weights, all alike and in sum alone (frobenius), or of what comes out of layers. "
    "Default: calibrated if the base is; else that of the weights, those of biases and gains counted more, no tensor losing "
    "more than 10 times the share that all lose, and running statistics exact.",
)
@json_option
@click.pass_obj
def commit(
    session: Session,
    *,
    paths: tuple[str, ...],
    base: str | None,
    parent: str | None,
    name: str | None,
    new: bool,
    dry_run: bool,
    message: str,
    metrics: tuple[str, ...],
    author: str | None,
    max_error: float | None,
    budget: str | None,
    gate: str | None,
    exact: bool,
    exact_only: bool,
    codec: str | None,
    rank: int | None,
    bits: int | None,
    alpha: float | None,
    allocation: str | None,
    objective: str | None,
    as_json: bool,
) -> None:
    """Store the checkpoint at PATH as a variant of a base.

    PATH is a Hugging Face directory, a file of weights, or a PEFT adapter directory. A second commit under the same
    name is its next version. Several PATHs are committed one after the other, each under the name of its directory. Where
    there is no store yet, one is made in .erestore in the current directory.

    With --dry-run all is done in a temporary directory on top of the store (a base that is not there yet takes its size
    there), and forgotten: sizes, errors and notes are those of the commit, and no store is made.

    With --gate, COMMAND is run by the shell at most twelve times: first on the original, which has to pass, then on
    candidates that lose from a millionth to half of what changed, all from one decomposition, until the smallest that
    passes and the largest that does not differ by 3 % in size. Its output goes to standard error. Where a larger loss
    passes and a smaller one does not, the smallest candidate that was seen to pass is kept. An exit code above 125, as of
    a command that is not found or was killed, ends the commit with nothing stored. With --exact it is the lossy part that
    has to pass.
    """
    options = _quality_options(
        max_error=max_error,
        budget=_budget(budget) if budget is not None else None,
        gate=gate,
        exact=exact or None,
        exact_only=exact_only or None,
        codec=codec,
        rank=rank,
        bits=bits,
        alpha=alpha,
        allocation=allocation,
        objective=objective,
    )
    pairs = dict(_pair(metric) for metric in metrics)
    _require_paths(paths, "commit")
    if name is not None and len(paths) > 1:
        raise UsageError("--name needs a single PATH.", hint="Leave it out: each is named after its directory.")
    from erestore.encoding.quality import Quality
    from erestore.ops.commit import as_dry_run

    with progress_bar(session) as progress:
        if gate is not None:
            from erestore.cli.gate import command_gate

            options["gate"] = command_gate(gate, session, progress.paused)
        Quality(**options)  # refuses what makes no sense before anything is opened
        if session.location() is None:
            for path in paths:
                _check_sources(path, base)
        done = []
        with _open_for_dry_run(session) if dry_run else open_or_make(session) as store:
            store.author = author or store.author
            for path in paths:
                receipt = store.commit(
                    path,
                    base=base,
                    parent=parent,
                    name=name,
                    message=message,
                    quality=Quality(**{"max_error": store.setting("commit.max_error"), **options}),
                    metrics=pairs,
                    new=new,
                    progress=progress,
                )
                if dry_run:
                    receipt = as_dry_run(receipt)
                done.append(receipt)
                if not as_json:
                    with progress.paused():
                        _summarise(session, receipt)
                        _note(session, receipt)
    if as_json:
        click.echo(json_text(done if len(paths) > 1 else done[0]))
        for receipt in done:
            _note(session, receipt)


def _require_paths(paths: tuple[str, ...], command: str) -> None:
    """Refuse before anything is done what is no path, such as a name before the path."""
    missing = [path for path in paths if not Path(path).expanduser().exists()]
    others = [path for path in paths if path not in missing]
    if missing and not others:
        raise no_checkpoint(missing[0])
    if missing:
        raise NotFoundError(
            f"There is no checkpoint at '{missing[0]}'.",
            hint=f"If that is to be the name: `erestore {command} {others[0]} --name {missing[0]}`.",
        )


def open_or_make(session: Session) -> Store:
    """Open the store; where none is named and none is found, make one in the current directory and say so."""
    from erestore.api import Store
    from erestore.store import DIRECTORY

    location = session.location()
    if location is not None:
        return session.open(location)
    store = Store.init(Path(DIRECTORY))
    session.say(f"Made a store in {Path(DIRECTORY).absolute()}.")
    return session.open(store.url)


@contextmanager
def _open_for_dry_run(session: Session) -> Iterator[Store]:
    """Open the store, or an empty one where there is none, such that nothing is kept of what is written."""
    from erestore.api import Store
    from erestore.dry_run import empty_store, scratch_store

    location = session.location()
    with empty_store(Store) if location is None else scratch_store(session.open(location)) as store:
        store.environment = os.environ
        yield store


def _check_sources(path: str, base: str | None) -> None:
    """Refuse what cannot succeed before a store is made for it."""
    from erestore.checkpoint.open import open_checkpoint
    from erestore.ingest.locate import find_source

    open_checkpoint(Path(path)).close()
    if base is None:
        raise UsageError("Specify the base with --base; there is no store yet.", hint="Add --base NAME_OR_PATH.")
    find_source(base)


def _quality_options(**options: float | str | None) -> dict[str, Any]:
    """Return the options of quality that were given, refusing those that do not go together."""
    settings = {key: value for key, value in options.items() if value is not None}
    if settings.get("codec") != "ere" and (only := sorted(settings.keys() & {"rank", "bits", "alpha", "allocation"})):
        raise UsageError(f"--{only[0]} is for the ere codec.", hint="Add --codec ere, or leave it out.")
    bounds = [f"--{key.replace('_', '-')}" for key in ("max_error", "budget", "gate") if key in settings]
    if len(bounds) > 1:
        raise UsageError(f"{' and '.join(bounds[:2])} both decide the quality.", hint="Give one of them.")
    if "max_error" in settings and settings.get("codec") == "ere":
        raise UsageError("The size of the ere codec is fixed by --rank and --bits; it takes no --max-error.")
    return settings


def _budget(text: str) -> int | float:
    """Return bytes, or the share of the checkpoint that a percentage is."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(%|[kMG]?)B?", text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a budget.", hint="Write it as --budget 500k, --budget 1.5M or --budget 2%.")
    number, unit = float(match[1]), match[2]
    return number / 100 if unit == "%" else round(number * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit])


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"'{text}' is not a metric.", hint="Write it as --metric accuracy=0.91.")
    return key, value


def _summarise(session: Session, done: CommitResult) -> None:
    if done.unchanged:
        name = _name(done.ref, done.previous)
        session.result(f"{name} Nothing to commit: these files are there already, at this quality.")
        return
    which = {"whole": done.whole, "dropped": done.dropped}
    kinds = ", ".join(
        f"{count} {KINDS.get(kind, kind)}" + (f" ({printable(listed(which[kind]))})" if which.get(kind) else "")
        for kind, count in done.tensors.items()
    )
    would = "Would commit " if done.dry_run else ""
    session.result(f"{would}{_name(done.ref, done.commit)} {share_text(done.stored_bytes, done.original_bytes)}")
    result_of_version(session, done.ref, done.previous)
    session.result(f"  {error_text(done.relative_error, exact=done.exact)}, on {done.base}")
    if done.gate_runs:
        session.result(f"  the gate was run {plural(done.gate_runs, 'time')}")
    if kinds:
        session.result(f"  tensors: {kinds}")


def _note(session: Session, done: CommitResult) -> None:
    if done.imported:
        base = f"The base '{done.imported}'"
        session.notice(
            f"{base} is not in the store yet: the commit would import it, {size_text(done.imported_bytes)}."
            if done.dry_run
            else f"{base} was not in the store yet and was imported."
        )
        note_left_out(session, {f"{done.imported}: {name}": reason for name, reason in done.imported_left_out.items()})
    if done.matching:
        session.notice(f"Names were matched to the base's by {printable(matching_text(done.matching))}.")
    for note in done.notes:
        session.notice(printable(note))
    if done.checkout_of and not done.unchanged:
        marker = done.checkout_of
        lost = error_text(marker.relative_error, exact=False, bound=marker.error_bound)
        name = short(marker.commit) if marker.commit else printable(marker.revision)
        session.notice(f"The folder is a checkout of {name} ({lost}): what was lost there is not in this commit.")
    if done.trained_over:
        session.notice(
            f"The adapter was trained over quantised weights ({printable(done.trained_over)}). Its residual is over the "
            f"weights of '{done.base}' as they are, as when it is loaded on them."
        )
    if done.flattened_rank is not None:
        session.notice(
            f"The chain's total rank of {done.flattened_rank:.3g} is past commit.flatten_rank: this was encoded on the base."
        )
    unmatched = done.tensors.get("whole", 0) - len(done.not_finite)
    if (
        2 * unmatched > sum(done.tensors.values()) and not done.is_adapter
    ):  # an adapter's factors were matched by their names
        session.notice(
            f"Most tensors are not of the base '{done.base}': {unmatched} have no match there and were kept "
            f"whole. If this was tuned from another base, {'' if done.dry_run else 'take it back with `erestore undo` and '}"
            "give that --base."
        )
    elif done.distance > FAR:
        session.notice(
            f"The base does not fit: the residual is {done.distance:.2g} times as large as the base. "
            f"{'It takes' if done.dry_run else 'Stored anyway, in'} more space than a fine-tune of that base takes; check "
            "--base."
        )
    if done.budget_left:
        session.notice(
            "The budget has room for every bit: this is exact, and smaller than a lossy commit of that size."
        )
    if done.not_finite:
        session.notice(
            f"{plural(len(done.not_finite), 'tensor')} kept whole because of NaN or infinity: "
            f"{printable(listed(done.not_finite))}."
        )
    note_left_out(session, done.left_out)


def note_left_out(session: Session, left_out: Mapping[str, str]) -> None:
    """Say which files were not kept, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason.rstrip("."), []).append(f"'{printable(name)}'")
    for reason, names in by_reason.items():
        session.notice(f"{listed(names)} {'was' if len(names) == 1 else 'were'} left out: {printable(reason)}.")


def _name(ref: str, oid: str | None) -> str:
    return f"[{click.style(ref, fg='green', bold=True)}{' ' + click.style(short(oid), fg='yellow') if oid else ''}]"
