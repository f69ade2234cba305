"""Whole processes: killed at any moment, racing for one branch, on disks that are full or read-only."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import programs
import pytest
import tiny

from erestore.ops.commit import commit
from erestore.ops.fsck import fsck
from erestore.ops.gc import gc
from erestore.ops.import_base import import_base
from erestore.store import Store

NO_SPACE_OR_PERMISSION = 10
CONFLICT = 5


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ERESTORE_STORE", raising=False)


@pytest.fixture
def place(tmp_path: Path, models: Path) -> Path:
    """A store on the disk that holds the base and one version."""
    store = Store.init(tmp_path / "store")
    import_base(store, models / "base", name="base")
    commit(store, models / "two", base="base", name="ft")
    return tmp_path / "store"


def check(place: Path, acknowledged: list[str]) -> None:
    store = Store.open(place)
    log = [entry.oid for entry in store.refs.log("ft")]
    assert set(acknowledged) <= set(log)
    assert len(log) == len(set(log))
    for commit_oid, parent in itertools.pairwise(log):
        assert commit_oid
        assert store.commit_record(commit_oid).parents == (parent,)
    found = fsck(store, deep=True)
    assert found.clean, found


def clean_up(place: Path) -> None:
    """Collect what killed programs left, an hour later."""
    store = Store.open(place)
    tiny.make_older(store.storage, 3700, "gc/leases/")
    for stray in place.rglob("#*"):
        os.utime(stray, (0, 0))
    assert gc(store, grace_days=0).waiting is None
    found = fsck(store, deep=True)
    assert found.clean, found
    assert found.unreachable == ()
    assert not list(place.rglob("#*"))


def wait_for(ready: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < limit
        time.sleep(0.01)


def kill_at_random(place: Path, models: Path, acknowledged: Path, times: int) -> None:
    moments = random.Random(times)
    acknowledged.touch()
    for _ in range(times):
        before = acknowledged.stat().st_size
        program = programs.context().Process(target=programs.commit_for_ever, args=(place, models, acknowledged))
        program.start()
        wait_for(lambda before=before: acknowledged.stat().st_size > before)
        time.sleep(moments.uniform(0, 0.3))
        assert program.pid
        os.kill(program.pid, signal.SIGKILL)
        program.join()
        check(place, [json.loads(line) for line in acknowledged.read_text().splitlines()])
        clean_up(place)


def test_killed_at_random_moments(place: Path, models: Path, tmp_path: Path) -> None:
    kill_at_random(place, models, tmp_path / "acknowledged", 5)


@pytest.mark.soak
def test_killed_at_many_random_moments(place: Path, models: Path, tmp_path: Path) -> None:
    for turn in range(10):
        shutil.copytree(place, tmp_path / f"store-{turn}")
        kill_at_random(tmp_path / f"store-{turn}", models, tmp_path / f"acknowledged-{turn}", 10)


def one_command(place: Path, models: Path, moments: Iterator[float]) -> None:
    """Start the real command, and kill it after a while."""
    before = [entry.oid for entry in Store.open(place).refs.log("ft")]
    model = models / ("one" if len(before) % 2 else "two")  # what the branch holds already would not be committed again
    arguments = [sys.executable, "-m", "erestore", "--store", str(place), "commit", str(model), "--name", "ft"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        try:
            program.wait(next(moments))
        except subprocess.TimeoutExpired:
            program.kill()
        output = program.stdout.read() if program.stdout else b""
    after = [entry.oid for entry in Store.open(place).refs.log("ft")]
    assert after[-len(before) :] == before
    assert len(after) <= len(before) + 1
    assert not output or len(after) == len(before) + 1
    check(place, [oid for oid in before if oid])


def test_a_real_command_is_killed(place: Path, models: Path) -> None:
    one_command(place, models, iter([2.0]))
    clean_up(place)


@pytest.mark.soak
def test_real_commands_are_killed(place: Path, models: Path) -> None:
    moments = random.Random(0)
    for _ in range(40):
        one_command(place, models, iter([moments.uniform(0.5, 4)]))
    clean_up(place)


def race(place: Path, tmp_path: Path, writers: int, attempts: int) -> None:
    server = programs.context()
    start = server.Barrier(writers)
    results = [tmp_path / f"result-{number}" for number in range(writers)]
    processes = []
    for number, result in enumerate(results):
        models = [
            tiny.write_model(
                tmp_path / f"model-{number}-{turn}", tiny.tuned(tiny.base_weights(), 100 + 2 * number + turn)
            )
            for turn in range(2)  # what has not changed since its own last version is not committed again
        ]
        processes.append(server.Process(target=programs.race, args=(place, models, attempts, start, result)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    answers = [tuple(answer) for result in results for answer in json.loads(result.read_text())]
    assert {code for code, _ in answers} <= {0, CONFLICT}
    acknowledged = [oid for code, oid in answers if code == 0]
    assert attempts <= len(acknowledged) == len(set(acknowledged))
    check(place, acknowledged)
    assert len(list(Store.open(place).refs.log("ft"))) == len(acknowledged) + 1


def test_eight_writers_race_for_one_branch(place: Path, tmp_path: Path) -> None:
    race(place, tmp_path, 8, 2)


@pytest.mark.soak
def test_writers_race_for_one_branch_for_long(place: Path, tmp_path: Path) -> None:
    race(place, tmp_path, 8, 40)


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """Mount a small file system in memory."""
    place.mkdir()
    arguments = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if (
        not hasattr(os, "geteuid")
        or os.geteuid()
        or subprocess.run(arguments, check=False, capture_output=True).returncode
    ):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def keys_and_content(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and "/gc/leases/" not in str(path)
    }


def fill_up(tmp_path: Path, models: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a history of verbs on file systems of many sizes; return how often there was no space left."""
    refused = 0
    for number, option in enumerate(options):
        with mounted(tmp_path / f"disk-{number}", option) as disk:
            place = disk / "store"
            code, _ = programs.command("init", place)
            if code:
                assert code == NO_SPACE_OR_PERMISSION
                refused += 1
                continue
            verbs = [
                ["import", models / "base", "--name", "base"],
                ["commit", models / "one", "--base", "base", "--name", "ft"],
                ["commit", models / "two", "--name", "ft", "--exact"],
                ["branch", "other", "ft~1"],
                ["gc"],
            ]
            for verb in verbs:
                before = {entry.name: entry.oid for entry in Store.open(place).refs.all().values()}
                code, _ = programs.command("--store", place, *verb)
                if code == 0:
                    continue
                refused += 1
                error = capsys.readouterr().err
                assert code == NO_SPACE_OR_PERMISSION, error
                assert "no space left" in error.lower()
                assert "Traceback" not in error
                assert not list(place.rglob("#*"))
                store = Store.open(place)
                assert {entry.name: entry.oid for entry in store.refs.all().values()} == before
                found = fsck(store, deep=True)
                assert found.clean, found
                remount(disk, "size=4m,nr_inodes=4000")
                assert programs.command("--store", place, *verb)[0] == 0
            remount(disk, "size=4m,nr_inodes=4000")
            store = Store.open(place)
            tiny.make_older(store.storage, 3700, "gc/leases/")
            assert gc(store, grace_days=0).waiting is None
            found = fsck(store, deep=True)
            assert found.clean, found
            assert found.unreachable == ()
            assert tiny.same_tensors(tiny.tensors_of(store, "ft"), tiny.weights_of(models / "two"))
    return refused


