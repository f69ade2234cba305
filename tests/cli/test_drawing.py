"""The drawing of lineages."""

from __future__ import annotations

import random

import click
import pytest

from erestore.cli.lineage_graph import draw

DRAWINGS = {
    "chain": (
        "c b, b a, a",
        """
        * c
        * b
        * a
        """,
    ),
    "fork": (
        "c a, b a, a",
        """
        * c
        | * b
        |/
        * a
        """,
    ),
    "merge": (
        "m a b, b r, a r, r",
        """
        *  m
        |\\
        | * b
        * | a
        |/
        * r
        """,
    ),
    "merge of what is drawn already": (
        "x b, m a b, b a, a",
        """
        * x
        | *  m
        | |\\
        | |/
        |/|
        * | b
        |/
        * a
        """,
    ),
    "octopus": (
        "m a b c, c r, b r, a r, r",
        """
        *    m
        |\\
        | |\\
        | | * c
        | * | b
        | |/
        * | a
        |/
        * r
        """,
    ),
    "crossing": (
        "e a, d c b, c a, b a, a",
        """
        * e
        | *  d
        | |\\
        | * | c
        |/ /
        | * b
        |/
        * a
        """,
    ),
    "far": (
        "d r, c z, b y, a r, z, y, r",
        """
        * d
        | * c
        | | * b
        | | | * a
        | |_|/
        |/| |
        | * | z
        |  /
        | * y
        * r
        """,
    ),
    "roots side by side": (
        "a, b",
        """
        * a
        * b
        """,
    ),
    "parent that does not come": (
        "b a",
        """
        * b
        """,
    ),
}


def commits(text: str) -> list[tuple[str, list[str], list[str]]]:
    words = [each.split() for each in text.split(", ")]
    return [(oid, parents, [oid]) for oid, *parents in words]


@pytest.mark.parametrize("lineage, drawing", DRAWINGS.values(), ids=DRAWINGS)
def test_drawing(lineage: str, drawing: str) -> None:
    expected = [line.removeprefix(" " * 8) for line in drawing.splitlines()[1:-1]]
    assert [click.unstyle(line) for line in draw(commits(lineage))] == expected


def test_text_stands_beside_all_of_its_rows() -> None:
    lines = [click.unstyle(line) for line in draw([("m", ["a", "b"], ["one", "", "three"]), ("a", [], ["four"])])]
    assert lines == ["*   one", "|\\", "| | three", "* | four", " /"]


def test_random_lineages_are_drawn_whole() -> None:
    chance = random.Random(5)
    for _ in range(300):
        count = chance.randint(1, 12)
        lineage = [
            (
                str(i),
                [str(p) for p in chance.sample(range(i + 1, count), min(chance.randint(0, 3), count - i - 1))],
                [f"<{i}>"],
            )
            for i in range(count)
        ]
        lines = [click.unstyle(line) for line in draw(lineage)]
        nodes = [line for line in lines if "*" in line]
        assert [line.split("<")[1] for line in nodes] == [f"{i}>" for i in range(count)]
        assert all(line.count("*") == 1 for line in nodes)
        assert all(set(line.partition("<")[0]) <= set("*|/\\_ ") for line in lines)
