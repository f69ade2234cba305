"""``erestore calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import plural, size_text
from erestore.cli.text_input import read_texts
from erestore.report.json_values import json_text

SAMPLES = 512


@verb(
    "calibrate",
    "Collect layer-input statistics for a base.",
    example="erestore calibrate roberta-large --data texts.txt\n"
    "erestore calibrate roberta-large --data texts.jsonl --samples 1000",
)
@click.argument("base")
@click.option(
    "--data",
    required=True,
    metavar="FILE",
    help='Texts like those the fine-tunes will see: one per line, or a .jsonl file of objects with "text".',
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=SAMPLES,
    metavar="N",
    help=f"Use at most N of the texts, spread over the file. Default: {SAMPLES}.",
)
@json_option
@click.pass_obj
def calibrate(session: Session, *, base: str, data: str, samples: int, as_json: bool) -> None:
    """Run BASE on texts and store second moments of its layers' inputs beside it.

    Later commits on BASE then minimise the error of layer outputs instead of the error of the weights: at the same size,
    fine-tunes behave more like the originals. Any texts will do; those of the tasks work best. A new calibration replaces
    the previous one. Needs the library transformers. Layers of the type torch.nn.Linear are measured; Conv1D (GPT-2),
    convolutions and embeddings are rounded as without calibration.
    """
    texts = read_texts(Path(data), samples)
    with session.open() as store, progress_bar(session) as progress:
        done = store.calibrate(base, texts, progress=progress)
    if as_json:
        click.echo(json_text(done))
    else:
        session.result(
            f"Calibrated {done.base} with {plural(done.samples, 'text')}: inputs of {plural(done.tensors, 'tensor')}, "
            f"{size_text(done.stored_bytes)}."
        )
