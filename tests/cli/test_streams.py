"""Standard streams that are closed, full or in another encoding, and Ctrl-C before the command has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, environment

from erestore import __main__ as launcher

ERESTORE = [sys.executable, "-m", "erestore"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("streams") / "größe-模型"
    subprocess.run([*ERESTORE, "init", directory], check=True, env=environment(), capture_output=True)
    return directory


def through_shell(store: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``erestore --store STORE`` and the rest of a shell's command line."""
    line = f'exec "{sys.executable}" -m erestore --store "{store}" {command}'
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False, env=environment(**variables)
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_change_nothing(store: Path, closed: str) -> None:
    ran = through_shell(store, f"config user.name x{closed.count('-')} {closed}")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert through_shell(store, "config user.name").stdout == f"x{closed.count('-')}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_cannot_be_printed_was_done_all_the_same(store: Path) -> None:
    ran = through_shell(store, "status > /dev/full")
    assert ran.returncode == 10
    assert ran.stderr == (
        "error: The output cannot be printed: No space left on device.\n"
        "hint: The command itself succeeded; `erestore log` and `erestore reflog` show what it changed.\n"
    )


@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "utf-8"])
def test_any_encoding_prints_what_it_can(store: Path, encoding: str) -> None:
    ran = subprocess.run(
        [*ERESTORE, "--store", store, "status"],
        capture_output=True,
        timeout=120,
        check=False,
        env=environment(PYTHONIOENCODING=encoding),
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert "größe-模型".encode(encoding, "backslashreplace") in ran.stdout


def test_ctrl_c_while_the_command_line_is_imported(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    left: list[int] = []
    monkeypatch.setitem(sys.modules, "erestore.cli.main", None)
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(launcher, "sys", sys)

    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "erestore.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "erestore.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(UnboundLocalError):  # in a process of its own nothing runs on after the exit
        launcher.main()
    assert left == [130]
    assert capsys.readouterr().err.startswith("error: Interrupted.\n")


def test_ctrl_c_that_a_library_turns_into_an_error_of_its_own(store: Path, tmp_path: Path) -> None:
    """numpy says that its extension failed to import, which is true and no fault of anybody's."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Library:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'erestore.ops.status':\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "            except KeyboardInterrupt as error:\n"
        "                raise ImportError('an extension failed to import') from error\n"
        "sys.meta_path.insert(0, Library())\n"
    )
    # A shell that starts it in the background would have it ignore the signal.
    restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    ran = subprocess.run(
        [*ERESTORE, "--store", store, "status"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"),
        **restore,
    )
    assert (ran.returncode, ran.stdout) == (130, "")
    assert ran.stderr.startswith("error: Interrupted.\n")
