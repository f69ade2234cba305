"""What is particular to local disks: durability, strays, full and forbidden places, processes, other file systems."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from erestore.errors import AccessError, KeyNotFoundError, UnsafeRemoteError
from erestore.storage import publish
from erestore.storage.local import TEMPORARY, LocalStorage


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "store")


def files(storage):
    return sorted(path.name for path in storage.directory.rglob("*") if path.is_file())


def test_nothing_is_made_by_opening_or_reading(storage):
    assert not storage.exists("a")
    assert list(storage.list("objects/")) == []
    storage.delete("a")
    assert storage.remove_unfinished(0) == 0
    assert not storage.directory.exists()


def test_an_existing_value_becomes_young_again(storage):
    storage.create("objects/ab/cd", b"x")
    os.utime(storage.directory / "objects/ab/cd", (1000, 1000))
    assert not storage.create("objects/ab/cd", b"x")
    (entry,) = storage.list()
    assert entry.modified > 1_000_000


def test_a_directory_that_vanishes_is_made_again(storage):
    storage.create("objects/ab/one", b"1")
    storage.delete("objects/ab/one")
    (storage.directory / "objects/ab").rmdir()
    assert storage.create("objects/ab/two", b"2")


def test_a_directory_that_keeps_vanishing(storage):
    stop = threading.Event()
    storage.create("objects/ab/keep-the-root", b"")

    def remove():
        while not stop.is_set():
            for number in range(200):
                try:
                    (storage.directory / f"objects/{number}").rmdir()
                except OSError:
                    continue

    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(remove)
        try:
            assert all(storage.create(f"objects/{number}/x", b"x") for number in range(200))
        finally:
            stop.set()
        removing.result(60)


def stop_writing():
    yield b"half"
    raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing(storage):
    with pytest.raises(KeyboardInterrupt):
        storage.create("a/b", stop_writing())
    assert files(storage) == []


def test_strays_are_not_values_and_are_removed_when_told(storage):
    storage.create("objects/ab/cd", b"x")
    stray = storage.directory / "objects/ab" / f"{TEMPORARY}123"
    stray.write_bytes(b"half")
    os.utime(stray, (1000, 1000))
    (storage.directory / "some notes.txt").write_text("by a person")
    assert [entry.key for entry in storage.list()] == ["objects/ab/cd"]
    assert storage.remove_unfinished(999) == 0
    assert storage.remove_unfinished(1001) == 1
    assert files(storage) == ["cd", "some notes.txt"]


FULL = """
import resource, signal, sys
from erestore.errors import AccessError
from erestore.storage.local import LocalStorage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    LocalStorage(sys.argv[1]).create("objects/a", iter([bytes(800)] * 3))
except AccessError as error:
    sys.exit(f"{error.exit_code} {error.message} {error.hint}")
