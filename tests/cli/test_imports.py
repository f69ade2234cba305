"""Commands that need no tensor load no heavy library (design fact 10)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import Here, environment, python
from safetensors.torch import load_file

HEAVY = ("torch", "numpy", "networkx", "fsspec", "huggingface_hub", "safetensors", "transformers", "rich")

LIGHT = (
    "--help",
    "commit --help",
    "log",
    "log --graph",
    "log --json",
    "show more",
    "status",
    "branch",
    "branch x ft",
    "branch -m x y",
    "branch -d y",
    "tag",
    "tag v2 ft",
    "tag -d v1",
    "reflog",
    "undo",
    "config",
    "config gc.grace_days 3",
    "du",
    "gc",
    "fsck",
    "init other",
)

PROGRAM = f"""
import json, sys
from erestore.cli.main import run
for command in sys.argv[1:]:
    code = run(command.split())
    print(json.dumps([command, code, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr)
"""


@pytest.mark.usefixtures("here")
def test_light_commands_stay_light() -> None:
    ran = python("-c", PROGRAM, *LIGHT)
    found = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("[")]
    assert found == [[command, 0, []] for command in LIGHT]


@pytest.mark.usefixtures("here")
def test_a_path_that_does_not_exist_is_refused_before_anything_heavy() -> None:
    ran = python("-c", PROGRAM, "commit nothing", "import nothing")
    lines = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("[")]
    assert lines == [[command, 3, []] for command in ("commit nothing", "import nothing")]
    assert "error: There is no checkpoint at 'nothing'." in ran.stderr


def test_importing_the_package_loads_nothing() -> None:
    program = f"import sys, erestore; erestore.Store; print([n for n in {HEAVY!r} if n in sys.modules])"
    ran = python("-c", program)
    assert ran.stdout == "[]\n", ran.stderr


CHECKOUT = """
import sys
from erestore.api import Store
print(Store.open(".erestore").checkout(sys.argv[1], sys.argv[2]).exact)
print([name for name in ("torch", "safetensors", "transformers") if name in sys.modules])
"""


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("revision", ["ft", "more"])
def test_a_checkout_of_safetensors_does_without_torch(revision: str) -> None:
    """Decoding is numpy's, be it lossy or exact: to import torch takes longer than many a checkout."""
    ran = python("-c", CHECKOUT, revision, "out")
    assert ran.stdout.splitlines() == [str(revision == "more"), "[]"], ran.stderr
    written, original = (load_file(Path(folder, "model.safetensors")) for folder in ("out", revision))
    assert set(written) == set(original)
    assert all(torch.equal(written[name], original[name]) for name in original) == (revision == "more")


def test_the_module_runs(tmp_path: Path) -> None:
    ran = python("-m", "erestore", "--version", cwd=tmp_path, env=environment())
    assert ran.stdout.startswith("erestore ")


READY = """
import sys
from erestore.api import Store
from erestore.variant.variant import Variant
store = Store.open(".erestore")
variant = Variant.open(store.objects, store.commit_record(store.resolve("paper")).manifest)
before = "torch" in sys.modules
variant.open_parts()
print(before, "torch" in sys.modules)
"""


def test_what_a_codec_needs_is_imported_before_threads_begin(here: Here) -> None:
    """Torch limits its threads one by one, so it has to be there when they begin."""
    assert here.run("commit", "ft", "--base", "base", "--name", "paper", "--codec", "ere", "--rank", "2").code == 0
    ran = python("-c", READY)
    assert ran.stdout == "False True\n", ran.stderr
