"""``merge``, ``soup``, ``cherry-pick`` and ``revert`` on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny
from commands import Here

from erestore.api import Store
from erestore.cli.merges import LINEAR, OTHERS
from erestore.merge.registry import BUILT_IN


@pytest.fixture(scope="module")
def prepared_pair(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = shutil.copytree(prepared, tmp_path_factory.mktemp("pair") / "work")
    store, base = Store.open(directory / ".erestore"), tiny.base_weights()
    for number, name in enumerate(("one", "two"), 5):
        tiny.write_model(directory / name, tiny.tuned(base, number))
        store.commit(directory / name, base="base")
    return directory


@pytest.fixture
def work(prepared_pair: Path, empty: Here) -> Here:
    """With `one` and `two`, whose heads are alike, beside `ft` and `more`."""
    return empty.refill(prepared_pair)


def test_the_strategies_of_the_help_are_those_there_are() -> None:
    assert BUILT_IN == LINEAR + OTHERS


def test_a_merge_in_words_and_in_json(work: Here) -> None:
    ran = work.run("merge", "one", "two", "--name", "both", "-m", "the two")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("[both ")
    assert "2 residuals of base" in lines[0]
    assert "relative error at most" in lines[1]
    assert lines[2] == "  1/2 one, 1/2 two"
    found = work.json("merge", "one", "two", "--strategy", "weighted", "--weights", "3, 1", "--name", "weighted")
    assert found["coefficients"] == {"one": "3/4", "two": "1/4"}
    assert {
        "commit",
        "ref",
        "base",
        "parents",
        "stored_bytes",
        "original_bytes",
        "relative_error",
        "exact",
        "tensors",
    } <= set(found)
    assert "Already up to date" in work.run("merge", "one", "two", "--name", "both").out
    shown = work.run("show", "both").out
    assert "merged from" in shown
    assert work.json("show", "both")["recipe"]["operands"][0]["name"] == "one"
    assert "merged" in work.run("log").out


def test_an_expression_and_its_undo(work: Here) -> None:
    assert work.run("merge", "one + 0.5*(two - one)", "--name", "between").code == 0
    found = work.json("merge", "between", "--undo", "two")
    assert found["coefficients"] == {"one": "1/2"}
    assert work.run("undo").code == 0
    assert work.json("show", "between")["recipe"]["operands"][1]["name"] == "two"
    for unknown in ("more", "zzzzz"):
        ran = work.run("merge", "between", "--undo", unknown)
        assert (ran.code, "Its operands are one, two" in ran.err) == (3, True)
    assert "not a branch" in work.run("merge", "between~1", "--undo", "two").err
    assert work.run("merge", "one", "--undo", "two").code == 2
    assert work.run("merge", "between", "--undo", "two", "--name", "x").code == 2


def test_conflicts_are_listed(work: Here) -> None:
    shutil.copytree(work.directory / "one", work.directory / "other")
    tensors = tiny.tuned(tiny.base_weights(), 9)
    del tensors["head.weight"]
    tiny.write_model(work.directory / "headless", tensors)
    assert work.run("commit", "headless", "--base", "base").code == 0
    ran = work.run("merge", "one", "headless", "--name", "x")
    assert (ran.code, ran.out) == (5, "")
    assert "as they are: head.weight: only 'one' has it, and it would be scaled by 1/2." in ran.err
    assert "--ours" in ran.err
    as_json = work.run("merge", "one", "headless", "--name", "x", "--json")
    assert as_json.code == 5
    (conflict,) = json.loads(as_json.out)["conflicts"]
    assert (conflict["kind"], conflict["subject"], conflict["operands"]) == ("tensor", "head.weight", ["one"])
    done = work.run("merge", "one", "headless", "--name", "x", "--ours")
    assert done.code == 0
    assert "Resolved as requested: head.weight" in done.err
    ran = work.run("checkout", "mean(one, headless)", "out")
    assert (ran.code, "erestore merge" in ran.err) == (5, True)
    assert not (work.directory / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("merge", "one", "two"), 2, "--name"),
        (("merge", "one", "nothing", "--name", "x"), 3, "nothing"),
        (("merge", "one", "two", "--name", "x", "--weights", "1"), 2, "1 weights"),
        (("merge", "one", "two", "--name", "x", "--weights", "a,b"), 2, "not a weight"),
        (("merge", "one", "two", "--name", "x", "--strategy", "best"), 2, "no strategy"),
        (("merge", "one", "two", "--name", "x", "--option", "t"), 2, "KEY=VALUE|decay=0.9"),
        (("merge", "one +", "--name", "x"), 2, "not an expression"),
        (("merge", "one * two", "--name", "x"), 2, "not linear"),
        (("merge", "one", "two", "--name", "v1"), 5, "tag"),
        (("merge", "one", "two", "--name", "base"), 5, "a base"),
        (("soup", "one", "--name", "x", "--minimise"), 2, "--eval"),
        (("soup", "one", "two", "--name", "x", "--eval", "true"), 2, "{path}"),
        (("soup", "one", "two", "--name", "x", "--eval", "echo {path} words"), 2, "no number"),
        (("soup", "one", "two", "--name", "x", "--eval", "exit 3 {path}"), 2, "exit code 3"),
        (("merge", "one", "two", "--name", "x", "--ours", "--theirs"), 2, "--ours and --theirs exclude each other"),
        (("soup", "one", "two", "--name", "x", "--drop", "--ours"), 2, "--ours and --drop exclude each other"),
        (("cherry-pick", "two", "--onto", "one~0"), 2, "Add --name REF"),
        (("revert", "two", "--on", "one~0"), 2, "Add --name REF"),
        (("cherry-pick", "base", "--onto", "one"), 2, "changes nothing"),
        (("cherry-pick", "one + two", "--onto", "one"), 2, "expression"),
        (("revert", "one + two"), 2, "expression"),
        (("branch", "x", "one + two"), 2, "expression"),
        (("show", "one + two"), 2, "expression"),
        (("checkout", "one + two"), 2, "no name to make a directory of"),
        (("checkout", "one + nothing", "out"), 3, "nothing"),
    ],
)
def test_bad_input_gets_a_sentence(work: Here, arguments: tuple[str, ...], code: int, words: str) -> None:
    before = work.json("log")
    ran = work.run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert any(word in ran.err for word in words.split("|")), ran.err
    assert "hint:" in ran.err
    assert work.json("log") == before


SCORE = """
import sys
from safetensors.torch import load_file

