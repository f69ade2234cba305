"""Commands that read checkpoints and tensors from a store: checkout, verify, cat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from erestore.cli.argument_order import hint_at_order
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, json_option, verb
from erestore.cli.text import error_text, plural, printable, short, size_text
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.cat import CatResult
    from erestore.ops.verify import VerifyResult

SHOWN = 10
"""Tensors that ``verify`` names."""
DIFFERENT = 1
"""Exit code of a verify that found a difference."""


@verb(
    "checkout",
    "Write a variant's checkpoint.",
    example="erestore checkout task-mnli\n"
    "erestore checkout task-mnli~1 before --force\n"
    "erestore checkout task-mnli preview/ --max-rank 16",
)
@click.argument("revision")
@click.argument("directory", required=False)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="Replace existing files, except weights that the store cannot restore bit for bit.",
)
@click.option("--discard-original", is_flag=True, help="With --force: replace those weights too. They are lost.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["safetensors", "torch"]),
    help="Format of the weights. Default: as committed.",
)
@click.option("--lossy", is_flag=True, help="Do not read or write the exact remainder of an --exact commit.")
@click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    metavar="R",
    help="Read at most R components of each low-rank section, and no remainders. Implies --lossy.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=0),
    metavar="N",
    help="Read at most N bytes of residuals, largest components first. Implies --lossy.",
)
@json_option
@click.pass_obj
def checkout(
    session: Session,
    *,
    revision: str,
    directory: str | None,
    force: bool,
    discard_original: bool,
    format_: str | None,
    lossy: bool,
    max_rank: int | None,
    max_bytes: int | None,
    as_json: bool,
) -> None:
    """Write the checkpoint of REVISION, as its library loads it, into DIRECTORY.

    REVISION is a branch, a tag, the start of a commit's oid, name~2 (two versions before) or name@{1} (where the name
    pointed before). Without DIRECTORY, the checkpoint goes to a folder named after the revision in the current one, or to
    REVISION-checkout if that folder holds weights that the store cannot restore bit for bit. A checkout that is not exact
    has a file erestore-checkout.json with its commit and what was lost.

    With --max-rank or --max-bytes only a prefix of the variant's residuals is read, from a remote as well; the summary
    gives the resulting error.
    """
    with (
        session.open() as store,
        progress_bar(session) as progress,
        hint_at_order(store, f"checkout {directory} {revision}", revision, directory, first="revision"),
    ):
        done = store.checkout(
            revision,
            directory,
            force=force,
            discard_original=discard_original,
            format=format_,
            lossy=lossy,
            max_rank=max_rank,
            max_bytes=max_bytes,
            progress=progress,
        )
    if as_json:
        click.echo(json_text(done))
        return
    if done.left_alone:
        session.notice(
            f"'{done.left_alone}' holds weights that the store cannot restore bit for bit; it was left alone."
        )
    error = error_text(done.relative_error, exact=done.exact, bound=done.error_bound)
    session.result(f"Wrote {done.path}: {plural(done.tensors, 'tensor')}, {size_text(done.bytes)}, {error}.")
    if max_rank is not None or max_bytes is not None:
        session.result(f"Read {size_text(done.residual_bytes_read)} of {size_text(done.residual_bytes)} of residuals.")


@verb(
    "verify",
    "Check whether a checkpoint matches a revision.",
    example="erestore verify task-mnli/ task-mnli\nerestore verify ft-checkout/",
)
@click.argument("path")
@click.argument("revision", required=False)
@json_option
@click.pass_context
def verify(ctx: click.Context, *, path: str, revision: str | None, as_json: bool) -> None:
    """Compare the checkpoint at PATH, tensor by tensor, with what REVISION stores.

    Without REVISION it is compared with the commit it was checked out from, as named in erestore-checkout.json. The exit
    code is 0 if every bit is equal, or if PATH is within the error that the commit records, as the original is; 1 otherwise.
    """
    session: Session = ctx.obj
    with (
        session.open() as store,
        progress_bar(session) as progress,
        hint_at_order(store, f"verify {revision} {path}", revision, path, first="path"),
    ):
        result = store.verify(path, revision, progress=progress)
    if as_json:
        click.echo(json_text(result))
    else:
        for line in _verify_lines(result):
            session.result(line)
    if result.state == "different":
        ctx.exit(DIFFERENT)


def _verify_lines(result: VerifyResult) -> Iterator[str]:
    path = printable(result.path)
    name = printable(result.revision) if result.revision != result.commit else short(result.commit)
    if result.state == "equal":
        yield f"{path} is {name}{_checkout_option(result)}, bit for bit: {plural(result.tensors, 'tensor')}."
        return
    error = "" if result.relative_error is None else f"relative error {result.relative_error:.2g}"
    if result.state == "within":
        yield f"{path} is what was committed as {name}, within its error: {error}."
        return
    count = f"{len(result.differences)} of {plural(result.tensors, 'tensor')} differ"
    yield f"{path} is not {name}: {count}{error and f', {error}'}."
    for difference in result.differences[:SHOWN]:
        both = f" ({difference.on_disk}, not {difference.stored})" if difference.stored else ""
        yield f"  {printable(difference.name)}: {_DIFFERENCE[difference.reason]}{both}"
    if len(result.differences) > SHOWN:
        yield f"  and {len(result.differences) - SHOWN} more; --json has all."


def _checkout_option(result: VerifyResult) -> str:
    """Return the option the folder was checked out with, if it has less than the commit."""
    if not result.lossy:
        return ""
    limits = {"--max-rank": result.max_rank, "--max-bytes": result.max_bytes}
    option = next((f"{name} {limit}" for name, limit in limits.items() if limit is not None), "--lossy")
    return f" as checked out with {option}"


_DIFFERENCE = {
    "missing": "is not there",
    "added": "is not stored",
    "dtype": "has another dtype",
    "shape": "has another shape",
    "values": "has other values",
}


@verb(
    "cat",
    "Read one tensor of a variant.",
    example="erestore cat task-mnli classifier.dense.weight -o weight.safetensors",
)
@click.argument("revision")
@click.argument("tensor")
@click.option("-o", "--output", metavar="FILE", help="Write the tensor to FILE: .safetensors, .npy or .pt.")
@click.option("-f", "--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--lossy", is_flag=True, help="Do not read the exact remainder.")
@json_option
@click.pass_obj
def cat(
    session: Session, *, revision: str, tensor: str, output: str | None, force: bool, lossy: bool, as_json: bool
) -> None:
    """Read a single TENSOR of REVISION.

    With -o it is written to a file in the format of its suffix: .safetensors, .npy (numpy) or .pt (torch); -o - writes
    safetensors to standard output. Without, its values are summarised.
    """
    with session.open() as store:
        with hint_at_order(store, f"cat {tensor} {revision}", revision, tensor, first="revision"):
            result = store.cat(revision, tensor, lossy=lossy)
        if output is not None:
            _write(result, output, force=force)
    described = f"{printable(result.name)} {result.dtype} [{', '.join(map(str, result.shape))}]"
    if as_json:
        fields = {"commit": result.commit, "name": result.name, "dtype": result.dtype, "shape": result.shape}
        click.echo(json_text(fields | {"output": output}), err=output == "-")
    elif output is None:
        click.echo(f"{described}\n{result.value}")
    elif output != "-":
        session.result(f"Wrote {described} to {output}.")


def _write(read: CatResult, output: str, *, force: bool) -> None:
    from erestore.checkpoint.replace import replacing
    from erestore.checkpoint.tensor_file import write_safetensors, writer_for

    if output == "-":
        write_safetensors(sys.stdout.buffer, read.name, read.dtype, read.value)
        return
    write = writer_for(Path(output))
    with replacing(Path(output), is_directory=False, force=force) as temporary, temporary.open("wb") as file:
        write(file, read.name, read.dtype, read.value)
