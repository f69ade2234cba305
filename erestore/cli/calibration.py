"""``erestore calibrate``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from erestore.cli.bar import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import plural, size_text
from erestore.errors import AccessError, NotFoundError, UsageError
from erestore.report.plain import json_text

SAMPLES = 512
_TABLES = (".json", ".csv", ".tsv", ".parquet")
"""Files whose lines are no texts."""


@verb(
    "calibrate",
    "Measure what goes into a base's layers.",
    example="erestore calibrate roberta-large --data texts.txt\n"
    "erestore calibrate roberta-large --data texts.jsonl --samples 1000",
)
@click.argument("base")
@click.option(
    "--data",
    required=True,
    metavar="FILE",
    help='Texts like those that fine-tunes of the base will see: one a line, or in a .jsonl file objects with "text".',
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=SAMPLES,
    metavar="N",
    help=f"Use at most so many of the texts, spread over the file. Default: {SAMPLES}.",
)
@json_option
@click.pass_obj
def calibrate(session: Session, *, base: str, data: str, samples: int, as_json: bool) -> None:
    """Run BASE on texts and keep second moments of what goes into its layers, beside it.

    Commits on BASE then round what they store so that less of the layers' answers is lost, not of the weights themselves:
    for as many bytes the fine-tunes' answers stay closer to the original's. Any texts will do, those of the tasks do
    best. A new calibration takes the place of the former. Needs the library transformers. Layers of the type
    torch.nn.Linear are measured; Conv1D (GPT-2), convolutions and embeddings are rounded as without calibration.
    """
    texts = _spread(_read(Path(data)), samples)
    with session.open() as store, progress_bar(session) as progress:
        done = store.calibrate(base, texts, progress=progress)
    if as_json:
        click.echo(json_text(done))
    else:
        session.result(
            f"Calibrated {done.base} with {plural(done.samples, 'text')}: inputs of {plural(done.tensors, 'tensor')}, "
            f"{size_text(done.stored_bytes)}."
        )


def _read(path: Path) -> list[str]:
    """Return the texts of a file, empty lines left out."""
    if path.suffix.lower() in _TABLES:
        raise UsageError(
            f"'{path}' is no file of texts.", hint="Give --data a file with one text a line, or a .jsonl file."
        )
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file '{path}'.", hint="Give --data a file with one text a line.") from None
    except UnicodeDecodeError:
        raise UsageError(f"'{path}' is not text in UTF-8.", hint="Give --data a file with one text a line.") from None
    except OSError as error:
        raise AccessError(f"'{path}' cannot be read: {error.strerror}.") from error
    is_json = path.suffix.lower() == ".jsonl"
    texts = [_text(path, number, line) if is_json else line for number, line in enumerate(lines, 1)]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UsageError(f"'{path}' has no texts.", hint="Give --data a file with one text a line.")
    return texts


def _text(path: Path, number: int, line: str) -> str:
    if not line.strip():
        return ""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise UsageError(
            f"Line {number} of '{path}' is no JSON object with \"text\".", hint='Write lines like {"text": "..."}.'
        )
    return text


def _spread(texts: list[str], samples: int) -> list[str]:
    """Return at most so many texts, evenly spread over all."""
    number = min(samples, len(texts))
    return [texts[place * len(texts) // number] for place in range(number)]
