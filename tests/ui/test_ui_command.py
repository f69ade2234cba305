"""``erestore ui`` as a process: what it prints, whom it starts, and how it ends."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from erestore.api import Store

ROOT = Path(__file__).parents[2]
PROGRAM = """
import signal
from erestore.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with &
main()
"""


def environment(directory: Path, **more: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ERESTORE_")}
    return {**clean, "PYTHONPATH": str(ROOT), "HOME": str(directory), "XDG_CACHE_HOME": str(directory), **more}


@contextmanager
def running(store: Store, directory: Path, *options: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Start it with its output in pipes, and wait until the address is printed (the next line of its output)."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--store", store.url, "ui", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(directory, **more),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read(address: str) -> str:
    with urlopen(address, timeout=60) as answer:  # the token is all that is needed
        return answer.read().decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_serves_until_it_is_told_to_end(fleet: Store, tmp_path: Path, number: int, code: int) -> None:
    with running(fleet, tmp_path, "--no-browser") as process:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        assert "<title>" in read(address)
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.stdout.read() == ""
        assert process.stderr.read() == "Press Ctrl-C to stop.\n"


def test_it_ends_while_it_computes_and_while_somebody_listens(fleet: Store, tmp_path: Path) -> None:
    with running(fleet, tmp_path) as process:
        address = process.stdout.readline().strip()
        port = int(address.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(b"GET /")  # never finished
            read(f"{address}similarity")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "Press Ctrl-C to stop.\n"


def test_quiet_prints_the_address_alone(fleet: Store, tmp_path: Path) -> None:
    with running(fleet, tmp_path, "--quiet") as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=30), process.stderr.read()) == (130, "")


def test_a_port_that_is_taken(fleet: Store, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running(fleet, tmp_path, "--port", str(port)) as process:
            assert process.wait(timeout=60) == 5
            assert process.stdout.read() == ""
            error, hint = process.stderr.read().splitlines()
    assert error == f"error: Port {port} of this machine is already in use."
    assert hint.startswith("hint: Choose another --port")


def test_a_port_that_was_asked_for_and_again_at_once(fleet: Store, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for _ in range(2):
        with running(fleet, tmp_path, "--port", str(port)) as process:
            address = process.stdout.readline().strip()
            assert address.startswith(f"http://127.0.0.1:{port}/")
            read(address)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130


def test_no_store_and_no_library(fleet: Store, tmp_path: Path) -> None:
    nowhere = Store.__new__(Store)
    nowhere.url = str(tmp_path / "nothing")
    with running(nowhere, tmp_path) as process:
        assert process.wait(timeout=60) == 3
        assert "There is no store" in process.stderr.read()
    (tmp_path / "uvicorn.py").write_text("raise ImportError('gone', name='uvicorn')")
    with running(fleet, tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}") as process:
        assert process.wait(timeout=60) == 2
        assert (
            process.stderr.read()
            == "error: The page needs uvicorn, which is not installed.\nhint: pip install 'erestore[ui]'\n"
        )


def on_terminal(store: Store, directory: Path, *options: str) -> tuple[str, list[str]]:
    """Run it on a terminal with a browser that notes its arguments and opens them; return what was printed, and those."""
    notes, browser = directory / "notes", directory / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport sys, urllib.request\nanswer = urllib.request.urlopen(sys.argv[1])\n"
        f"open({str(notes)!r}, 'w').write(sys.argv[1] + ' ' + answer.url)\n"
    )
    browser.chmod(0o755)
    os.mkfifo(notes)
    noted = os.open(notes, os.O_RDONLY | os.O_NONBLOCK)
    outside, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--store", store.url, "ui", *options],
        stdin=inside,
        stdout=inside,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(directory, BROWSER=str(browser), TERM="xterm"),
    )
    os.close(inside)
    with process:
        try:
            address = ""
            while not address.endswith("\n"):
                address += os.read(outside, 4096).decode()
            read(address.strip())
            if not options:
                assert select.select([noted], [], [], 60)[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
            # Ends when nobody holds it any more: not before a browser that was started.
            assert process.stderr.read() == "Press Ctrl-C to stop.\n"
            return address.strip(), os.read(noted, 4096).decode().split()
        finally:
            process.kill()
            os.close(outside)
            os.close(noted)


def test_a_browser_is_opened_on_a_terminal_by_a_ticket(fleet: Store, tmp_path: Path) -> None:
    address, (asked, came_to) = on_terminal(fleet, tmp_path)
    assert came_to == address
    # All users of a machine can see what a browser was started with.
    assert address.split("/")[3] not in asked


def test_no_browser_is_opened_if_none_is_wanted(fleet: Store, tmp_path: Path) -> None:
    _, opened = on_terminal(fleet, tmp_path, "--no-browser")
    assert opened == []
