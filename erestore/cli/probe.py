"""``erestore probe``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from erestore.analysis.probe.settings import ALPHAS, PROBES, SHARES, SIGMAS, ProbeSettings
from erestore.cli.pages import require_page, write_page
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, is_terminal, json_option, print_long, verb
from erestore.cli.text_input import read_texts
from erestore.errors import UsageError
from erestore.report.json_values import json_text
from erestore.report.words import printable

SAMPLES = 64

_TAKES = {
    "sigmas": ("perturb",),
    "seed": ("perturb",),
    "shares": ("truncate",),
    "alphas": ("allocation",),
    "rank": ("allocation", "stiefel"),
    "bits": ("allocation",),
    "alpha": ("stiefel",),
}
"""Which probes a setting is for."""


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read them; each counts once."""
        try:
            return tuple(dict.fromkeys(float(part) for part in str(value).split(",")))
        except ValueError:
            self.fail(f"'{value}' is not a list of numbers such as 0.1,0.2.", param, ctx)


def _number_list(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


@verb(
    "probe",
    "Show how robust a variant and its residual are.",
    example="erestore probe task-mnli\n"
    "erestore probe task-mnli --perturb --sigmas 0.1,0.2,0.4 --data texts.txt\n"
    "erestore probe task-mnli --allocation --stiefel --rank 8",
)
@click.argument("revision")
@click.option("--perturb", is_flag=True, help="Multiply weights with log-normal noise: all of them, or the residual's.")
@click.option("--truncate", is_flag=True, help="Keep a share of the rank of all matrices, or of their residuals.")
@click.option("--allocation", is_flag=True, help="Encode with ere, at several weights of the prior rank.")
@click.option("--stiefel", is_flag=True, help="Encode with ere, and decode with and without the Stiefel projection.")
@click.option(
    "--sigmas", type=Numbers(), metavar="LIST", help=f"Deviations of the noise. Default: {_number_list(SIGMAS)}."
)
@click.option("--seed", type=int, metavar="N", help="Seed of the noise. Default: 0.")
@click.option("--shares", type=Numbers(), metavar="LIST", help=f"Shares of the rank. Default: {_number_list(SHARES)}.")
@click.option("--alphas", type=Numbers(), metavar="LIST", help=f"For --allocation. Default: {_number_list(ALPHAS)}.")
@click.option("--rank", type=int, metavar="R", help="Prior rank for ere. Default: 16.")
@click.option("--bits", type=int, metavar="B", help="Bits a code for --allocation; --stiefel tries 2 to 8. Default: 4.")
@click.option("--alpha", type=float, metavar="A", help="Weight of the prior rank for --stiefel. Default: 0.5.")
@click.option("--tensors", metavar="PATTERN", help="Alter only tensors whose names match, as '*attention*' does.")
@click.option(
    "--data",
    metavar="FILE",
    help='Texts to run the variant on: one per line, or a .jsonl file of objects with "text".',
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Use at most N of the texts, spread over the file. Default: {SAMPLES}.",
)
@click.option("--html", metavar="FILE", help="Also write a self-contained HTML page of figures and tables to FILE.")
@click.option("-f", "--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
@click.pass_obj
def probe(
    session: Session,
    /,
    *,
    revision: str,
    tensors: str | None,
    data: str | None,
    samples: int | None,
    html: str | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Alter a variant's weights, or only its residual, and show what is lost.

    By default --perturb and --truncate: noise and low rank harm a residual far less than the weights it is part of. Errors are
    those of the weights. With --data the variant is loaded by transformers, without a head, and the cosine of its last hidden
    state with the unaltered one is shown too. Nothing is written to the store.
    """
    from erestore.report.probe_text import probe_text

    settings = _settings(options)
    if samples is not None and data is None:
        raise UsageError("--samples needs --data.", hint="Add --data FILE.")
    texts = None if data is None else read_texts(Path(data), samples or SAMPLES)
    if html is not None:
        require_page(Path(html), force=force)
    with session.open() as store, progress_bar(session) as progress:
        result = store.probe(revision, settings=settings, tensors=tensors, inputs=texts, progress=progress)
    if as_json:
        click.echo(json_text(result))
    else:
        width = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
        print_long(probe_text(result, width=width))
    if html is not None:
        from erestore.report.probe_page import probe_page

        write_page(probe_page(result), Path(html), force=force)
        session.say(f"Wrote {printable(html)}.")


def _settings(options: dict[str, Any]) -> ProbeSettings:
    """Return the settings of the probes that were selected, refusing those that apply to none of them."""
    probes = tuple(name for name in PROBES if options.pop(name)) or ProbeSettings().probes
    settings = {name: value for name, value in options.items() if value is not None}
    for name in settings:
        if not set(_TAKES[name]) & set(probes):
            flags = " or ".join(f"--{probe}" for probe in _TAKES[name])
            raise UsageError(f"--{name} needs {flags}.", hint=f"Add {flags}, or leave out --{name}.")
    return ProbeSettings(probes, **settings)
