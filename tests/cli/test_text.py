"""How quantities read."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

import click
import pytest

from erestore.cli.text import error_text, listed, matching_text, plural, printable, share_text, size_text, table
from erestore.report.json_values import json_text
from erestore.report.words import printable_line


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_501, "1.0 MB"),
        (2_940_000, "2.9 MB"),
        (26_700_000, "26.7 MB"),
        (1_420_000_000, "1.4 GB"),
        (3 * 10**18, "3000 PB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    "part, whole, text",
    [
        (2_940_000, 26_700_000, "2.9 MB, 11 % of 26.7 MB"),
        (99, 1000, "99 B, 9.9 % of 1.0 kB"),
        (5, 10_000, "5 B, 0.05 % of 10.0 kB"),
        (3000, 1000, "3.0 kB, 300 % of 1.0 kB"),
        (5, 0, "5 B"),
    ],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert share_text(part, whole) == text


def test_errors() -> None:
    assert error_text(0.00943, exact=False) == "relative error 0.0094"
    assert error_text(0.0, exact=False) == "relative error 0"
    assert error_text(0.5, exact=True) == "exact"
    assert error_text(None, exact=False) == "error not recorded"
    assert error_text(None, exact=False, bound=0.0123) == "relative error at most 0.012"
    assert error_text(None, exact=False, bound=1.0) == "relative error at most 1"
    assert error_text(None, exact=False, bound=59.0) == "no useful bound of the error"
    assert error_text(0.0, exact=True, lossy=0.0099) == "exact, relative error 0.0099 without the exact remainder"


def test_words() -> None:
    assert (plural(1, "entry", "entries"), plural(2000, "entry", "entries"), plural(0, "base")) == (
        "1 entry",
        "2,000 entries",
        "0 bases",
    )
    assert listed("abc") == "a, b, c"
    assert listed("abcde") == "a, b, c and 2 more"
    assert printable("a\x1b[31mb\x9b\tc\nd\r") == "a\ufffd[31mb\ufffd\tc\nd\ufffd"
    assert printable("layer\u202egnp.exe\u2069 \u05d0\u200f") == "layer\ufffdgnp.exe\ufffd \u05d0\u200f"
    assert printable_line("a\tb\nc\u202e") == "a\ufffdb\ufffdc\ufffd"


def test_tables_align_what_is_seen() -> None:
    rows = [[click.style("a", fg="red"), "1", "x"], ["bbb", "22", ""]]
    assert [click.unstyle(line) for line in table(rows, right=(1,), header=["n", "size", ""]).splitlines()] == [
        "n    size",
        "a       1  x",
        "bbb    22",
    ]
    assert table([]) == ""


@dataclass(frozen=True)
class Sample:
    when: datetime
    values: tuple[float, ...]
    names: dict[int, str]


def test_json() -> None:
    sample = Sample(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), (1.5, math.inf, math.nan), {1: "ä"})
    assert json.loads(json_text([sample])) == [
        {"when": "2026-01-02T03:04:05.000000Z", "values": [1.5, None, None], "names": {"1": "ä"}}
    ]
    assert "ä" in json_text(sample)


@pytest.mark.parametrize(
    ("matching", "words"),
    [
        ("'' → 'bert.'", "adding prefix 'bert.'"),
        ("'model.' → '', '_orig_mod.' → ''", "removing prefix 'model.', removing wrapper '_orig_mod.'"),
        ("'vision_tower.' → 'model.vision_tower.'", "replacing prefix 'vision_tower.' with 'model.vision_tower.'"),
    ],
)
def test_how_names_were_matched(matching: str, words: str) -> None:
    assert matching_text(matching) == words
