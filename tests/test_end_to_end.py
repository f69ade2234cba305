"""A store on S3 from the first command to the last; the cache of one machine never hides what another did."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import s3fs
import tiny
from servers import s3_environment

from erestore.cli.main import run


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Machine:
    """A user with a home directory of their own who works on one store."""

    def __init__(self, home: Path, url: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        home.mkdir()
        self.home, self.url, self.patch, self.capsys = home, url, patch, capsys

    def run(self, *arguments: str | Path) -> Ran:
        with self.patch.context() as here:
            here.chdir(self.home)
            here.setenv("HOME", str(self.home))
            here.setenv("ERESTORE_STORE", self.url)
            self.capsys.readouterr()
            code = run([str(argument) for argument in arguments])
            return Ran(code, *self.capsys.readouterr())

    def json(self, *arguments: str | Path) -> Any:
        ran = self.run(*arguments, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)


@pytest.fixture(params=["moto_url", "seaweed_url"])
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    url, options = request.getfixturevalue(request.param)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ERESTORE_CACHE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_environment(options).items():
        monkeypatch.setenv(name, value)
    return url, options


@pytest.mark.s3
def test_two_machines_share_a_store(remote, tmp_path, monkeypatch, capsys):
    url, options = remote
    here, there, newcomer = (Machine(tmp_path / name, url, monkeypatch, capsys) for name in ("here", "there", "new"))
    base = tiny.base_weights()
    tuned = tiny.tuned(base, 1)
    tiny.write_model(here.home / "base", base)
    tiny.write_model(here.home / "ft", tuned, "this")
    tiny.write_model(there.home / "ft", tiny.tuned(tuned, 2), "that")

    assert here.run("init", url).code == 0
    assert here.json("commit", "ft", "--base", "base", "--exact")["exact"] is True
    second = there.json("commit", "ft", "--exact")  # the next version, on what the other machine stored
    assert second["ref"] == "ft"
    assert [entry["edge"] for entry in here.json("log")] == ["versioned", "adapted", "imported"]
    assert here.run("checkout", "ft", "back").code == 0
    assert there.run("checkout", "ft~1", "back").code == 0
    for mine, theirs in ((here, there), (there, here)):
        assert tiny.same_tensors(tiny.weights_of(mine.home / "back"), tiny.weights_of(theirs.home / "ft"))
        for name in ("config.json", "notes.txt"):
            assert (mine.home / "back" / name).read_bytes() == (theirs.home / "ft" / name).read_bytes()
    assert there.json("fsck", "--read-data", "--deep")["corrupt"] == []
    assert here.json("gc", "--dry-run")["deleted_objects"] == 0

    damaged = damage_residual(url, options, here)
    found = there.run("fsck", "--read-data")
    assert (found.code, damaged in found.out + found.err) == (4, True)
    refused = newcomer.run("checkout", "ft")
    assert refused.code == 4
    assert refused.err.startswith("error: ")
    assert not (newcomer.home / "ft").exists()


def damage_residual(url: str, options: dict[str, Any], machine: Machine) -> str:
    """Flip the last bit of the newest residual on the server; return the start of its oid."""
    (oid,) = [term["residual"] for term in machine.json("show", "ft")["terms"] if term["own"]]
    files = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    (key,) = (key for key in files.find(url) if oid in key.replace("/", ""))
    content = bytearray(files.cat_file(key))
    content[-1] ^= 1
    files.pipe_file(key, bytes(content))
    return oid[:12]
