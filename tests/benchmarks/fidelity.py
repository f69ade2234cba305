"""Bytes at equal fidelity: erestore against other ways to store a residual, on real fine-tunes.

Run by hand::

    python tests/benchmarks/fidelity.py --cache DIRECTORY
    python tests/benchmarks/fidelity.py --cache DIRECTORY --ours-only --family rxnfp
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import yardsticks
from curves import at_equal
from pairs import SOURCES, Pair, common_names, load_pair
from yardsticks import Encoded, Residual

from erestore.api import Store
from erestore.model.quality import Quality

RANKS = (8, 16, 32, 64, 128, 256, 512)
LOWRANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GRID = (0.95, 0.88, 0.78, 0.65, 0.5, 0.35, 0.22, 0.13, 0.07, 0.035, 0.015, 5e-3, 1.5e-3, 4e-4, 1e-4)
"""Maximal errors that erestore is asked for; between two of them its curve is nearly straight in logarithms."""

Point = dict[str, Any]


def ere_points(residual: Residual) -> Iterator[Encoded]:
    """Yield the paper's encoding at growing rank, as long as BITQ is not smaller."""
    limit = yardsticks.bitq_rows(residual)
    for rank in RANKS:
        found = yardsticks.ere(residual, rank)
        if found.matrix_bytes + found.vector_bytes >= limit.matrix_bytes + limit.vector_bytes:
            return
        yield found


def yardstick_points(pair: Pair, work: Path) -> list[Point]:
    """Measure every yardstick on a pair."""
    residual = Residual(pair.base_weights, pair.tuned_weights)
    template = make_template(pair, work)
    points = []
    for found in ere_points(residual):
        asked = Quality(codec="ere", rank=found.setting, bits=yardsticks.BITS)
        stored = commit(pair, template, asked)[0]
        points.append(point(pair, residual, found) | {"stored": stored})
    points += [point(pair, residual, yardsticks.lowrank_fp16(residual, rank)) for rank in LOWRANKS]
    for single in (yardsticks.bitq, yardsticks.bitq_rows, yardsticks.sign, yardsticks.sign_rows):
        points.append(point(pair, residual, single(residual)))
    return points


def point(pair: Pair, residual: Residual, found: Encoded) -> Point:
    """Return what is known of one encoding."""
    return {
        "method": found.method,
        "setting": found.setting,
        "payload": found.matrix_bytes,
        "total": found.matrix_bytes + found.vector_bytes + pair.new_bytes,
        "error": residual.relative_error(found.values),
    }


def our_points(pair: Pair, work: Path) -> list[Point]:
    """Measure erestore on a pair over the grid."""
    residual = Residual(pair.base_weights, pair.tuned_weights)
    template = make_template(pair, work)
    points = []
    for max_error in GRID:
        stored, values = commit(pair, template, Quality(max_error=max_error))
        error = residual.relative_error(values)
        points.append({"method": "ours", "setting": max_error, "total": stored, "error": error})
    return points


def make_template(pair: Pair, work: Path) -> Path:
    """Make a store that holds the base alone."""
    template = work / "template"
    Store.init(template).import_base(pair.base, name="base")
    return template


def commit(pair: Pair, template: Path, quality: Quality) -> tuple[int, Mapping[str, Any]]:
    """Commit the fine-tune to a fresh copy of a store; return the bytes that added, and what a reader has."""
    with tempfile.TemporaryDirectory(dir=template.parent) as place:
        copy = Path(place, "store")
        shutil.copytree(template, copy, copy_function=os.link)
        store = Store.open(copy)
        done = store.commit(pair.tuned, base="base", name="tuned", quality=quality)
        return done.stored_bytes, common_names(dict(store.state_dict("tuned")))


def compare(pair: Pair, theirs: list[Point], ours: list[Point]) -> list[Point]:
    """Return a row for every operating point of ``ere``: its sizes over ours at the same error."""
    rows = []
    for each in theirs:
        if each["method"] != "ere":
            continue
        own = at_equal([(mine["error"], mine["total"]) for mine in ours], each["error"])
        own_matrices = None if own is None else own - pair.new_bytes
        rows.append(
            {
                "pair": pair.name,
                "rank": each["setting"],
                "error": each["error"],
                "payload": each["payload"],
                "paper": each["total"],
                "stored": each["stored"],
                "ours": own,
                "payload_ratio": own_matrices and each["payload"] / own_matrices,
                "paper_ratio": own and each["total"] / own,
                "stored_ratio": own and each["stored"] / own,
            }
        )
    return rows


def print_rows(rows: list[Point]) -> None:
    """Print the comparison as a table."""
    print(
        "| pair | rank | error | ere payload | as in the paper | as stored | ours | payload / ours | paper / ours | stored / ours |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        sizes = [f"{row[key]:,.0f}" if row[key] else "-" for key in ("payload", "paper", "stored", "ours")]
        ratios = [f"{row[f'{key}_ratio']:.2f}" if row["ours"] else "-" for key in ("payload", "paper", "stored")]
        print(f"| {row['pair']} | {row['rank']} | {row['error']:.4f} | {' | '.join(sizes)} | {' | '.join(ratios)} |")
    for key in ("payload", "paper", "stored"):
        found = [row[f"{key}_ratio"] for row in rows if row["ours"] and not row["pair"].startswith("silero")]
        if found:
            print(f"{key:8} min {min(found):.2f}  median {statistics.median(found):.2f}  (silero left out)")


def cached(path: Path, measure: Any, pair: Pair, *, again: bool) -> list[Point]:
    """Return points from a file, measuring them if need be."""
    if path.exists() and not again:
        found: list[Point] = json.loads(path.read_text())
        return found
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        found = measure(pair, Path(work))
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{path.parent.name} of {pair.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="where results and converted weights are kept")
    parser.add_argument("--family", action="append", help="only pairs whose name begins so; may be repeated")
    parser.add_argument(
        "--ours-only", action="store_true", help="measure erestore again, yardsticks only where missing"
    )
    parser.add_argument("--again", action="store_true", help="measure everything again")
    given = parser.parse_args()
    cache = given.cache.absolute()
    for name in ("yardsticks", "ours"):
        (cache / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for name in SOURCES:
        if given.family and not name.startswith(tuple(given.family)):
            continue
        try:
            pair = load_pair(name, cache)
        except pytest.skip.Exception as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        theirs = cached(cache / "yardsticks" / f"{name}.json", yardstick_points, pair, again=given.again)
        ours = cached(cache / "ours" / f"{name}.json", our_points, pair, again=given.again or given.ours_only)
        rows += compare(pair, theirs, ours)
    print_rows(rows)


if __name__ == "__main__":
    main()
