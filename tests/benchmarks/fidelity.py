"""Bytes at equal fidelity: erestore against other ways to store a residual, on real fine-tunes.

Run by hand::

    python tests/benchmarks/fidelity.py --cache DIRECTORY                       # what is not in the cache yet, and a table
    python tests/benchmarks/fidelity.py --cache DIRECTORY --ours-only           # after a change of the encoder
    python tests/benchmarks/fidelity.py --cache DIRECTORY --write docs          # docs/fidelity.md and its plots

Fine-tunes are made on first use, which takes tens of minutes; they and the downloads are kept where the tests keep theirs.
Measurements are kept in DIRECTORY, a file for each pair and part. Pairs that cannot be had here are left out with a message.
One BLAS thread a process (OMP_NUM_THREADS=1) is fastest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from measuring import our_points, yardstick_points
from pairs import SOURCES, load_pair

PARTS = ("yardsticks", "ours")
"""What is measured of a pair; the second looks at the losses of the first."""


def measure(name: str, cache: Path, wanted: Sequence[str]) -> str:
    """Measure the `wanted` parts of one pair and keep them; return a line about it."""
    try:
        pair = load_pair(name, cache)
    except pytest.skip.Exception as reason:
        return f"{name} is left out: {reason}"
    start = time.monotonic()
    for part in wanted:
        with tempfile.TemporaryDirectory(dir=cache, prefix=".measuring-") as work:
            if part == "yardsticks":
                points = yardstick_points(pair, Path(work))
            else:
                points = our_points(pair, Path(work), read(name, "yardsticks", cache)["points"])
        found = {"new_bytes": pair.new_bytes, "original_bytes": pair.tuned.stat().st_size, "points": points}
        place = path_of(name, part, cache)
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(found, indent=1) + "\n")
    return f"{name}: {' and '.join(wanted)} measured in {time.monotonic() - start:.0f} s"


def to_do(names: Sequence[str], cache: Path, only: str | None) -> dict[str, list[str]]:
    """Return which parts of which pairs are to be measured: `only` that and what it needs, or else what is missing."""
    tasks = {}
    for name in names:
        missing = [part for part in PARTS if not path_of(name, part, cache).exists()]
        if only:
            missing = [part for part in PARTS if part == only or (only == "ours" and part in missing)]
        if missing:
            tasks[name] = missing
    return tasks


def path_of(name: str, part: str, cache: Path) -> Path:
    """Return where one part of the measurements of a pair is kept."""
    return cache / part / f"{name}.json"


def read(name: str, part: str, cache: Path) -> dict[str, Any]:
    """Return one part of the measurements of a pair."""
    found: dict[str, Any] = json.loads(path_of(name, part, cache).read_text())
    return found


def results(names: Sequence[str], cache: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every pair of which both parts are in the cache."""
    for name in names:
        if all(path_of(name, part, cache).exists() for part in PARTS):
            found = {part: read(name, part, cache) for part in PARTS}
            yield name, found["ours"] | {part: each["points"] for part, each in found.items()}


def main() -> None:
    """Measure what is to be measured, print the comparison, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="where measurements and weights are kept")
    parser.add_argument("--family", action="append", metavar="NAME", help="only pairs whose name begins so; repeatable")
    parser.add_argument("--only", choices=[*PARTS, "none"], help="measure this again, and nothing else")
    parser.add_argument("--ours-only", dest="only", action="store_const", const="ours", help="the same as --only ours")
    parser.add_argument("--jobs", type=int, default=1, help="pairs that are measured at once")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write fidelity.md and its plots to this directory")
    given = parser.parse_args()
    cache = given.cache.absolute()
    cache.mkdir(parents=True, exist_ok=True)
    names = [name for name in SOURCES if not given.family or name.startswith(tuple(given.family))]
    tasks = to_do(names, cache, given.only)
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        for line in pool.map(measure, tasks, [cache] * len(tasks), tasks.values()):
            print(line, file=sys.stderr, flush=True)
    found = dict(results(names, cache))

    import fidelity_page

    print(fidelity_page.summary(found))
    if given.write:
        import fidelity_plots

        fidelity_plots.draw(found, given.write)
        (given.write / "fidelity.md").write_text(fidelity_page.page(found))


if __name__ == "__main__":
    main()
