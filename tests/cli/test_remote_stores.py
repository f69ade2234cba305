"""A store on S3 from the command line: the same commands, a cache, and a remote that is not safe."""

from __future__ import annotations

from typing import Any

import pytest
from commands import Here
from servers import Remote, s3_environment


def use(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    for name, value in s3_environment(options).items():
        monkeypatch.setenv(name, value)


@pytest.mark.s3
def test_the_same_commands_on_s3(empty: Here, moto_url: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = moto_url
    use(monkeypatch, options)
    missing = empty.run("--store", url, "commit", "ft", "--base", "base")
    assert (missing.code, url in missing.err) == (3, True)
    assert empty.json("init", url)["store"] == url
    monkeypatch.setenv("ERESTORE_STORE", url)
    assert empty.json("commit", "ft", "--base", "base", "--exact")["ref"] == "ft"
    assert empty.json("status")["store"] == url
    assert [entry["edge"] for entry in empty.json("log")] == ["adapted", "imported"]
    assert empty.run("checkout", "ft", "out").code == 0
    cache = empty.directory.parent / ".cache" / "erestore" / "remotes"
    assert any(path.is_file() for path in cache.rglob("*"))
    empty.run("config", "--user", "cache.limit_bytes", "0")
    monkeypatch.setenv("ERESTORE_CACHE_DIRECTORY", str(empty.directory / "elsewhere"))
    assert empty.run("checkout", "ft", "again").code == 0
    assert not (empty.directory / "elsewhere").exists()
    assert empty.run("undo").code == 0
    assert empty.json("branch") == []


@pytest.mark.s3
def test_an_unsafe_remote_needs_a_promise(empty: Here, rclone_url: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = rclone_url
    use(monkeypatch, options)
    refused = empty.run("init", url)
    assert (refused.code, "--single-writer" in refused.err) == (8, True)
    assert empty.run("init", url, "--single-writer").code == 0
    assert empty.run("--store", url, "log").code == 0
    assert empty.run("--store", url, "tag", "v1", "x").code == 8
    empty.run("config", "--user", "storage.single_writer", "true")
    assert empty.run("--store", url, "import", "base", "--name", "base").code == 0
    assert empty.run("--store", url, "tag", "v1", "base").code == 0


def test_a_remote_that_does_not_answer(empty: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9"})
    ran = empty.run("--store", "s3://bucket/store", "log")
    assert ran.code == 6
    assert len(ran.err.splitlines()) == 2
    assert empty.run("--store", "nonsense://x/y", "log").code == 2
