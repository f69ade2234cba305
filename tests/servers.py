"""S3 servers that the tests start themselves, on free loopback ports, each once per session.

A fixture gives ``(url, options)``: a URL below which nothing is yet, and what s3fs needs to reach the server. In the
environment the same is said by AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: see `s3_environment`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY, SECRET_KEY = "erestore-test", "erestore-test-secret"
BUCKET = "erestore"
READY_SECONDS = 60

Remote = tuple[str, dict[str, Any]]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def find_program(name: str) -> str:
    """Find a program of this Python environment, whether or not the environment is on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    program = str(beside) if beside.exists() else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed (pip install 'erestore[test]')")
    return program


@contextlib.contextmanager
def running(command: list[str], port: int, directory: Path) -> Iterator[dict[str, Any]]:
    """Run an S3 server until the block ends; one that is installed and does not come up fails the test."""
    log = directory / "server.log"
    options = {"key": ACCESS_KEY, "secret": SECRET_KEY, "endpoint_url": f"http://127.0.0.1:{port}"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
    try:
        if not made_bucket(options, process):
            pytest.fail(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
        yield options
    finally:
        process.kill()  # its data is thrown away: nothing gains from a graceful end
        process.wait()


def made_bucket(options: dict[str, Any], process: subprocess.Popen[bytes]) -> bool:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    client = Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=options["endpoint_url"],
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + READY_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.create_bucket(Bucket=BUCKET)
                # A server may make buckets before it can store anything.
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
            else:
                return True
        return False
    finally:
        client.close()


# moto looks and then writes without a lock; answering one request at a time makes that atomic, as S3 is.
MOTO = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    pytest.importorskip("moto.server")
    (port,) = free_ports(1)
    with running([sys.executable, "-c", MOTO, str(port)], port, tmp_path_factory.mktemp("moto")) as options:
        yield options


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as options:
        yield options


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[dict[str, Any]]:
    """Run a SeaweedFS server with its data in `directory` until the block ends."""
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"]
    names += ["filer.port.grpc", "s3.port", "s3.port.grpc"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [find_program("weed"), "server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-filer", "-s3", "-s3.config=s3.json", "-master.volumeSizeLimitMB=256", "-volume.max=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # their ports are fixed, and another worker has a server too
    command += [f"-{name}={port}" for name, port in ports.items()]
    with running(command, ports["s3.port"], directory) as options:
        yield options


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A server that ignores the condition of an exclusive creation and answers that all is well."""
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "data").mkdir()
    (port,) = free_ports(1)
    command = [find_program("rclone"), "serve", "s3", "data", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", "none.conf"]
    with running(command, port, directory) as options:
        yield options


def fresh_url() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def moto_url(moto_server: dict[str, Any]) -> Remote:
    return fresh_url(), moto_server


@pytest.fixture
def seaweed_url(seaweed_server: dict[str, Any]) -> Remote:
    return fresh_url(), seaweed_server


@pytest.fixture
def rclone_url(rclone_server: dict[str, Any]) -> Remote:
    return fresh_url(), rclone_server


def s3_environment(options: dict[str, Any]) -> dict[str, str]:
    """Say in environment variables how to reach a server."""
    return {
        "AWS_ACCESS_KEY_ID": options["key"],
        "AWS_SECRET_ACCESS_KEY": options["secret"],
        "AWS_ENDPOINT_URL": options["endpoint_url"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
