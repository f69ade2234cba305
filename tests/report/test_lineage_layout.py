"""Where commits are drawn: generations against longest paths by brute force, lanes by what they promise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import networkx as nx
import pytest

from erestore.report.lineage import lay_out, name_of

START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    """As much of a log's entry as the layout looks at."""

    commit: str
    parents: tuple[str, ...] = ()
    edge: str = "adapted"
    refs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    minutes: int = 0
    author: str = ""
    message: str = ""
    stored_bytes: int = 1
    original_bytes: int = 1
    relative_error: float | None = None
    exact: bool = False
    error_bound: float | None = None
    lossy_error: float | None = None
    metrics: dict[str, str] = field(default_factory=dict)

    @property
    def time(self) -> datetime:
        return START + timedelta(minutes=self.minutes)


def chain(*entries: Made) -> list[Made]:
    return [Made(**{**vars(entry), "minutes": number}) for number, entry in enumerate(entries)]


def lanes(entries: Sequence[Made]) -> dict[str, int]:
    return {oid: place.lane for oid, place in lay_out(entries).items()}


@pytest.mark.parametrize("seed", range(20))
def test_generations_are_longest_paths(seed: int) -> None:
    draw, entries = random.Random(seed), [Made("0", edge="imported")]
    for number in range(1, 60):
        parents = draw.sample(entries, min(len(entries), draw.randint(0, 3)))
        entries.append(Made(str(number), tuple(each.commit for each in parents), minutes=draw.randint(0, 99)))
    draw.shuffle(entries)
    places = lay_out(entries)
    graph = nx.DiGraph((parent, entry.commit) for entry in entries for parent in entry.parents)
    graph.add_nodes_from(entry.commit for entry in entries)
    for oid, place in places.items():
        above = graph.subgraph({oid, *nx.ancestors(graph, oid)})
        assert place.generation == nx.dag_longest_path_length(above)
    by_oid = {entry.commit: entry for entry in entries}
    for oid, place in places.items():
        root = oid
        while by_oid[root].parents:
            root = by_oid[root].parents[0]
        assert place.root == root


@pytest.mark.parametrize("seed", range(20))
def test_what_goes_back_to_a_commit_lies_around_it(seed: int) -> None:
    """Lanes of all that goes back to where a lane begins are neighbours, and no two commits share a place."""
    draw, entries = random.Random(seed), [Made("0", edge="imported")]
    for number in range(1, 80):
        parent = draw.choice(entries)
        edge = draw.choice(["adapted", "versioned", "merged", "reverted"])
        refs = (f"b{number}",) if draw.random() < 0.5 else ()
        entries.append(Made(str(number), (parent.commit,), edge, refs, minutes=number))
    places = lay_out(entries)
    graph = nx.DiGraph((entry.parents[0], entry.commit) for entry in entries if entry.parents)
    assert {place.lane for place in places.values()} == set(range(1 + max(lanes(entries).values())))
    assert len({(place.generation, place.lane) for place in places.values()}) == len(places)
    parents = {entry.commit: entry.parents[0] for entry in entries if entry.parents}
    begins = [oid for oid in places if oid not in parents or places[parents[oid]].lane != places[oid].lane]
    assert len(begins) == 1 + max(lanes(entries).values())
    for oid in begins:
        around = sorted({places[each].lane for each in {oid, *nx.descendants(graph, oid)}})
        assert around == list(range(around[0], around[-1] + 1))


@pytest.mark.parametrize("seed", range(20))
def test_a_line_up_or_down_from_a_commit_meets_no_other(seed: int) -> None:
    draw, entries = random.Random(seed), [Made("0", edge="imported")]
    for number in range(1, 80):
        parent = draw.choice(entries[-6:])
        edge = draw.choice(["adapted", "versioned", "versioned"])
        entries.append(Made(str(number), (parent.commit,), edge, minutes=number))
    places = lay_out(entries)
    for entry in entries[1:]:
        parent, own = places[entry.parents[0]], places[entry.commit]
        between = range(min(parent.lane, own.lane) + 1, max(parent.lane, own.lane))
        met = [each for each in places.values() if each.generation == parent.generation and each.lane in between]
        assert met == []


def test_versions_of_a_branch_share_a_lane_and_a_child_gets_its_own() -> None:
    found = lanes(
        chain(
            Made("base", edge="imported", refs=("base",)),
            Made("v1", ("base",)),
            Made("v2", ("v1",), "versioned"),
            Made("v3", ("v2",), "reverted", refs=("task",)),
            Made("child", ("v3",), refs=("child",)),
            Made("picked", ("v3",), "picked", refs=("other",)),
        )
    )
    assert found["v1"] == found["v2"] == found["v3"]
    assert len(set(found.values())) == 4  # a branch that still points to the parent is not continued by another


def test_a_tag_ends_no_branch() -> None:
    found = lanes(
        chain(
            Made("base", edge="imported"),
            Made("v1", ("base",), refs=("v1.0",), tags=("v1.0",)),
            Made("v2", ("v1",), "versioned"),
        )
    )
    assert found["v1"] == found["v2"]


def test_a_base_is_in_the_middle_of_its_variants() -> None:
    found = lanes(chain(Made("base", edge="imported"), *(Made(str(number), ("base",)) for number in range(100))))
    assert found["base"] == 50
    down = [oid for oid, _ in sorted(found.items(), key=lambda each: each[1])]
    assert down == [*map(str, range(50)), "base", *map(str, range(50, 100))]


def test_part_of_a_lineage_has_no_root_unless_it_is_there() -> None:
    places = lay_out(chain(Made("v2", ("v1",), "versioned"), Made("v3", ("v2",), "versioned")))
    assert {place.root for place in places.values()} == {None}
    assert [places[oid].generation for oid in ("v2", "v3")] == [0, 1]
    assert lay_out([]) == {}


def test_a_long_chain_needs_no_deep_stack() -> None:
    entries = chain(Made("0", edge="imported"), *(Made(str(number), (str(number - 1),)) for number in range(1, 5000)))
    assert lay_out(entries)["4999"].generation == 4999


def test_a_commit_is_called_by_its_branch_then_its_tag_then_its_oid() -> None:
    assert name_of(Made("0" * 64, refs=("a-tag", "branch"), tags=("a-tag",))) == "branch"
    assert name_of(Made("0" * 64, refs=("a-tag",), tags=("a-tag",))) == "a-tag"
    assert name_of(Made("0" * 64)) == "0" * 12
