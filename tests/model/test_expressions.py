"""Revision expressions as text."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erestore.algebra.expression import is_expression, parse_expression
from erestore.errors import UsageError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.6*a + 0.4*b - c", {"a": "3/5", "b": "2/5", "c": "-1"}),
        ("a + 0.5*(b - a)", {"a": "1/2", "b": "1/2"}),
        ("mean(a, b, c)", {"a": "1/3", "b": "1/3", "c": "1/3"}),
        ("mean(a + b, 2*c)/2", {"a": "1/4", "b": "1/4", "c": "1/2"}),
        ("-a-b + 2*c", {"a-b": "-1", "c": "2"}),
        ("(a + b)/2", {"a": "1/2", "b": "1/2"}),
        ("(a+b) / 4 * 2", {"a": "1/2", "b": "1/2"}),
        ("(a)-b", {"a": "1", "b": "-1"}),
        ("team/a-1~2 + x@{3}", {"team/a-1~2": "1", "x@{3}": "1"}),
        ("1/3*a", {"a": "1/3"}),
        ("a*.5 - 1e-3*a", {"a": "499/1000"}),
        ("2*3*a", {"a": "6"}),
        ("3 + a", {"3": "1", "a": "1"}),
        ("2*3", None),
        ("mean - mean*2", {"mean": "-1"}),
        ("(mean)", {"mean": "1"}),
        ("a - a", {"a": "0"}),
        ("0*a", {"a": "0"}),
    ],
)
def test_what_expressions_mean(text: str, wanted: dict[str, str] | None) -> None:
    if wanted is None:
        with pytest.raises(UsageError, match="number alone"):
            parse_expression(text)
    else:
        found = parse_expression(text)
        assert found == {name: Fraction(value) for name, value in wanted.items()}
        assert list(found) == list(wanted)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too early"),
        ("a +", "too early"),
        ("a b", "'b' is not expected"),
        ("mean()", "not expected"),
        ("mean(a", "not closed"),
        ("(a, b)", "comma"),
        ("a)", "not expected"),
        ("2*a*b", "not linear"),
        ("a * b", "not linear"),
        ("1 / a", "only numbers"),
        ("a / 0", "other than 0"),
        ("1/0*a", "divides by 0"),
        ("(1*2 + a)", "number alone"),
        ("a + $b", "no meaning"),
        ("a; b", "no meaning"),
        ("(" * 60 + "a" + ")" * 60, "deep"),
        ("*".join(["1e99"] * 30) + "*a", "digits"),
        ("9" * 50 + "*a", "number alone|not linear"),
        ("a" * 300_000, "too long"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        parse_expression(text)
    assert refused.value.hint
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("name", ["a", "team/a-b.c", "a~2", "a~", "a@{3}~1", "0" * 64, "5"])
def test_a_name_alone_is_no_expression(name: str) -> None:
    assert not is_expression(name)


@pytest.mark.parametrize("text", ["a + b", "a+b", "-a", "2*a", "(a)", "mean(a,b)", "a - b"])
def test_what_is_an_expression(text: str) -> None:
    assert is_expression(text)


@given(st.text(alphabet="ab12.+-*/() ,~@{}emn", max_size=40))
def test_anything_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_expression(text)
    except UsageError:
        return
    assert found
    assert all(isinstance(value, Fraction) for value in found.values())


numbers = st.fractions(min_value=-9, max_value=9, max_denominator=9)
names = st.sampled_from(["a", "b", "c-d", "e/f"])


@given(st.lists(st.tuples(numbers, names), min_size=1, max_size=8))
def test_sums_add_up(terms: list[tuple[Fraction, str]]) -> None:
    text = " + ".join(f"(0*a - {abs(value)}*{name})" if value < 0 else f"{value}*{name}" for value, name in terms)
    found = parse_expression(text)
    for name in {name for _, name in terms}:
        assert found[name] == sum(value for value, own in terms if own == name)