def test_a_full_disk(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [f"size={kilobytes}k" for kilobytes in (4, 28, 60, 84, 92, 100, 116, 140, 156, 180)]
    inodes = [f"size=1m,nr_inodes={number}" for number in (3, 12, 24, 36, 44, 60)]
    assert fill_up(tmp_path, models, [*sizes, *inodes], capsys) > 8


@pytest.mark.soak
def test_disks_of_every_size(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [f"size={kilobytes}k" for kilobytes in range(4, 260, 4)]
    inodes = [f"size=1m,nr_inodes={number}" for number in range(3, 90)]
    fill_up(tmp_path, models, [*sizes, *inodes], capsys)


def test_a_read_only_file_system(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        place = disk / "store"
        store = Store.init(place)
        import_base(store, models / "base", name="base")
        commit(store, models / "one", base="base", name="ft", quality=tiny.EXACT)
        store.objects.put_blob(b"left over")
        before = keys_and_content(place)
        remount(disk, "ro")
        for verb in (
            ["import", models / "base", "--name", "other"],
            ["commit", models / "two", "--name", "ft"],
            ["branch", "other", "ft"],
            ["tag", "v1", "ft"],
            ["gc", "--grace-days", "0"],
            ["undo"],
            ["branch", "-d", "ft"],
            ["config", "gc.grace_days", "3"],
        ):
            code, _ = programs.command("--store", place, *verb)
            error = capsys.readouterr().err
            assert code == NO_SPACE_OR_PERMISSION, (verb, error)
            assert "read-only" in error
            assert "Traceback" not in error
        code, _ = programs.command("init", disk / "second")
        assert code == NO_SPACE_OR_PERMISSION
        for verb in (["log"], ["fsck", "--deep"], ["gc", "--dry-run"], ["checkout", "ft", tmp_path / "out"]):
            code, _ = programs.command("--store", place, *verb)
            assert code == 0, capsys.readouterr().err
        assert tiny.same_tensors(tiny.weights_of(tmp_path / "out"), tiny.weights_of(models / "one"))
        assert keys_and_content(place) == before
