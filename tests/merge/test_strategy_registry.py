"""The list of strategies, their parameters as text and their records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction

import pytest

from erestore.errors import CorruptionError, UnsupportedFormatError, UsageError
from erestore.merge import configuration, registry
from erestore.merge.dare import Dare
from erestore.merge.registry import strategy, strategy_of
from erestore.merge.ties import Ties


def test_names_kinds_and_what_they_need():
    found = {name: strategy(name, {}) for name in registry.BUILT_IN}
    assert all(each.name == name for name, each in found.items())
    kinds = {name: each.kind for name, each in found.items()}
    assert {name for name, kind in kinds.items() if kind == "elementwise"} == {"ties", "dare", "fisher"}
    assert {name for name, kind in kinds.items() if kind == "factors"} == {
        "regmean",
        "tsv",
        "knots",
        "iso-c",
        "core-space",
    }
    assert len(kinds) == 14
    assert {name: each.needs for name, each in found.items() if each.needs} == {
        "fisher": "fisher",
        "regmean": "moments",
    }
    assert strategy("ties", {"space": "core"}).kind == strategy("dare", {"space": "core"}).kind == "factors"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in registry.BUILT_IN),
        ("ties", {"density": "0.3", "elect": "frequency", "combine": "sum", "scale": "1/3", "space": "core"}),
        ("dare", {"merge_by": "ties", "seed": "7", "density": "1/3"}),
        ("knots", {"inner": "dare", "merge_by": "ties", "seed": "3"}),
        ("core-space", {"inner": "iso-c", "scale": "2"}),
        ("ema", {"decay": "0.5"}),
    ],
)
def test_a_record_of_json_without_floats_brings_the_strategy_back(name, options):
    made = strategy(name, options)
    text = json.dumps(made.to_record())
    assert not any(isinstance(value, float) for value in made.configuration().values())
    assert strategy_of(json.loads(text)) == made
    assert set(made.to_record()) == {"name", "configuration"}


def test_text_is_read_exactly():
    assert strategy("ties", {"density": "0.1"}) == Ties(density=Fraction(1, 10))
    assert strategy("dare", {"seed": "12"}).configuration()["seed"] == 12


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("tie", {}, "There is no strategy 'tie'."),
        ("acme.tie", {}, "There is no strategy 'acme.tie'."),
        ("ties", {"lambda": "1"}, "ties has no parameter 'lambda'."),
        ("model-stock", {"t": "1"}, "model-stock has no parameter 't'."),
        ("ties", {"density": "much"}, "'much' is not a number for density."),
        ("ties", {"density": True}, "'True' is not a number for density."),
        ("ties", {"density": "0"}, "A density of 0 is out of range."),
        ("ties", {"density": "1.5"}, "A density of 3/2 is out of range."),
        ("ties", {"elect": "most"}, "'most' is not a value for elect."),
        ("ties", {"elect": 3}, "'3' is not a word for elect."),
        ("ties", {"combine": "max"}, "'max' is not a value for combine."),
        ("ties", {"space": "null"}, "'null' is not a value for space."),
        ("dare", {"density": "-1/2"}, "A density of -1/2 is out of range."),
        ("dare", {"merge_by": "mean"}, "'mean' is not a value for merge_by."),
        ("dare", {"seed": "-1"}, "A seed of -1 is negative."),
        ("dare", {"seed": "0.5"}, "'0.5' is not a whole number for seed."),
        ("fisher", {"floor": "0"}, "A floor of 0 is not positive."),
        ("regmean", {"alpha": "2"}, "An alpha of 2 is not between 0 and 1."),
        ("knots", {"inner": "tsv"}, "knots cannot merge by 'tsv'."),
        ("core-space", {"inner": "slerp"}, "core-space cannot merge by 'slerp'."),
        ("core-space", {"inner": "ties", "space": "core"}, "core-space has a space of its own."),
        ("core-space", {"inner": "tsv", "density": "1/2"}, "tsv has no parameter 'density'."),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence_with_a_next_step(name, options, sentence):
    with pytest.raises(UsageError) as raised:
        strategy(name, options)
    assert raised.value.message == sentence
    assert raised.value.hint or "between" in sentence


@pytest.mark.parametrize("record", [None, [], {}, {"name": "ties"}, {"name": 3, "configuration": {}},
                                    {"name": "ties", "configuration": {}, "more": 1}])  # fmt: skip
def test_malformed_records_are_corrupt(record):
    with pytest.raises(CorruptionError):
        strategy_of(record)


@pytest.mark.parametrize(
    "record", [{"name": "later", "configuration": {}}, {"name": "ties", "configuration": {"new": "1"}}]
)
def test_recipes_of_later_versions_are_refused_by_name(record):
    with pytest.raises(UnsupportedFormatError, match=f"'{record['name']}'"):
        strategy_of(record)


@dataclass
class Point:
    name: str
    held: object

    def load(self):
        return self.held


def test_packages_add_strategies_under_their_own_names(monkeypatch):
    points = [Point("acme.dare", Dare), Point("later", Dare), Point("ties", Dare)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "erestore.strategies" else [])
    for cached in (registry._offered, registry._class):
        cached.cache_clear()
    try:
        assert isinstance(strategy("acme.dare", {"seed": "1"}), Dare)
        assert isinstance(strategy("ties", {}), Ties)
        with pytest.raises(UsageError, match="'later'"):
            strategy("later", {})
    finally:
        for cached in (registry._offered, registry._class):
            cached.cache_clear()


@pytest.mark.parametrize("text", ["1e1000", "1e-9999999", "-0.5E+0_012_34", "1e999999999999999"])
def test_absurd_exponents_are_not_computed(text, monkeypatch):
    """Ten to their power would be: for seconds, or for ever."""
    monkeypatch.setattr(configuration, "Fraction", pytest.fail)
    assert configuration.rational(text) is None


def test_numbers_that_are_not_absurd_are_exact():
    assert configuration.rational("1e-0020") == Fraction(1, 10**20)
    assert configuration.rational("2e0_1") == 20
