"""Commands that look at many variants at once: similar, identify, blame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from erestore.cli.derived import conflicts_as_data
from erestore.cli.progress import progress_bar
from erestore.cli.session import Session, cache_directory, json_option, print_long, verb
from erestore.cli.text import error_text, listed, plural, printable, short, table
from erestore.report.json_values import json_text

if TYPE_CHECKING:
    from erestore.ops.blame import BlameResult
    from erestore.ops.identify import IdentifyResult
    from erestore.ops.similar import PairOverlap, SimilarResult

MATRIX = 12
"""Variants up to which all cosines are shown."""
SHOWN = 10
"""Pairs, variants or tensors that are listed otherwise."""


@verb(
    "similar",
    "Show how much variants of one base have in common.",
    example="erestore similar\nerestore similar task-a task-b both --json\nerestore similar task-a task-b --angles",
)
@click.argument("revisions", nargs=-1, metavar="[REVISION]...")
@click.option("--base", metavar="BASE", help="Compare only the variants of this base.")
@click.option("--angles", is_flag=True, help="Also compare every pair of the named variants tensor by tensor.")
@json_option
@click.pass_obj
def similar(session: Session, *, revisions: tuple[str, ...], base: str | None, angles: bool, as_json: bool) -> None:
    """Compare variants' changes to their base: cosines and norms, duplicates and outliers.

    By default all branches are compared. No variant is built: inner products of residuals come from their factors, and are
    cached.
    """
    with session.open() as store, progress_bar(session) as progress, conflicts_as_data(as_json=as_json):
        result = store.similar(
            revisions, base=base, angles=angles, products_directory=cache_directory("products"), progress=progress
        )
    print_long(json_text(result) if as_json else "\n".join(_similar_text(result)))


@verb(
    "identify",
    "Find what an unknown checkpoint was made from.",
    example="erestore identify ./found-somewhere\nerestore identify model.safetensors --json",
)
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def identify(session: Session, *, path: Path, as_json: bool) -> None:
    """Find the base that the checkpoint at PATH fits, the variants nearest to it, and its likely parent.

    The checkpoint is read once, tensor by tensor, and no variant is built.
    """
    with session.open() as store, progress_bar(session) as progress:
        result = store.identify(path, products_directory=cache_directory("products"), progress=progress)
    print_long(json_text(result) if as_json else "\n".join(_identify_text(result)))


@verb(
    "blame",
    "Show which commits changed a tensor, and how much.",
    example="erestore blame task-mnli classifier.weight",
)
@click.argument("revision")
@click.argument("tensor")
@json_option
@click.pass_obj
def blame(session: Session, *, revision: str, tensor: str, as_json: bool) -> None:
    """Attribute the difference between a variant's TENSOR and the base's to the commits that made it.

    The share of a commit is its own energy plus its cross terms with all others; shares sum to 100 %, and are negative for
    commits whose change later ones took back.
    """
    with session.open() as store:
        result = store.blame(revision, tensor)
    print_long(json_text(result) if as_json else "\n".join(_blame_text(result)))


def _similar_text(result: SimilarResult) -> Iterator[str]:
    yield f"{plural(len(result.names), 'variant')} of {printable(result.base)}"
    yield ""
    if len(result.names) <= MATRIX:
        header = ["", "norm", *(str(number) for number in range(1, len(result.names) + 1))]
        rows = [
            [f"{number} {printable(name)}", f"{norm:.4g}", *(_cosine(value) for value in cosines)]
            for number, (name, norm, cosines) in enumerate(
                zip(result.names, result.norms, result.matrix, strict=True), 1
            )
        ]
        yield table(rows, right=range(1, len(header)), header=header)
    else:
        rows = [[_cosine(value), printable(a), printable(b)] for value, a, b in _nearest(result)]
        yield table(rows, right=(0,), header=["cosine", "variant", "variant"])
        yield f"The {len(rows)} most similar pairs; --json has all."
    for group in result.duplicates:
        yield f"duplicates: {listed(map(printable, group), 8)}"
    for outlier in result.outliers[:SHOWN]:
        what = "median cosine with the others" if outlier.reason == "direction" else "norm"
        yield f"outlier: {printable(outlier.name)}: {what} {outlier.value:.3g}, typically {outlier.typical:.3g}"
    if result.whole:
        yield f"Stored in full, not compared: tensors of {listed(map(printable, result.whole))}."
    for pair in result.overlaps:
        yield from _pair_text(pair)


def _nearest(result: SimilarResult) -> list[tuple[float | None, str, str]]:
    pairs = [
        (result.matrix[one][two], result.names[one], result.names[two])
        for one, two in itertools.combinations(range(len(result.names)), 2)
    ]
    return sorted(pairs, key=lambda pair: -2.0 if pair[0] is None else -pair[0] - 4)[:SHOWN]


def _pair_text(pair: PairOverlap) -> Iterator[str]:
    yield ""
    yield f"{printable(pair.a)} and {printable(pair.b)}, tensor by tensor, largest changes first:"
    tensors = sorted(pair.tensors, key=lambda tensor: -tensor.norm_a * tensor.norm_b)
    rows = [
        [
            printable(tensor.name),
            _cosine(tensor.cosine),
            f"{_count(tensor.rank_a)}/{_count(tensor.rank_b)}",
            _against(tensor.column_overlap, tensor.column_chance),
            _against(tensor.row_overlap, tensor.row_chance),
            _percent(tensor.a_in_b),
            _percent(tensor.b_in_a),
        ]
        for tensor in tensors[: 2 * SHOWN]
    ]
    header = ["tensor", "cosine", "ranks", "columns (chance)", "rows (chance)", "1st in 2nd", "2nd in 1st"]
    yield table(rows, right=range(1, 7), header=header)
    if len(tensors) > len(rows):
        yield f"and {plural(len(tensors) - len(rows), 'more tensor')}; --json has all."


def _identify_text(result: IdentifyResult) -> Iterator[str]:
    parent = result.parent
    what = "is" if parent.distance == 0 else "is nearest to"
    yield f"{printable(result.path)} {what} {click.style(printable(parent.name), fg='green', bold=True)}"
    if marker := result.checkout_of:
        name = short(marker.commit) if marker.commit else printable(marker.revision)
        lost = error_text(marker.relative_error, exact=False, bound=marker.error_bound)
        yield f"by its erestore-checkout.json a checkout of {name}: {lost}"
    for base in result.bases:
        if base.fits:
            share = "" if base.relative_distance is None else f", {base.relative_distance:.2g} of its norm away"
            yield f"base {printable(base.name)}: {plural(base.tensors, 'tensor')} in common{share}"
        else:
            yield f"base {printable(base.name)}: does not fit"
    yield ""
    rows = [
        [
            printable(near.name),
            f"{near.distance:.4g}",
            "-" if near.relative_distance is None else f"{near.relative_distance:.4g}",
            _cosine(near.cosine),
        ]
        for near in result.nearest[:SHOWN]
    ]
    yield table(rows, right=(1, 2, 3), header=["", "distance", "relative", "cosine"])
    if len(result.nearest) > SHOWN:
        yield f"and {len(result.nearest) - SHOWN} more; --json has all."
    if result.left_out:
        yield f"Not finite, and left out: {listed(map(printable, result.left_out))}."


def _blame_text(result: BlameResult) -> Iterator[str]:
    yield f"{printable(result.tensor)} of {printable(result.revision)}: {result.norm:.4g} from {printable(result.base)}"
    if not result.commits:
        yield "No commit changed it."
        return
    yield ""
    rows = [
        [
            _percent(commit.share),
            f"{commit.energy:.4g}",
            f"{commit.cross:+.4g}",
            click.style(short(commit.commit) if commit.commit else "(gone)", fg="yellow"),
            f"{commit.coefficient:.4g}",
            printable(", ".join(commit.refs) or commit.message or commit.edge),
        ]
        for commit in result.commits
    ]
    yield table(rows, right=(0, 1, 2, 4), header=["share", "energy", "cross", "commit", "times", ""])


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _against(value: float | None, chance: float | None) -> str:
    return "-" if value is None or chance is None else f"{value:.3f} ({chance:.3f})"
