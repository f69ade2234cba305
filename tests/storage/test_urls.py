"""What is taken for the place of a store, and what is refused with the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erestore.errors import UnsupportedFormatError, UsageError
from erestore.storage.local import LocalStorage
from erestore.storage.open import open_storage
from erestore.storage.urls import parse_location


@pytest.mark.parametrize(
    ("url", "correct"),
    [
        ("s3:/bucket/x", "s3://bucket/x "),
        ("s3:bucket/x", "s3://bucket/x "),
        ("gs:/bucket", "gs://bucket "),
        ("memory:/x", "memory://x "),
        ("file:/srv/store", "file:///srv/store "),
        ("AZ:/container", "az://container "),
        (Path("s3://bucket/x"), "s3://bucket/x "),
        (os.path.normpath("s3://bucket/x"), "s3://bucket/x "),
        (Path("s3://bucket/x").absolute(), "s3://bucket/x "),
        ("s3:///bucket/x", "s3://bucket/x"),
        ("file://srv/store", "file:///srv/store"),
        ("s3://bucket/x?versionId=abc", "s3://bucket/x"),
        ("s3://bucket/x?a=b&c=d", "s3://bucket/x"),
        ("file:///srv/store?x", "file:///srv/store"),
        ("s3://bucket//x", "s3://bucket/x "),
        ("s3://bucket/a//b/", "s3://bucket/a/b "),
        ("gs://bucket/a/../b", "gs://bucket/b "),
        ("s3://bucket/./x", "s3://bucket/x "),
    ],
)
def test_a_url_that_is_not_one_of_a_place_is_refused_with_the_right_one(url: str | Path, correct: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_storage(url)
    assert correct in f"{caught.value.hint} "
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("url", ["sftp://u@h/x", "ssh://h/x", "webdav://h/x", "ftp://h/x", "https://h/x", "SFTP://h/x"])
def test_what_keeps_no_stores_yet_is_refused_by_name(url: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=url.partition(":")[0].lower()) as caught:
        open_storage(url)
    assert caught.value.exit_code == 7
    assert "single-writer" not in str(caught.value.hint)


@pytest.mark.parametrize("url", ["c:/models", "x:y", "a?b", "models/s3", "s3/bucket", "2024:01:01/run"])
def test_paths_are_paths(url: str) -> None:
    assert parse_location(url) == ("file", url)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("S3://Bucket/X", ("s3", "s3://Bucket/X")),
        ("Memory://Name", ("memory", "Name")),
        ("FILE:///srv/Store", ("file", "/srv/Store")),
    ],
)
def test_schemes_are_the_same_in_capitals(url: str, location: tuple[str, str]) -> None:
    assert parse_location(url) == location


def test_no_place_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="empty"):
        parse_location("")


def test_file_and_local_urls_are_paths(tmp_path: Path) -> None:
    for url in (tmp_path.as_uri(), f"local://{tmp_path}", f"file://localhost{tmp_path}"):
        storage = open_storage(url)
        assert isinstance(storage, LocalStorage)
        assert storage.directory == tmp_path