wanted, found = (load_file(f"{folder}/model.safetensors") for folder in ("two", sys.argv[1]))
print("loss", sum(float((found[name].float() - tensor.float()).square().sum()) for name, tensor in wanted.items()))
"""


def test_a_greedy_soup_by_a_command(work: Here) -> None:
    (work.directory / "score.py").write_text(SCORE)
    command = f"{sys.executable} score.py {{path}}"
    found = work.run("soup", "one", "two", "ft", "--name", "best", "--minimise", "--eval", command, "--json")
    assert found.code == 0, found.err
    data = json.loads(found.out)
    assert [run["operands"] for run in data["tried"][:3]] == [["one"], ["two"], ["ft"]]
    assert data["coefficients"] == {"two": "1"}
    assert "eval: two, one: " in found.err
    assert "not kept" in found.err
    assert work.json("show", "best")["recipe"]["tried"][1]["kept"] is True
    shown = work.run("show", "best").out
    assert "Operands: 1 two" in shown
    assert "Tried:    two, one: " in shown
    plain = work.json("soup", "one", "two", "ft", "--name", "all")
    assert set(plain["coefficients"].values()) == {"1/3"}


def test_picks_and_reverts(work: Here) -> None:
    assert work.json("cherry-pick", "more", "--onto", "one", "--name", "picked")["edge"] == "picked"
    assert work.json("revert", "picked")["edge"] == "reverted"
    assert work.json("diff", "picked", "one", "--tensors", "*dense*")["tensors"][0]["status"] == "unchanged"
    ran = work.run("revert", "more", "--on", "more", "--name", "back")
    assert ran.code == 0
    assert work.json("show", "back")["terms"] == work.json("show", "ft")["terms"] or "back" in ran.out
    graph = work.run("log", "--graph", "picked").out
    assert "reverted" in graph


def test_exact_remainders_that_are_left_out_are_named(work: Here) -> None:
    for name in ("one", "two"):
        tensors = tiny.tuned(tiny.tuned(tiny.base_weights(), 5 if name == "one" else 6), 7)
        tiny.write_model(work.directory / f"exact-{name}", tensors)
        assert work.run("commit", f"exact-{name}", "--parent", name, "--exact").code == 0
    for verb in (
        ("merge", "one", "exact-one"),
        ("merge", "one", "exact-one", "--strategy", "ties"),
        ("merge", "exact-one", "--strategy", "ties", "--option", "density=1"),
        ("soup", "one", "exact-one"),
        ("cherry-pick", "two", "--onto", "exact-one", "--drop"),
        ("revert", "one", "--on", "exact-one", "--drop"),
    ):
        ran = work.run(*verb, "--name", "said")
        assert ran.code == 0, ran.err
        assert "Exact remainders do not apply to the result and were left out (exact-one)." in ran.err
        assert work.json(*verb, "--name", "listed")["loses_exact"] == ["exact-one"]


def test_a_strategy_reports_the_weights_that_it_was_given(work: Here) -> None:
    ran = work.run("merge", "one", "two", "--strategy", "ties", "--name", "elected")
    assert ran.out.splitlines()[-1] == "  1 one, 1 two"
    assert work.json("merge", "one", "two", "--strategy", "ties", "--name", "elected")["coefficients"] == {
        "one": "1",
        "two": "1",
    }
    assert work.json("show", "elected")["recipe"]["operands"][0]["weight"] == "1"


def test_many_parents_are_counted_and_not_all_shown(work: Here) -> None:
    names = ["one", "two", "ft", "more", *(f"run-{number}" for number in range(5))]
    for number, name in enumerate(names[4:], 20):
        tiny.write_model(work.directory / name, tiny.tuned(tiny.base_weights(), number))
        assert work.run("commit", name, "--base", "base").code == 0
    assert work.run("soup", *names, "--name", "soup", "--drop").code == 0
    for command in (("show", "soup"), ("log", "soup", "-n", "1")):
        (edge,) = [line for line in work.run(*command).out.splitlines() if line.startswith("Edge:")]
        assert edge.count(",") == 4
        assert edge.endswith(" and 4 more")
    assert len(work.json("show", "soup")["parents"]) == len(work.json("log", "soup")[0]["parents"]) == 9
    drawn = work.run("log", "soup", "--graph", "--oneline").out.splitlines()
    assert max(len(line) - len(line.lstrip("*|/\\_ ")) for line in drawn) <= 14  # five columns
    assert "(4 more parents, without lines to them)" in "\n".join(drawn)
    assert sum("*" in line for line in drawn) == len(work.json("log", "soup"))


RECIPE = """
models:
  - model: one
    parameters: {weight: 0.25}
  - model: two
    parameters: {weight: 0.75}
