"""Programs for tests of whole processes. They are forked from a server that has loaded torch, so that they start at once."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
from contextlib import redirect_stdout
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Barrier
from pathlib import Path

from erestore.cli.main import run


def context() -> ForkServerContext:
    """Return what starts processes."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["erestore.cli.main", "erestore.ops.commit", "erestore.ops.import_base", "programs"])
    return server


def command(*arguments: str | Path) -> tuple[int, str]:
    """Run one command line in this process; return exit code and standard output."""
    output = io.StringIO()
    with redirect_stdout(output):
        code = run([str(argument) for argument in arguments])
    return code, output.getvalue()


def commit_for_ever(store: Path, models: Path, acknowledged: Path) -> None:
    """Commit one version after the other; write down each that was acknowledged."""
    os.environ["XDG_CONFIG_HOME"] = str(models)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process is killed
    with acknowledged.open("a") as log:
        while True:
            for model in ("one", "two"):
                code, output = command("--store", store, "commit", models / model, "--name", "ft", "--json")
                assert code == 0
                log.write(json.dumps(json.loads(output)["commit"]) + "\n")
                log.flush()


def race(store: Path, models: list[Path], attempts: int, start: Barrier, result: Path) -> None:
    """Commit to one branch at the same time as others; write down exit codes and commits."""
    os.environ["XDG_CONFIG_HOME"] = str(result.parent)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    found = []
    for attempt in range(attempts):
        start.wait(120)
        code, output = command("--store", store, "commit", models[attempt % 2], "--name", "ft", "--json")
        found.append((code, json.loads(output)["commit"] if code == 0 else None))
    result.write_text(json.dumps(found))
