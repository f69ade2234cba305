"""Every failure: one sentence, a next step, its exit code, and nothing else."""

from __future__ import annotations

import errno
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from commands import ROOT, Here

import erestore
from erestore import errors
from erestore.api import Store
from erestore.cli.errors import NEXT_STEPS, report
from erestore.errors import ErestoreError

CODES = {
    "ErestoreError": 2,
    "GateError": 1,
    "UsageError": 2,
    "NotFoundError": 3,
    "CorruptionError": 4,
    "ConflictError": 5,
    "RemoteError": 6,
    "UnsupportedFormatError": 7,
    "UnsafeRemoteError": 8,
    "CheckpointError": 9,
    "AccessError": 10,
}
"""As documented."""


def tree(root: type[ErestoreError] = ErestoreError) -> Iterator[type[ErestoreError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def everything_imported() -> None:
    for module in pkgutil.walk_packages(erestore.__path__, "erestore."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def raised(kind: type[ErestoreError]) -> ErestoreError:
    error = kind.__new__(kind)
    ErestoreError.__init__(error, "What is wrong.")
    return error


def test_every_error_has_its_familys_code_and_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    everything_imported()
    kinds = set(tree())
    assert {kind.__name__ for kind in kinds} >= CODES.keys()
    for kind in kinds:
        family = next(base.__name__ for base in kind.__mro__ if base.__name__ in CODES)
        assert kind.exit_code == CODES[family]
        assert report(raised(kind)) == CODES[family]
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"error: What is wrong\.\nhint: .+[.`]\n", err)


def test_all_families_have_codes_of_their_own() -> None:
    families = [code for name, code in CODES.items() if name != "ErestoreError"]
    assert len(set(families)) == len(families)
    for kind in ErestoreError.__subclasses__():
        assert kind.__name__ in CODES
        assert kind in NEXT_STEPS or kind is errors.UsageError


def test_the_documented_table_is_this_one() -> None:
    text = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {0, 1, 70, 130, 141, 143, *CODES.values()}


@pytest.mark.parametrize(
    "error, code, words",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 10, "no space left to use '/x/y'"),
        (OSError(errno.ENOSPC, "No space left on device"), 10, "no space left to write 'a file'"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 10, "no permission to use '/x'"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 10, "read-only"),
        (OSError(errno.EIO, "Input/output error", "/x"), 10, "Input/output error"),
        (MemoryError(), 10, "memory"),
        (ConnectionResetError("reset by peer"), 6, "The connection failed: reset by peer"),
        (TimeoutError("timed out"), 6, "The connection failed"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (click.Abort(), 130, "Interrupted"),
        (BrokenPipeError(), 141, None),
        (click.UsageError("Bad words."), 2, "error: Bad words."),
        (ZeroDivisionError("division by zero"), 70, "ZeroDivisionError: division by zero"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_other_exceptions(
    here: Here, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Store, "log", fail)
    ran = here.run("log")
    assert (ran.code, ran.out) == (code, "")
    assert "Traceback" not in ran.err
    if words is None:
        assert ran.err == ""
    else:
        assert words in ran.err
        assert len(ran.err.splitlines()) == 2


def test_debugging_shows_the_traceback(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = here.run("log", "nothing")
    assert "Traceback" not in ran.err
    monkeypatch.setenv("ERESTORE_DEBUG", "1")
    again = here.run("log", "nothing")
    assert (again.code, "Traceback" in again.err) == (3, True)
    assert again.err.endswith(ran.err)


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (("log", "tf"), 3, "Did you mean ft?"),
        (("checkout", "ft~7"), 3, "no revision 'ft~7'"),
        (("commit", "nothing"), 3, "no checkpoint at 'nothing'"),
        (("commit", "ft", "--name", "base"), 5, "is a base"),
        (("commit", "ft", "--name", "x", "--base", "nothing"), 3, "no base 'nothing'"),
        (("commit", "ft", "--name", "x", "--base", "ft"), 2, "is a variant"),
        (("commit", "ft", "--name", "v1", "--base", "base"), 5, "tag"),
        (("commit", "ft", "--name", "not a name"), 2, "cannot be a name"),
        (("branch", "no good", "ft"), 2, "cannot be a name"),
        (("frobnicate",), 2, "No such command"),
        (("log", "--frobnicate"), 2, "`erestore log --help`"),
        (("commit",), 2, "`erestore commit --help`"),
        (("commit", "ft", "--max-error", "7"), 2, "between"),
        (("commit", "ft", "--codec", "ere", "--exact"), 2, "decodes differently"),
        (("log", "-n", "-1"), 2, "-1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_requests(here: Here, arguments: tuple[str, ...], code: int, words: str) -> None:
    before = here.json("reflog")
    ran = here.run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("error: ")
    assert "\nhint: " in ran.err
    assert words in ran.err
    assert len(ran.err.splitlines()) == 2
    assert here.json("reflog") == before


def test_no_command_shows_the_help(here: Here) -> None:
    ran = here.run()
    assert ran.code == 2
    assert ran.err.startswith("Usage: erestore ")


@pytest.mark.parametrize(
    "marker", ['{"erestore":2,"id":"0","read":[],"write":[]}', '{"erestore":1,"id":"0","read":["x"],"write":[]}']
)
def test_a_newer_store(here: Here, marker: str) -> None:
    (here.directory / ".erestore" / "erestore.json").write_text(marker)
    ran = here.run("log")
    assert (ran.code, "Upgrade erestore" in ran.err) == (7, True)


def test_a_truncated_checkpoint(here: Here) -> None:
    weights = here.directory / "ft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ran = here.run("commit", "ft")
    assert ran.code == 9
    assert "model.safetensors" in ran.err


def test_a_pickle_with_code_is_refused_by_name(here: Here, tmp_path: Path) -> None:
    import torch

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("owned",))

    (tmp_path / "bad").mkdir()
    torch.save({"w": Code()}, tmp_path / "bad" / "pytorch_model.bin")
    ran = here.run("commit", tmp_path / "bad", "--base", "base")
    assert ran.code == 9
    assert "print" in ran.err
    assert "owned" not in ran.out + ran.err


def test_a_working_folder_that_was_deleted(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    ran = here.run("status")
    assert ran.code == 3
    assert ran.err == ("error: The current folder no longer exists.\nhint: Change to another folder, then repeat.\n")


def test_a_store_on_a_disk_that_is_not_mounted(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a store made through the link, nor is one further up taken for it."""
    below = here.directory / "below"
    below.mkdir()
    (below / ".erestore").symlink_to("../not-mounted/store")
    monkeypatch.chdir(below)
    for arguments in (("status",), ("commit", here.directory / "ft", "--base", here.directory / "base")):
        ran = here.run(*arguments)
        assert ran.code == 3
        assert "is a link to '../not-mounted/store', which does not exist." in ran.err
        assert "Mount the disk" in ran.err
    assert not (here.directory / "not-mounted").exists()
