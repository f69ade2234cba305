"""A wheel holds the whole package, and works without the sources beside it."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from contextlib import chdir
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
USE = """
import json
import erestore
from erestore.cli.main import run
print(erestore.__file__)
for line in (
    "init store",
    "--store store commit ft --base roberta-large --exact",
    "--store store merge ft roberta-large --name half --ours",
    "--store store log",
    "--store store diff ft half",
    "--store store checkout ft again",
    "--store store fsck --deep",
):
    assert run(line.split()) == 0, line
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the backend that ``pip`` and ``build`` call, from a copy of what they read."""
    directory = tmp_path_factory.mktemp("wheel")
    sources = directory / "sources"
    shutil.copytree(ROOT / "erestore", sources / "erestore", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    built = subprocess.run(
        [sys.executable, "-c", BUILD, directory], cwd=sources, check=True, capture_output=True, text=True, timeout=120
    )
    with zipfile.ZipFile(directory / built.stdout.split()[-1]) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def test_it_holds_every_file_of_the_package(wheel):
    def files(root):
        return {
            str(path.relative_to(root))
            for path in (root / "erestore").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(wheel) == files(ROOT)


def test_verbs_work_from_it(wheel, tmp_path):
    variables = {**os.environ, "PYTHONPATH": str(wheel), "HOME": str(tmp_path)}
    with chdir(tmp_path):
        runpy.run_path(str(ROOT / "examples" / "toy_models.py"), run_name="__main__")
    used = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert used.stdout.startswith(str(wheel))
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "ft" / "model.safetensors"
    ).read_bytes()
