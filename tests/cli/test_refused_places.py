"""Places that a store cannot be at, on the command line."""

from __future__ import annotations

import pytest
from commands import Here


@pytest.mark.parametrize(
    ("url", "code", "word"),
    [
        ("s3:/bucket/models", 2, "s3://bucket/models"),
        ("s3://bucket/models?versionId=3", 2, "s3://bucket/models"),
        ("", 2, "empty"),
        ("memory://x", 2, "gone when it ends"),
        ("sftp://user@host/store", 7, "sftp://"),
        ("webdav://host/store", 7, "webdav://"),
    ],
)
def test_no_store_is_made_or_looked_for_there(empty: Here, url: str, code: int, word: str) -> None:
    before = sorted(empty.directory.iterdir())
    for arguments in (["init", url], ["--store", url, "log"], ["--store", url, "commit", "ft", "--base", "base"]):
        ran = empty.run(*arguments)
        assert (ran.code, word in ran.err, ran.out) == (code, True, "")
    assert empty.run("--single-writer", "init", url).code == code
    assert sorted(empty.directory.iterdir()) == before


def test_a_local_url_is_a_folder(empty: Here) -> None:
    url = f"local://{empty.directory}/there"
    assert empty.run("init", url).code == 0
    assert empty.run("--store", empty.directory / "there", "import", "base", "--name", "base").code == 0
    assert [branch["name"] for branch in empty.json("--store", url, "branch")] == ["base"]
    assert empty.run("init", url).code == 5


def test_gc_in_a_working_folder_leaves_the_work_alone(empty: Here) -> None:
    (empty.directory / "work").mkdir()
    assert empty.run("init", "work").code == 0
    assert empty.run("--store", "work", "import", "base", "--name", "base").code == 0
    (empty.directory / "work/runs/exp1/logs").mkdir(parents=True)
    (empty.directory / "work/#new-ideas.txt").write_text("text")
    assert empty.run("--store", "work", "gc", "--grace-days", "0").code == 0
    assert (empty.directory / "work/runs/exp1/logs").is_dir()
    assert (empty.directory / "work/#new-ideas.txt").is_file()