merge_method: linear
"""


def test_a_recipe_of_mergekit(work: Here) -> None:
    recipe = work.directory / "recipe.yaml"
    recipe.write_text(RECIPE)
    ran = work.run("merge", "--recipe", "recipe.yaml", "--name", "both")
    assert (ran.code, ran.err) == (0, "")
    assert "1/4 one, 3/4 two" in ran.out
    assert work.json("merge", "one", "two", "--strategy", "weighted", "--weights", "1/4,3/4", "--name", "both")[
        "unchanged"
    ]
    found = work.json("merge", "--recipe", recipe, "--name", "both")
    assert (found["unchanged"], found["differs"]) == (True, "")
    assert work.json("merge", "both", "--undo", "two")["coefficients"] == {"one": "1"}
    recipe.write_text(
        "merge_method: slerp\nbase_model: one\nparameters: {t: 0.1}\nmodels: [{model: one}, {model: two}]"
    )
    ran = work.run("merge", "--recipe", "recipe.yaml", "--name", "between", "-m", "a message")
    assert "note: This differs from mergekit's result: mergekit interpolates" in ran.err
    assert work.json("log", "between")[0]["message"] == "a message"
    assert "whole weights" in work.json("merge", "--recipe", recipe, "--name", "between")["differs"]
    tensors = tiny.tuned(tiny.base_weights(), 9)
    del tensors["head.weight"]
    tiny.write_model(work.directory / "headless", tensors)
    assert work.run("commit", "headless", "--base", "base").code == 0
    recipe.write_text(RECIPE.replace("two", "headless"))
    as_data = work.run("merge", "--recipe", "recipe.yaml", "--name", "x", "--json")
    assert (as_data.code, json.loads(as_data.out)["conflicts"][0]["subject"]) == (5, "head.weight")
    assert work.run("merge", "--recipe", "recipe.yaml", "--name", "x", "--theirs").code == 0
    recipe.write_text(RECIPE.replace("merge_method: linear", "merge_method: ties\nbase_model: base"))
    assert work.run("merge", "--recipe", "recipe.yaml", "--name", "few", "--max-error", "0.01").code == 0
    recipe.write_text(RECIPE + "slices: []\n")
    for arguments, code, words in (
        (("--recipe", "recipe.yaml", "--name", "x"), 2, "`slices`"),
        (("--recipe", "recipe.yaml"), 2, "--name"),
        (("--recipe", "nothing.yaml", "--name", "x"), 3, "no file"),
        (("--recipe", ".", "--name", "x"), 10, "cannot be read"),
        (("one", "--recipe", "recipe.yaml", "--name", "x"), 2, "--recipe says"),
        (("--recipe", "recipe.yaml", "--name", "x", "--strategy", "ties"), 2, "--recipe says"),
        (("both", "--recipe", "recipe.yaml", "--undo", "one"), 2, "--undo takes"),
        (("--name", "x"), 2, "nothing to merge"),
    ):
        ran = work.run("merge", *arguments)
        assert (ran.code, ran.out) == (code, "")
        assert words in ran.err
        assert "hint:" in ran.err