"""


def test_a_full_disk(storage):
    """A limit on file sizes makes the system refuse the write in the middle, as a full disk does."""
    command = [sys.executable, "-c", FULL, str(storage.directory)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stderr.startswith("10 There is no space left to write")
    assert "objects/a" in done.stderr
    assert files(storage) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "mkdir"])
def test_every_refused_call_is_reported_and_leaves_nothing(storage, monkeypatch, call, number):
    storage.create("first", b"1")

    def refuse(*_args, **_keywords):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(AccessError, match="objects/ab/cd") as caught:
            storage.create("objects/ab/cd", b"value")
    assert caught.value.hint
    assert files(storage) == ["first"]
    assert storage.create("objects/ab/cd", b"value")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(storage):
    storage.create("a", b"")
    storage.directory.chmod(0o555)
    try:
        with pytest.raises(AccessError, match="permission"):
            storage.create("b", b"")
        assert not storage.create("a", b"")
    finally:
        storage.directory.chmod(0o755)


def test_a_file_where_the_store_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    storage = LocalStorage(tmp_path / "file")
    with pytest.raises(AccessError, match="file"):
        storage.create("a", b"")
    assert list(storage.list()) == []
    with pytest.raises(KeyNotFoundError):
        storage.read("a")


def write_in_process(directory, keys, body):
    storage = LocalStorage(directory)
    return [storage.create(key, body) for key in keys]


def race_processes(directory, writers, rounds):
    keys = [f"race/{number % 7}/{number}" for number in range(rounds)]
    bodies = [bytes([writer]) * 5000 for writer in range(writers)]
    with ProcessPoolExecutor(writers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(write_in_process, directory, keys, body) for body in bodies]
        won = [job.result(300) for job in jobs]
    storage = LocalStorage(directory)
    for number, key in enumerate(keys):
        winners = [writer for writer in range(writers) if won[writer][number]]
        assert len(winners) == 1
        assert storage.read(key) == bodies[winners[0]]
    assert len(files(storage)) == rounds


def test_one_of_many_processes_wins(tmp_path):
    race_processes(tmp_path / "store", 4, 100)


@pytest.mark.soak
def test_one_of_many_processes_wins_for_long(tmp_path):
    race_processes(tmp_path / "store", 16, 2000)


def no_links(*_args, **_keywords):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_without_hard_links_a_rename_does_it(storage, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    assert storage.create("a", b"one")
    assert not storage.create("a", b"two")
    start = threading.Barrier(8)

    def write(racer):
        start.wait()
        return storage.create("race", bytes([racer]))

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert storage.read("race") == bytes([won.index(True)])
    assert files(storage) == ["a", "race"]
    assert not publish._rename_without_replacing(storage.directory / "a", storage.directory / "race")


def test_without_either_the_place_is_refused(storage, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)

    class NoCalls:
        pass

    monkeypatch.setattr(publish.ctypes, "CDLL", lambda *_args, **_keywords: NoCalls())
    with pytest.raises(UnsafeRemoteError, match="hard links"):
        storage.create("a", b"one")
    assert files(storage) == []


def test_our_own_link_reported_as_a_strangers(storage, monkeypatch):
    """NFS may repeat a request whose answer was lost."""
    link = os.link

    def link_twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    assert storage.create("a", b"one")


def test_every_write_is_flushed_before_and_after_it_is_named(storage, monkeypatch):
    calls = []
    link, fsync = os.link, os.fsync
    monkeypatch.setattr(os, "link", lambda *a: (calls.append("link"), link(*a)))

    def record(descriptor):
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    storage.create("objects/ab/cd", b"x")
    directory = storage.directory.resolve()
    named = calls.index("link")
    assert TEMPORARY in calls[named - 1]
    assert calls[named + 1 :] == [str(directory / "objects/ab")]
    # every directory on the way was made by us, so its own name is flushed too
    assert set(calls[: named - 1]) == {str(directory.parent), str(directory), str(directory / "objects")}


def test_a_path_or_a_file_url(tmp_path):
    from erestore.storage.open import open_storage

    open_storage(str(tmp_path / "with space")).create("a", b"1")
    assert open_storage((tmp_path / "with space").as_uri()).read("a") == b"1"
    assert isinstance(open_storage(Path("x")), LocalStorage)


def test_only_what_the_store_made_is_removed(storage):
    storage.create("objects/ab/cd", b"x")
    own = ["objects/ff", "gc/leases/writer-0123456789abcdef", f"calibrations/{'a' * 64}"]
    others = ["runs/exp1/logs", "objects/notes", "refs/papers", "config/models", "gc", "data", "features/x", "probe/y"]
    for folder in (*own, *others):
        (storage.directory / folder).mkdir(parents=True, exist_ok=True)
    for name in (f"{TEMPORARY}ideas.txt", f"runs/{TEMPORARY}0123456789abcdef", f"config/{TEMPORARY}draft"):
        (storage.directory / name).write_text("by a person")
    assert storage.remove_unfinished(2**40) == 0
    assert not any((storage.directory / folder).exists() for folder in own)
    assert all((storage.directory / folder).is_dir() for folder in others)
    assert len(files(storage)) == 4


def test_links_that_lead_in_circles_are_not_followed_for_ever(storage):
    storage.create("config/1", b"x")
    (storage.directory / "disk").mkdir()
    (storage.directory / "disk/2").write_bytes(b"y")
    for link, target in {"config/loop": ".", "config/a": "../disk", "disk/b": "../config", "objects": "disk"}.items():
        (storage.directory / link).symlink_to(target)
    assert sorted(entry.key for entry in storage.list("config/")) == ["config/1", "config/a/2", "config/loop/1"]
    assert sorted(entry.key for entry in storage.list("objects/")) == ["objects/2", "objects/b/1"]
