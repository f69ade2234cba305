"""Running the command line: in this process, or as a user does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from erestore.cli.main import run

ROOT = Path(__file__).parents[2]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Variables for a process that finds the code under test and no configuration of whoever runs the tests."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ERESTORE_")}
    return {**clean, "PYTHONPATH": str(ROOT), **more}


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of the tests."""
    options.setdefault("env", environment())
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


class Here:
    """A working directory for commands in this process."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def refill(self, template: Path) -> Here:
        """Make the directory a copy of another."""
        shutil.copytree(template, self.directory, dirs_exist_ok=True)
        return self

    def run(self, *arguments: str | Path) -> Ran:
        """Run one command."""
        self._capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ran(code, *self._capsys.readouterr())

    def json(self, *arguments: str | Path) -> Any:
        """Run one command with ``--json`` that must succeed without a word on standard error."""
        ran = self.run(*arguments, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)
