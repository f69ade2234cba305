"""Make a fleet: many short fine-tunes of MiniLM over tasks, seeds and learning rates, each committed and thrown away.

    python examples/fleet.py STORE --cache DIRECTORY --small     # 12 variants
    python examples/fleet.py STORE --cache DIRECTORY             # 200 variants, tens of minutes

needs torch and transformers: `bash examples/main_job.sh` makes an environment with both in .venv-example. One training at a
time. A run that was interrupted goes on where it stopped: variants that the store has are not made again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fetch_models import FetchError
from fine_tune import Recipe, accuracy, base_directory, logits, train
from labelled_texts import SENTIMENT, load_task

from erestore import Store, StoreNotFoundError

BASE = "minilm"
STEPS = 20
TESTED = 128
"""Sentences for the accuracy that is recorded with each commit."""


def recipes(*, small: bool) -> list[Recipe]:
    """Return what to make: 4 tasks x 3 seeds at one learning rate, or 4 x 10 seeds x 5 learning rates."""
    seeds = range(3) if small else range(10)
    rates = (5e-5,) if small else (1e-5, 2e-5, 5e-5, 1e-4, 2e-4)
    return [Recipe(task, seed, STEPS, rate) for task, seed, rate in itertools.product(SENTIMENT, seeds, rates)]


def open_store(place: str, base: Path) -> Store:
    """Open the store, or make it and put the base into it."""
    try:
        return Store.open(place)
    except StoreNotFoundError:
        store = Store.init(place)
        store.import_base(base, name=BASE)
        return store


def make(store: Store, wanted: Sequence[Recipe], cache: Path) -> None:
    """Train and commit every variant that the store does not have; print a line for each."""
    base = base_directory(cache)
    for number, recipe in enumerate(wanted, 1):
        if store.has_ref(recipe.name):
            print(f"{number}/{len(wanted)} {recipe.name}: there already", flush=True)
            continue
        task, start = load_task(recipe.task, cache), time.monotonic()
        examples = task.test[:TESTED]
        with tempfile.TemporaryDirectory() as place:
            tuned = Path(place, recipe.name)
            train(base, task, recipe, tuned)
            right = accuracy(logits(tuned, examples), examples)
            trained = time.monotonic()
            done = store.commit(tuned, base=BASE, metrics={"accuracy": f"{right:.3f}"})
        print(
            f"{number}/{len(wanted)} {recipe.name}: {done.stored_bytes / 1e6:.1f} MB of {done.original_bytes / 1e6:.0f} MB, "
            f"relative error {done.relative_error:.4f}, accuracy {right:.3f} "
            f"({trained - start:.0f} s of training, {time.monotonic() - trained:.0f} s of commit)",
            flush=True,
        )


def main() -> None:
    """Make the fleet and print what it takes."""
    parser = argparse.ArgumentParser(description="Make many short fine-tunes of MiniLM and commit them all.")
    parser.add_argument("store", help="directory or URL; made if need be")
    parser.add_argument("--cache", type=Path, required=True, help="where downloads are kept")
    parser.add_argument("--small", action="store_true", help="12 variants instead of 200")
    parser.add_argument("--limit", type=int, help="only the first so many")
    given = parser.parse_args()
    try:
        base = base_directory(given.cache)
        load_task("movie", given.cache)
    except FetchError as error:
        sys.exit(f"{error}.")
    store = open_store(given.store, base)
    make(store, recipes(small=given.small)[: given.limit], given.cache)
    used = store.du()
    variants = [usage for usage in used.variants if usage.kind == "variant"]
    own = sum(usage.own_bytes for usage in variants)
    print(
        f"\n{len(variants)} variants: {own / 1e6:.1f} MB that only they use, {own / 1e6 / len(variants):.2f} MB each."
    )
    print(
        f"The store takes {used.stored_bytes / 1e6:.0f} MB with the base; as checkpoints: {used.separate_bytes / 1e6:.0f} MB."
    )


if __name__ == "__main__":
    main()
