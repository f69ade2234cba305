"""What depends on where the output goes: colours, pager, progress, pipes, signals."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from commands import Here, environment, python

ESCAPE = "\x1b["
BLUE = "\x1b[38;5;33m"


def on_terminal(*arguments: str, directory: Path, both: bool = True, **variables: str) -> tuple[int, str]:
    """Run a command whose standard error, and with `both` its output, is a terminal; return what the terminal got."""
    outside, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "erestore", *arguments],
        stdin=inside,
        stdout=inside if both else subprocess.DEVNULL,
        stderr=inside,
        env=environment(**{"TERM": "xterm", "LINES": "50", **variables}),
        cwd=directory,
    )
    os.close(inside)
    seen = b""
    while True:
        try:
            piece = os.read(outside, 1 << 16)
        except OSError:  # Linux ends a terminal that nobody holds open any more with EIO
            break
        if not piece:
            break
        seen += piece
    os.close(outside)
    return process.wait(timeout=60), seen.decode()


def test_colours_on_a_terminal_only(here: Here) -> None:
    assert ESCAPE not in here.run("branch").out
    assert ESCAPE in here.run("branch", "--color", "always").out
    assert ESCAPE in here.run("--color", "always", "branch").out
    code, seen = on_terminal("branch", directory=here.directory)
    assert (code, ESCAPE in seen) == (0, True)
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        _, seen = on_terminal("branch", directory=here.directory, **variables)
        assert ESCAPE not in seen
    _, seen = on_terminal("branch", "--color", "never", directory=here.directory)
    assert ESCAPE not in seen


def test_pager_on_a_terminal_only(here: Here, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.write('paged ' + sys.stdin.read())\n")
    pager.chmod(0o755)
    for arguments in (("log",), ("show", "ft"), ("reflog",), ("diff", "ft"), ("diff", "ft", "--tensor", "scale")):
        code, seen = on_terminal(*arguments, directory=here.directory, PAGER=str(pager))
        assert code == 0
        assert seen.count("paged ") == 1
    _, seen = on_terminal("log", "--json", directory=here.directory, PAGER=str(pager))
    assert "paged " not in seen
    piped = python("-m", "erestore", "log", cwd=here.directory, env=environment(PAGER=str(pager)))
    assert "paged " not in piped.stdout


def test_a_diff_is_coloured_and_fits_the_terminal(here: Here) -> None:
    arguments = "diff", "ft", "--tensor", "dense.weight"
    plain = here.run(*arguments).out
    assert ESCAPE not in plain
    coloured = here.run(*arguments, "--color", "always").out
    assert BLUE in coloured
    assert click.unstyle(coloured) == plain
    assert here.run(*arguments, "--color", "never").out == plain
    wide = {"COLUMNS": "60", "PAGER": "cat"}
    code, seen = on_terminal(*arguments, directory=here.directory, **wide)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen[seen.index("dense.weight [") :])
    assert (code, BLUE in seen) == (0, True)
    assert 50 < max(map(len, shown.splitlines())) <= 60
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        _, seen = on_terminal(*arguments, directory=here.directory, **wide, **variables)
        assert BLUE not in seen
        assert "●" in seen


def test_a_gate_has_the_terminal_to_itself(here: Here) -> None:
    """The bar, which is drawn ten times a second, does not get into what the command writes."""
    gate = "printf 'one '; sleep 0.4; echo two; : {path}"
    code, seen = on_terminal("commit", "ft", "--name", "new", "--gate", gate, directory=here.directory, both=False)
    assert (code, "encoding" in seen) == (0, True)
    assert seen.count("one two\r\n") == seen.count("gate, run ") > 3


def test_progress_on_a_terminal_only(here: Here) -> None:
    code, seen = on_terminal("fsck", directory=here.directory, both=False)
    assert (code, "walking" in seen) == (0, True)
    assert "\x1b[3" in seen
    code, seen = on_terminal("fsck", "--quiet", directory=here.directory, both=False)
    assert (code, seen) == (0, "")
    code, seen = on_terminal("fsck", directory=here.directory, both=False, NO_COLOR="1")
    assert (code, "walking" in seen) == (0, True)
    assert "\x1b[3" not in seen  # the bar moves the cursor, but does not colour
    assert here.run("fsck").err == ""


def test_a_reader_that_goes_away(here: Here) -> None:
    program = (
        "import sys\n"
        "from erestore.cli.main import run\n"
        "sys.stdin.read(1)\n"  # until nobody reads any more
        "sys.exit(run(['show', 'ft', '--json']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=here.directory,
        env=environment(),
    )
    assert process.stdout
    process.stdout.close()
    assert process.stdin
    process.stdin.write(b"x")
    process.stdin.close()
    assert process.stderr
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_interrupted(here: Here) -> None:
    program = (
        "import os, signal, sys\n"
        "from erestore.api import Store\n"
        "from erestore.cli.main import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in what a shell starts with &
        "Store.log = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(run(['log']))\n"
    )
    ran = python("-c", program, cwd=here.directory)
    assert ran.returncode == 130
    assert ran.stderr.startswith("error: Interrupted.\nhint: ")
    assert "Traceback" not in ran.stderr


def test_terminated(here: Here) -> None:
    """A writer that is asked to stop takes its lease with it."""
    program = (
        "import os, signal, sys\n"
        "from erestore.cli.main import main\n"
        "from erestore.store import Store\n"
        "Store.resolve = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv[1:] = ['branch', 'x', 'ft']\n"
        "main()\n"
    )
    ran = python("-c", program, cwd=here.directory)
    assert (ran.returncode, ran.stdout, ran.stderr) == (143, "", "")
    assert not [path for path in (here.directory / ".erestore" / "gc" / "leases").rglob("*") if path.is_file()]


def test_a_read_only_store(here: Here) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    store = here.directory / ".erestore"
    for path in (store, *store.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        ran = here.run("branch", "x", "ft")
        assert (ran.code, here.run("log").code, here.run("show", "ft").code) == (10, 0, 0)
    finally:
        for path in (store, *store.rglob("*")):
            path.chmod(0o755)


def test_completion(here: Here) -> None:
    for shell, words in (("bash_source", "complete"), ("zsh_source", "compdef"), ("fish_source", "complete")):
        ran = python("-m", "erestore", cwd=here.directory, env=environment(_ERESTORE_COMPLETE=shell))
        assert (ran.returncode, words in ran.stdout) == (0, True)
    variables = {"_ERESTORE_COMPLETE": "bash_complete", "COMP_WORDS": "erestore ch", "COMP_CWORD": "1"}
    ran = python("-m", "erestore", cwd=here.directory, env=environment(**variables))
    assert ran.stdout == "plain,checkout\nplain,cherry-pick\n"
